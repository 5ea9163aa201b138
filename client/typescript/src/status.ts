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

/**
 * Makes the error for a failed call.
 *
 * @param failure - The status of the call; its code is not OK.
 * @returns An error of the class that belongs to the reason, else to the code, else a `UserServiceError`.
 */
export function errorFromStatus(failure: StatusObject): UserServiceError {
  const code = ((status as Readonly<Record<number, string>>)[failure.code] as StatusCode | undefined) ?? "UNKNOWN";
  const [encoded] = failure.metadata.get(DETAILS_KEY);
  const details = encoded instanceof Uint8Array ? readDetails(encoded) : {};
  const kind = ERROR_BY_REASON.get(details.reason ?? "") ?? ERROR_BY_CODE.get(code) ?? UserServiceError;
  // An error without a reason is not the service's own, whatever its class says of the service's.
  return new kind(failure.details || code, { reason: "", ...details, code });
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
        read.retryDelayMs = Number(delay.seconds) * 1e3 + delay.nanos / 1e6;
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
