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
 * Returns whether the same call may succeed later.
 *
 * Every call can be repeated safely: reads change nothing, and writes carry a request_id. The class of the error says
 * whether its reason is one that the managers retry. An error without a reason does not come from the service: gRPC or
 * a proxy made it. A connection that is cut during a call can show as INTERNAL or CANCELLED (a stream reset, see gRPC's
 * HTTP/2 mapping) or as UNKNOWN with "Stream removed"; these are retried as well.
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
  // Without a reason, a proxy in front of the service rejected the credential.
  return (
    error instanceof CredentialsInvalidError ||
    (error instanceof UserServiceError && error.code === "UNAUTHENTICATED" && error.reason === "")
  );
}

/**
 * The attempts of one call: they share one deadline, and pauses between them are random and grow.
 *
 * A pause is drawn from 0 to 50 ms, 100 ms, 200 ms … up to 1 s ("full jitter"), so that the clients of a restarted
 * server do not all retry at the same time. If the service suggests a delay, the delay is added to the pause.
 *
 * If the service rejects a credential and the token comes from a function, the call is repeated once without a pause.
 */
export class Attempts {
  readonly #deadline: number;
  #failures = 0;
  #last: UserServiceError | undefined;
  #canRenewToken: boolean;

  /**
   * @param timeoutMs - Timeout of all attempts together, in milliseconds.
   * @param signal - Ends the attempts when the signal is aborted.
   * @param canRenewToken - Whether a new token may be accepted if the token was rejected.
   * @throws RangeError if the timeout is out of range.
   */
  constructor(
    timeoutMs: number,
    readonly signal?: AbortSignal,
    canRenewToken = false,
  ) {
    this.#canRenewToken = canRenewToken;
    this.#deadline = performance.now() + checkTimeout(timeoutMs);
    allowListeners(signal);
  }

  /** Milliseconds until the deadline; 0 after it. */
  get remaining(): number {
    return Math.max(0, this.#deadline - performance.now());
  }

  /**
   * Waits before the next attempt.
   *
   * @param error - The error of the last attempt.
   * @throws The error, if a retry cannot succeed or would start after the deadline; the signal's reason, if the signal
   *   is aborted.
   */
  async pause(error: unknown): Promise<void> {
    if (this.#canRenewToken && isCredentialRejected(error) && this.remaining > 0) {
      this.#canRenewToken = false;
      this.#last = error;
      return;
    }
    if (!worthRetrying(error)) {
      // An expired deadline is less informative than the error of the earlier attempts.
      throw error instanceof DeadlineExceededError ? (this.#last ?? error) : error;
    }
    this.#last = error;
    const suggested = error.retryDelayMs ?? 0;
    const room = this.remaining - suggested;
    if (room < FIRST_DELAY_MS) {
      throw error;
    }
    // The pause never exceeds the deadline, so that the last attempt is made close to it and not long before.
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
