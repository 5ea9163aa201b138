/** From the status of a failed call to the error that the caller sees. */

import { fromBinary } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { status, type StatusObject } from "@grpc/grpc-js";

import {
  ERROR_BY_CODE,
  ERROR_BY_REASON,
  type ErrorDetails,
  type FieldViolation,
  type StatusCode,
  UserServiceError,
} from "./errors.js";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RequestInfoSchema,
  RetryInfoSchema,
} from "./gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "./gen/google/rpc/status_pb.js";

const DETAILS_KEY = "grpc-status-details-bin";
const DOMAIN = "userservice";

/** Codes of calls that never reached the service. A service that uses them itself gives a reason. */
const NOT_REACHED: readonly StatusCode[] = ["UNAVAILABLE", "DEADLINE_EXCEEDED"];

/** A day. A longer delay, which no caller would wait for, counts as this one. */
const LONGEST_RETRY_DELAY_MS = 86_400_000;

/**
 * Makes the error for a failed call.
 *
 * @param failure - The status of the call; its code is not OK.
 * @param proxy - The environment variable that names the proxy on the way, if there is one.
 * @returns An error of the class that belongs to the reason, else to the code, else a `UserServiceError`.
 */
export function errorFromStatus(failure: StatusObject, proxy?: string): UserServiceError {
  const code = ((status as Readonly<Record<number, string>>)[failure.code] as StatusCode | undefined) ?? "UNKNOWN";
  const [encoded] = failure.metadata.get(DETAILS_KEY);
  const details = encoded instanceof Uint8Array ? readDetails(encoded) : {};
  const kind = ERROR_BY_REASON.get(details.reason ?? "") ?? ERROR_BY_CODE.get(code) ?? UserServiceError;
  let message = failure.details || code;
  if (proxy !== undefined && details.reason === undefined && NOT_REACHED.includes(code)) {
    // gRPC's own text may show the proxy's address, and says nothing of why the proxy refused.
    message = `${code === "UNAVAILABLE" ? "the service could not be reached" : "no answer in time"}${viaProxy(proxy)}`;
  }
  // An error without a reason is not the service's own, whatever its class says of the service's.
  return new kind(message, { reason: "", ...details, code });
}

/** Says which proxy is on the way, without the address and password that the variable may hold; empty for none. */
export function viaProxy(proxy: string | undefined): string {
  return proxy === undefined ? "" : ` through the proxy of the environment variable ${proxy}`;
}

function readDetails(encoded: Uint8Array): ErrorDetails {
  const read: { reason?: string; requestId?: string; retryDelayMs?: number; violations?: FieldViolation[] } = {};
  try {
    for (const detail of fromBinary(StatusSchema, encoded).details) {
      const info = anyUnpack(detail, ErrorInfoSchema);
      if (info?.domain === DOMAIN) {
        read.reason = info.reason;
      }
      const bad = anyUnpack(detail, BadRequestSchema);
      if (bad) {
        read.violations = bad.fieldViolations.map(({ field, description }) => ({ field, description }));
      }
      const delay = anyUnpack(detail, RetryInfoSchema)?.retryDelay;
      if (delay) {
        const delayMs = Number(delay.seconds) * 1e3 + delay.nanos / 1e6;
        read.retryDelayMs = Math.min(Math.max(delayMs, 0), LONGEST_RETRY_DELAY_MS);
      }
      const request = anyUnpack(detail, RequestInfoSchema);
      if (request) {
        read.requestId = request.requestId;
      }
    }
  } catch {
    // Details that cannot be read must not hide the error that they belong to.
  }
  return read;
}
