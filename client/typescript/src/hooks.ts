/** The option `onCall` of the managers: a hook that observes every attempt of every call. */

import type { StatusCode } from "./error_base.js";

/**
 * An attempt of a call, passed to the hook `onCall` before it is sent. A call that is repeated, and a stream that is
 * resumed, has several attempts.
 */
export interface CallAttempt {
  /** The full name of the method, such as `userservice.v1.UserService/GetUser`. */
  readonly method: string;
  /** The address of the manager. */
  readonly address: string;
  /** Headers that the hook may add to the attempt, by lower-case name. */
  readonly headers: Record<string, string>;
}

/** Called once at the end of an attempt, with its status code and its duration in milliseconds. */
export type CallEnd = (code: StatusCode, durationMs: number) => void;

/**
 * Called before each attempt of a call; can return a function for its end. Both functions must be fast and must not
 * throw.
 */
export type OnCall = (attempt: CallAttempt) => CallEnd | undefined;
