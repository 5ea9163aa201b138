/**
 * The errors of the client: one class for each row of the service's error table, under one base.
 *
 * Catch the class of the condition, or `UserServiceError` for all of them. A program that switches on text should use
 * `reason`, which is part of the contract; `message` is for people and may change.
 */

import type { status } from "@grpc/grpc-js";

/** The name of a gRPC status code, such as `NOT_FOUND`. */
export type StatusCode = keyof typeof status;

/** One bad field of a request. */
export interface FieldViolation {
  /** Path of the field, such as `email` or `metadata.address.lines[3]`. */
  readonly field: string;
  /** What is wrong with it, naming the limit. */
  readonly description: string;
}

/** What is known of an error beside its message. What is left out is as the class says. */
export interface ErrorDetails {
  readonly code?: StatusCode;
  readonly reason?: string;
  readonly requestId?: string;
  readonly retryDelayMs?: number | undefined;
  readonly violations?: readonly FieldViolation[];
  readonly cause?: unknown;
}

/** Base of all errors that a call throws, and the class of errors that have no class of their own. */
export class UserServiceError extends Error {
  /** The code of errors of this class, unless the service said otherwise. */
  static readonly code: StatusCode = "UNKNOWN";
  /** The reason of errors of this class. */
  static readonly reason: string = "";

  /** The gRPC status code. */
  readonly code: StatusCode;
  /**
   * The condition as the service names it, such as `USER_NOT_FOUND`; empty if the error is not the service's own, as
   * when it could not be reached.
   */
  readonly reason: string;
  /** The service's name for the failed call, to be found in its log; empty if it never got there. */
  readonly requestId: string;
  /** Milliseconds after which the service suggests to try again; undefined if it does not. */
  readonly retryDelayMs: number | undefined;

  constructor(message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = new.target.name;
    this.code = details.code ?? new.target.code;
    this.reason = details.reason ?? new.target.reason;
    this.requestId = details.requestId ?? "";
    this.retryDelayMs = details.retryDelayMs;
  }
}

/** A request has bad fields: refused by the service, or by the client before anything was sent. */
export class InvalidArgumentError extends UserServiceError {
  static override readonly code = "INVALID_ARGUMENT";
  static override readonly reason = "INVALID_FIELD";

  /** Every bad field that was found, never only the first. */
  readonly violations: readonly FieldViolation[];

  constructor(message: string, details: ErrorDetails = {}) {
    super(message, details);
    this.violations = details.violations ?? [];
  }
}

/** There is no user of that user_id. */
export class UserNotFoundError extends UserServiceError {
  static override readonly code = "NOT_FOUND";
  static override readonly reason = "USER_NOT_FOUND";
}

/** The user exists but has no session of that session_id. */
export class SessionNotFoundError extends UserServiceError {
  static override readonly code = "NOT_FOUND";
  static override readonly reason = "SESSION_NOT_FOUND";
}

/** There is a user of that user_id already. */
export class UserAlreadyExistsError extends UserServiceError {
  static override readonly code = "ALREADY_EXISTS";
  static override readonly reason = "USER_ALREADY_EXISTS";
}

/** The user has a session of that session_id already. */
export class SessionAlreadyExistsError extends UserServiceError {
  static override readonly code = "ALREADY_EXISTS";
  static override readonly reason = "SESSION_ALREADY_EXISTS";
}

/** Somebody else wrote since the etag was read; nothing was changed. */
export class EtagMismatchError extends UserServiceError {
  static override readonly code = "ABORTED";
  static override readonly reason = "ETAG_MISMATCH";
}

/** The write lost too many races against other writes of the same record; nothing was changed. */
export class UpdateConflictError extends UserServiceError {
  static override readonly code = "ABORTED";
  static override readonly reason = "UPDATE_CONFLICT";
}

/** The request_id was used within the last 10 minutes for a different request; nothing was changed. */
export class RequestIdReusedError extends UserServiceError {
  static override readonly code = "FAILED_PRECONDITION";
  static override readonly reason = "REQUEST_ID_REUSED";
}

/** The service's store has no room left; nothing was changed. */
export class StoreFullError extends UserServiceError {
  static override readonly code = "RESOURCE_EXHAUSTED";
  static override readonly reason = "STORE_FULL";
}

/** A bug of the service, or an answer that the client cannot make sense of. */
export class InternalError extends UserServiceError {
  static override readonly code = "INTERNAL";
  static override readonly reason = "INTERNAL";
}

/** The service could not be reached or went away, and retries until the deadline did not help. */
export class UnavailableError extends UserServiceError {
  static override readonly code = "UNAVAILABLE";
}

/** The service runs but its store is away, slow, loading or read-only. */
export class StoreUnavailableError extends UnavailableError {
  static override readonly reason = "STORE_UNAVAILABLE";
}

/** The server is shutting down. It ends streams so, between two chunks; `listChunked` resumes by itself. */
export class ServerShuttingDownError extends UnavailableError {
  static override readonly reason = "SERVER_SHUTTING_DOWN";
}

/** The service ended a stream that was not read for too long; `listChunked` resumes by itself. */
export class ReaderStalledError extends UnavailableError {
  static override readonly reason = "READER_STALLED";
}

/** The service runs as many calls as it takes on; nothing was done. Tried again until the deadline. */
export class OverloadedError extends UserServiceError {
  static override readonly code = "RESOURCE_EXHAUSTED";
  static override readonly reason = "OVERLOADED";
}

/** No answer in time. Whether a write was applied is unknown; repeating it with its request_id is safe. */
export class DeadlineExceededError extends UserServiceError {
  static override readonly code = "DEADLINE_EXCEEDED";
}

/** The manager was closed before or during the call. */
export class ManagerClosedError extends UserServiceError {
  static override readonly code = "CANCELLED";
}

/** A class of errors: its own row of the table, and how to make one. */
export type ErrorClass = typeof UserServiceError;

/** The one table from what the service sends to what the client throws. */
export const ERROR_BY_REASON: ReadonlyMap<string, ErrorClass> = new Map(
  [
    InvalidArgumentError,
    UserNotFoundError,
    SessionNotFoundError,
    UserAlreadyExistsError,
    SessionAlreadyExistsError,
    EtagMismatchError,
    UpdateConflictError,
    RequestIdReusedError,
    StoreUnavailableError,
    StoreFullError,
    ServerShuttingDownError,
    ReaderStalledError,
    OverloadedError,
    InternalError,
  ].map((error): [string, ErrorClass] => [error.reason, error]),
);

/** For errors that carry no reason, made by gRPC itself or by a proxy on the way. */
export const ERROR_BY_CODE: ReadonlyMap<StatusCode, ErrorClass> = new Map(
  [InvalidArgumentError, UnavailableError, DeadlineExceededError, InternalError].map(
    (error): [StatusCode, ErrorClass] => [error.code, error],
  ),
);
