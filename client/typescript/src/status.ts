/** Maps the status of a failed call to an error of the client. */

import { fromBinary, toBinary } from "@bufbuild/protobuf";
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
import { type Status, StatusSchema } from "./gen/google/rpc/status_pb.js";

const DETAILS_KEY = "grpc-status-details-bin";
const DOMAIN = "userservice";

/** Codes that gRPC itself sets if a call does not reach the service. If the service sets them, it adds a reason. */
const NOT_REACHED: readonly StatusCode[] = ["UNAVAILABLE", "DEADLINE_EXCEEDED"];

/** One day. A longer delay is reduced to one day, because no caller would wait longer. */
const LONGEST_RETRY_DELAY_MS = 86_400_000;

/**
 * Returns the error for a failed call.
 *
 * @param failure - The status of the call; its code is not OK.
 * @param proxy - The environment variable that configures the proxy of the connection; undefined without a proxy.
 * @returns An error of the class of the reason; if there is none, of the class of the code; otherwise a
 *   `UserServiceError`.
 */
export function errorFromStatus(failure: StatusObject, proxy?: string): UserServiceError {
  const code = codeName(failure.code);
  const [encoded] = failure.metadata.get(DETAILS_KEY);
  const details = encoded instanceof Uint8Array ? readDetails(encoded) : {};
  const kind = ERROR_BY_REASON.get(details.reason ?? "") ?? ERROR_BY_CODE.get(code) ?? UserServiceError;
  let message = failure.details || code;
  if (proxy !== undefined && details.reason === undefined && NOT_REACHED.includes(code)) {
    // gRPC's own text can contain the proxy's address, and does not say why the proxy rejected the call.
    message = `${code === "UNAVAILABLE" ? "the service could not be reached" : "no answer in time"}${viaProxy(proxy)}`;
  }
  // An error without a reason does not come from the service, so it must not get the reason of its class.
  return new kind(message, { reason: "", ...details, code });
}

/** Returns the error for a row of an import that failed. */
export function errorOfRow(failure: Status): UserServiceError {
  const code = codeName(failure.code);
  const details = readDetails(toBinary(StatusSchema, failure));
  const kind = ERROR_BY_REASON.get(details.reason ?? "") ?? ERROR_BY_CODE.get(code) ?? UserServiceError;
  return new kind(failure.message || code, { reason: "", ...details, code });
}

/** Returns a text with the name of the proxy's variable; empty without a proxy. The value may contain a password. */
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
    // If the details cannot be decoded, the caller still gets the error with its code and message.
  }
  return read;
}

/** Returns the name of a status code; UNKNOWN, if the number has none. */
export function codeName(code: number): StatusCode {
  return ((status as Readonly<Record<number, string>>)[code] as StatusCode | undefined) ?? "UNKNOWN";
}
