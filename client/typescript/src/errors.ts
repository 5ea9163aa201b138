/**
 * The errors of the client: one class for each error reason of the service, under one base class.
 *
 * Catch the class of one condition, or `UserServiceError` for all conditions. A program that compares a text should use
 * `reason`, which is part of the contract; `message` is for people and may change.
 */

import {
  type ErrorClass,
  InvalidArgumentError,
  type StatusCode,
  UnavailableError,
  UserServiceError,
} from "./error_base.js";
import * as classes from "./error_classes.js";

export * from "./error_base.js";
export * from "./error_classes.js";

/** The manager was closed before or during the call. */
export class ManagerClosedError extends UserServiceError {
  static override readonly code = "CANCELLED";
}

/** The error class of each reason. */
export const ERROR_BY_REASON: ReadonlyMap<string, ErrorClass> = new Map(
  [InvalidArgumentError, ...Object.values(classes)].map((error): [string, ErrorClass] => [error.reason, error]),
);

/** The error class of each code, for errors without a reason, which are created by gRPC itself or by a proxy. */
export const ERROR_BY_CODE: ReadonlyMap<StatusCode, ErrorClass> = new Map(
  [InvalidArgumentError, UnavailableError, classes.DeadlineExceededError, classes.InternalError].map(
    (error): [StatusCode, ErrorClass] => [error.code, error],
  ),
);
