/** Gathers concurrent requests into shared calls. */

import { AsyncResource } from "node:async_hooks";
import { clearTimeout, setImmediate, setTimeout } from "node:timers";

import type { Attempts } from "./retry.js";

/** Maximum number of requests that share a call. */
const MOST_NAMES = 100;

/** While this number of calls runs, further requests wait. */
const MOST_RUNNING = 1;

/** Milliseconds after which a running call no longer delays other requests. */
const PATIENCE_MS = 20;

/** Makes one call for several names, and returns the outcome of each name. */
export type Send<Outcome> = (
  names: readonly string[],
  timeoutMs: number,
  signal: AbortSignal,
) => Promise<ReadonlyMap<string, Outcome>>;

interface Request<Outcome> {
  readonly name: string;
  readonly attempts: Attempts;
  readonly resolve: (outcome: Outcome) => void;
  readonly reject: (error: unknown) => void;
  /** The asynchronous context of the caller, such as its trace. */
  readonly context: AsyncResource;
  call: Call | undefined;
  isOver: boolean;
}

/** A running call. The call is cancelled if all its callers have stopped waiting. */
interface Call {
  readonly controller: AbortController;
  callers: number;
  occupies: boolean;
}

/**
 * Sends concurrent requests for names in shared calls.
 *
 * A request never joins a call that was already sent, so its outcome is not older than the request. If no call runs, a
 * call is sent at the end of the current turn of the event loop, with all requests of this turn. While a call runs,
 * further requests wait until the call ends, but at most `PATIENCE_MS`. If the waiting requests fill a call, they are
 * sent without waiting.
 */
export class Gathering<Outcome> {
  #waiting: Request<Outcome>[] = [];
  #running = 0;
  #isStarting = false;

  /**
   * @param send - Makes one call for several names.
   */
  constructor(private readonly send: Send<Outcome>) {}

  /**
   * Returns the outcome for a name. Aborting one request has no effect on other requests. If all requests of a call are
   * aborted or have reached their deadlines, the call is aborted.
   *
   * @param attempts - The deadline and the signal of the request.
   * @param outOfTime - Returns the error to throw at the deadline.
   * @throws The error of `outOfTime`; the signal's reason, if the signal is aborted.
   */
  outcome(name: string, attempts: Attempts, outOfTime: () => unknown): Promise<Outcome> {
    return new Promise((resolve, reject) => {
      const { signal } = attempts;
      const finish = (): void => {
        request.isOver = true;
        clearTimeout(timer);
        signal?.removeEventListener("abort", abort);
      };
      const request: Request<Outcome> = {
        name,
        attempts,
        resolve: (outcome) => {
          finish();
          resolve(outcome);
        },
        reject: (error) => {
          finish();
          // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- a signal's reason can be any value
          reject(error);
        },
        call: undefined,
        isOver: false,
        context: new AsyncResource("userservice.get"),
      };
      const abort = (): void => {
        this.#leave(request, signal?.reason);
      };
      const timer = setTimeout(() => {
        this.#leave(request, outOfTime());
      }, attempts.remaining);
      signal?.addEventListener("abort", abort);
      this.#waiting.push(request);
      this.#start();
    });
  }

  #leave(request: Request<Outcome>, error: unknown): void {
    request.reject(error);
    const { call } = request;
    if (call && --call.callers === 0) {
      call.controller.abort(error);
    }
  }

  /** Starts the next call if the waiting requests fill it, or fewer than `MOST_RUNNING` calls count as running. */
  #start(): void {
    const isFull = this.#waiting.length >= MOST_NAMES;
    if (!this.#isStarting && this.#waiting.length > 0 && (isFull || this.#running < MOST_RUNNING)) {
      this.#isStarting = true;
      setImmediate(() => {
        this.#isStarting = false;
        // The context of one of its requests assigns the call to the trace of this request. The present context can be
        // that of an earlier call.
        void this.#waiting[0]?.context.runInAsyncScope(() => this.#run());
        this.#start();
      });
    }
  }

  /** Makes one call for the requests that are waiting. */
  async #run(): Promise<void> {
    const requests = this.#take();
    if (requests.length === 0) {
      return;
    }
    const call: Call = { controller: new AbortController(), callers: requests.length, occupies: true };
    for (const request of requests) {
      request.call = call;
    }
    this.#running += 1;
    const patience = setTimeout(() => {
      this.#release(call);
    }, PATIENCE_MS);
    try {
      const names = [...new Set(requests.map(({ name }) => name))];
      const timeoutMs = requests.reduce((longest, { attempts }) => Math.max(longest, attempts.remaining), 0);
      const outcomes = await this.send(names, timeoutMs, call.controller.signal);
      for (const request of requests) {
        if (!request.isOver) {
          request.resolve(outcomes.get(request.name) as Outcome);
        }
      }
    } catch (error) {
      for (const request of requests) {
        if (!request.isOver) {
          request.reject(error);
        }
      }
    } finally {
      clearTimeout(patience);
      this.#release(call);
    }
  }

  #take(): Request<Outcome>[] {
    const waiting = this.#waiting.filter(({ isOver }) => !isOver);
    this.#waiting = waiting.slice(MOST_NAMES);
    return waiting.slice(0, MOST_NAMES);
  }

  /** Stops counting a call that has ended or has run for `PATIENCE_MS`, and starts the next call. */
  #release(call: Call): void {
    if (call.occupies) {
      call.occupies = false;
      this.#running -= 1;
      this.#start();
    }
  }
}
