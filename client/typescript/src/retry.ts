/** How long a call may take, which failures it tries again, and when. */

import { defaultMaxListeners, getMaxListeners, setMaxListeners } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";

import { DeadlineExceededError, ManagerClosedError, UserServiceError } from "./errors.js";

const FIRST_DELAY_MS = 50;
const LONGEST_DELAY_MS = 1000;

/** The longest delay that timers of JavaScript hold, a little less than 25 days. */
const LONGEST_TIMEOUT_MS = 2 ** 31 - 1;

/**
 * Returns the timeout, in milliseconds.
 *
 * @throws RangeError if it is not above 0 or longer than timers can wait: every call has a deadline.
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
 * whether its reason is one that the managers retry. An error without a reason does not come from the service: gRPC or a
 * proxy made it. A connection that is cut during a call can show as INTERNAL or CANCELLED (a stream reset, see gRPC's
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
 * Lets many calls share one signal, as Node's own `fetch` does: Node warns of a leak at the eleventh listener. A limit
 * that the caller has set stays.
 */
function allowListeners(signal: AbortSignal | undefined): void {
  try {
    if (signal !== undefined && getMaxListeners(signal) === defaultMaxListeners) {
      setMaxListeners(0, signal);
    }
  } catch {
    // Not a signal of Node itself, so it does not count its listeners.
  }
}

/**
 * The attempts at one call: one deadline over all of them, and a growing, random pause between two.
 *
 * The pause is drawn from 0 to 50 ms, 100 ms, 200 ms … up to 1 s ("full jitter"), so that many clients of a server
 * that went away do not come back in step; where the service names a delay, that is added.
 */
export class Attempts {
  readonly #deadline: number;
  #failures = 0;
  #last: UserServiceError | undefined;

  /**
   * @param timeoutMs - Milliseconds that all attempts together may take.
   * @param signal - Ends the attempts when it is aborted.
   * @throws RangeError if the timeout cannot be used.
   */
  constructor(
    timeoutMs: number,
    readonly signal?: AbortSignal,
  ) {
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
   * @param error - How the last attempt failed.
   * @throws The error, if another attempt is not worth it or would begin after the deadline; the signal's reason, if
   *   it is aborted.
   */
  async pause(error: unknown): Promise<void> {
    if (!worthRetrying(error)) {
      // That time ran out says less than what kept the earlier attempts from succeeding.
      throw error instanceof DeadlineExceededError ? (this.#last ?? error) : error;
    }
    this.#last = error;
    const suggested = error.retryDelayMs ?? 0;
    const room = this.remaining - suggested;
    if (room < FIRST_DELAY_MS) {
      throw error;
    }
    // Never past the deadline: the last attempt is to come near its end, not long before it.
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
