/** Deadlines and retries of calls. */

import { defaultMaxListeners, getMaxListeners, setMaxListeners } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";

import { CredentialsInvalidError, DeadlineExceededError, ManagerClosedError, UserServiceError } from "./errors.js";

const FIRST_DELAY_MS = 50;
const LONGEST_DELAY_MS = 1000;

/** The longest delay of JavaScript's timers, a little less than 25 days. */
const LONGEST_TIMEOUT_MS = 2 ** 31 - 1;

/**
 * Checks a timeout in milliseconds, and returns it. A timeout is required, because every call has a deadline.
 *
 * @throws RangeError if the timeout is not above 0, or is longer than JavaScript's timers support.
 */
export function checkTimeout(timeoutMs: number): number {
  if (typeof timeoutMs !== "number" || !(timeoutMs > 0 && timeoutMs <= LONGEST_TIMEOUT_MS)) {
    throw new RangeError(`timeoutMs must be above 0 and at most ${LONGEST_TIMEOUT_MS}, not ${String(timeoutMs)}`);
  }
  return timeoutMs;
}

/**
 * Checks a maximum number of retries. Returns the number, or Infinity if the number is undefined.
 *
 * @throws RangeError if the number is not a whole number, or is negative.
 */
export function checkRetries(retries: number | undefined): number {
  if (retries !== undefined && !(Number.isInteger(retries) && retries >= 0)) {
    throw new RangeError(`retries must be a whole number from 0, not ${String(retries)}`);
  }
  return retries ?? Infinity;
}

/**
 * Returns whether a call that failed with this error is retried.
 *
 * Every call can be repeated safely: reads change nothing, and writes have a request_id. The class of an error defines
 * whether its reason is retried. An error without a reason comes from gRPC or a proxy, not from the service. If a
 * connection is cut during a call, the code can be INTERNAL or CANCELLED (a stream reset, see gRPC's HTTP/2 mapping) or
 * UNKNOWN with "Stream removed"; these are retried too.
 */
export function worthRetrying(error: unknown): error is UserServiceError {
  if (error instanceof UserServiceError && error.retried) {
    return true;
  }
  if (!(error instanceof UserServiceError) || error.reason !== "" || error instanceof ManagerClosedError) {
    return false;
  }
  return (
    error.code === "INTERNAL" ||
    error.code === "CANCELLED" ||
    (error.code === "UNKNOWN" && error.message.includes("Stream removed"))
  );
}

/**
 * Allows any number of calls to share one signal, as Node's `fetch` does. Otherwise Node warns of a memory leak at the
 * eleventh listener. A limit that the caller has set is not changed.
 */
function allowListeners(signal: AbortSignal | undefined): void {
  try {
    if (signal !== undefined && getMaxListeners(signal) === defaultMaxListeners) {
      setMaxListeners(0, signal);
    }
  } catch {
    // The signal is not Node's own class, so Node does not count its listeners.
  }
}

function isCredentialRejected(error: unknown): error is UserServiceError {
  // If the error has no reason, a proxy in front of the service has rejected the credential.
  return (
    error instanceof CredentialsInvalidError ||
    (error instanceof UserServiceError && error.code === "UNAUTHENTICATED" && error.reason === "")
  );
}

/**
 * The attempts of one call: one deadline for all attempts, and a random pause before each retry.
 *
 * The longest pause grows from 50 ms to 100 ms, 200 ms … and 1 s. The pause is random between 0 and this maximum ("full
 * jitter"), so that the clients of a restarted server do not all retry at the same time. If the service suggests a
 * delay, the delay is added to the pause.
 *
 * If the service rejects a credential and the token comes from a function, the call is repeated once without a pause.
 * This repetition counts as a retry.
 */
export class Attempts {
  readonly #deadline: number;
  #failures = 0;
  #last: UserServiceError | undefined;
  #canRenewToken: boolean;
  #retriesLeft: number;

  /**
   * @param timeoutMs - Timeout of all attempts together, in milliseconds.
   * @param signal - Ends the attempts when the signal is aborted.
   * @param canRenewToken - Whether to repeat the call once with a new token if the service rejects the token.
   * @param retries - The maximum number of retries.
   * @throws RangeError if the timeout is out of range.
   */
  constructor(
    timeoutMs: number,
    readonly signal?: AbortSignal,
    canRenewToken = false,
    retries = Infinity,
  ) {
    this.#retriesLeft = retries;
    this.#canRenewToken = canRenewToken;
    this.#deadline = performance.now() + checkTimeout(timeoutMs);
    allowListeners(signal);
  }

  /** Milliseconds to the deadline, never below 0. */
  get remaining(): number {
    return Math.max(0, this.#deadline - performance.now());
  }

  /**
   * Waits before the next attempt.
   *
   * @param error - The error of the last attempt.
   * @throws The error, if it is not retried, if no retries are left, or if the next attempt would start after the
   *   deadline; the signal's reason, if the signal is aborted.
   */
  async pause(error: unknown): Promise<void> {
    const hasRetry = this.#retriesLeft > 0;
    this.#retriesLeft -= 1;
    if (hasRetry && this.#canRenewToken && isCredentialRejected(error) && this.remaining > 0) {
      this.#canRenewToken = false;
      this.#last = error;
      return;
    }
    if (!worthRetrying(error)) {
      // The error of the previous attempt is more informative than a passed deadline.
      throw error instanceof DeadlineExceededError ? (this.#last ?? error) : error;
    }
    this.#last = error;
    const suggested = error.retryDelayMs ?? 0;
    const room = this.remaining - suggested;
    if (!hasRetry || room < FIRST_DELAY_MS) {
      throw error;
    }
    // The pause never exceeds the remaining time, so that the last attempt starts shortly before the deadline.
    const ceiling = Math.min(FIRST_DELAY_MS * 2 ** this.#failures, LONGEST_DELAY_MS, room);
    this.#failures += 1;
    try {
      await sleep(suggested + Math.random() * ceiling, undefined, this.signal ? { signal: this.signal } : {});
    } catch (interruption) {
      this.signal?.throwIfAborted();
      throw interruption;
    }
  }
}
