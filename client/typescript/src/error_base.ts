/** The base classes of the client's errors. `errors.ts` has all public classes. */

import type { status } from "@grpc/grpc-js";

/** The name of a gRPC status code, such as `NOT_FOUND`. */
export type StatusCode = keyof typeof status;

/** One invalid field of a request. */
export interface FieldViolation {
  /** Path of the field, such as `email` or `metadata.address.lines[3]`. */
  readonly field: string;
  /** What is wrong with the field, with its limit. */
  readonly description: string;
}

/** Details of an error in addition to its message. Absent details have the defaults of the class. */
export interface ErrorDetails {
  readonly code?: StatusCode;
  readonly reason?: string;
  readonly requestId?: string;
  readonly retryDelayMs?: number | undefined;
  readonly violations?: readonly FieldViolation[];
  readonly cause?: unknown;
}

/** Base class of all errors that a call throws; also used for errors that have no class of their own. */
export class UserServiceError extends Error {
  /** The code of errors of this class, unless the service sent another code. */
  static readonly code: StatusCode = "UNKNOWN";
  /** The reason of errors of this class. */
  static readonly reason: string = "";
  /** Whether the managers repeat a call that fails with this class of errors, until its deadline. */
  static readonly retried: boolean = false;

  /** The gRPC status code. */
  readonly code: StatusCode;
  /**
   * The error reason, such as `USER_NOT_FOUND`; empty if the error does not come from the service, for example when
   * the service is unavailable.
   */
  readonly reason: string;
  /** The call id in the service's log; empty if the call did not reach the service. */
  readonly requestId: string;
  /** Milliseconds after which the service suggests a retry; undefined if the service suggests no delay. */
  readonly retryDelayMs: number | undefined;

  /** Whether the managers repeat a call that fails with this class of errors, until its deadline. */
  get retried(): boolean {
    return (this.constructor as ErrorClass).retried;
  }

  constructor(message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = new.target.name;
    this.code = details.code ?? new.target.code;
    this.reason = details.reason ?? new.target.reason;
    this.requestId = details.requestId ?? "";
    this.retryDelayMs = details.retryDelayMs;
  }
}

/** The request has invalid fields. The service rejected the request, or the client rejected it before sending it. */
export class InvalidArgumentError extends UserServiceError {
  static override readonly code = "INVALID_ARGUMENT";
  static override readonly reason = "INVALID_FIELD";

  /** The invalid fields of the request. The client reports all invalid fields; the service reports at most 25. */
  readonly violations: readonly FieldViolation[];

  constructor(message: string, details: ErrorDetails = {}) {
    super(message, details);
    this.violations = details.violations ?? [];
  }
}

/** The service is unavailable; retries until the deadline did not succeed. */
export class UnavailableError extends UserServiceError {
  static override readonly code = "UNAVAILABLE";
  static override readonly retried = true;
}

/** A class of errors, with its code and reason. */
export type ErrorClass = typeof UserServiceError;
