/** The option `shareReads`: concurrent gets of a manager share calls. */

import { checkBatch, decodeAnswer, onlyRecord } from "./answers.js";
import type { Connection } from "./connection.js";
import { InvalidArgumentError, ManagerClosedError, UserNotFoundError, UserServiceError } from "./errors.js";
import { Gathering } from "./gathering.js";
import { UserService } from "./gen/userservice/v1/user_service_pb.js";
import type { User } from "./models.js";
import { readUser } from "./records.js";
import { encodeRequest, type View } from "./requests.js";
import type { Attempts } from "./retry.js";

const { method } = UserService;

/** The outcome of a shared call for one user_id: the user, the error of the call, or the next step of the get. */
type Outcome =
  | { readonly user: User; isTaken: boolean }
  | { readonly error: unknown }
  /** No user has this user_id. */
  | "missing"
  /** The get must make a call of its own, which returns its result or error. */
  | "alone"
  /** The get can share another call, because this call failed for another user_id. */
  | "again";

/** The gets that may share calls, by their view: gets with the same token and headers. */
class Gatherings {
  readonly byView: Readonly<Record<View, Gathering<Outcome>>>;

  /**
   * @param connection - A connection with this token and these headers.
   */
  constructor(connection: Connection) {
    const gathering = (view: View | undefined): Gathering<Outcome> =>
      new Gathering((user_ids, timeoutMs, signal) => send(connection, user_ids, view, timeoutMs, signal));
    this.byView = { FULL: gathering(undefined), BASIC: gathering("BASIC"), ID: gathering("ID") };
  }
}

/** The gatherings of several managers by `Connection.caller`. */
type AllGatherings = Map<string, WeakRef<Gatherings>>;

/** Removes the keys of gatherings that no manager uses. */
const COLLECTED = new FinalizationRegistry<{ readonly all: AllGatherings; readonly key: string }>(({ all, key }) => {
  if (all.get(key)?.deref() === undefined) {
    all.delete(key);
  }
});

/**
 * Sends concurrent gets as one BatchGetUsers. If there is only one get, it is sent as a GetUser.
 *
 * Each get has its own result, error, deadline, signal and retries. If a shared call fails with an error that is not
 * retried, each of its gets makes a call of its own. Therefore a get cannot fail because of another get.
 *
 * Gets of managers that share connections (see `withOptions`) share calls if the managers send the same token and
 * headers. Timeouts and retries may differ, because each get has its own.
 */
export class SharedReads {
  /** Weak references, so that a program can use any number of tokens one after the other. */
  readonly #all: AllGatherings;
  readonly #gets: Gatherings;

  /**
   * @param connection - The connection of the manager.
   * @param relative - The shared reads of a manager that shares its connections with this manager, if there is one.
   */
  constructor(
    private readonly connection: Connection,
    relative?: SharedReads,
  ) {
    this.#all = relative === undefined ? new Map<string, WeakRef<Gatherings>>() : relative.#all;
    this.#gets = this.#find(connection);
  }

  /**
   * Returns a user.
   *
   * @throws UserServiceError if the get failed; the signal's reason, if the signal of the attempts was aborted.
   */
  async get(user_id: string, view: View, attempts: Attempts): Promise<User> {
    const request = encodeRequest(method.getUser.input, { user_id, view });
    for (;;) {
      this.connection.checkOpen();
      attempts.signal?.throwIfAborted();
      let outcome: Outcome;
      try {
        outcome = await this.#gets.byView[view].outcome(user_id, attempts, () =>
          this.connection.outOfTime("Deadline exceeded"),
        );
      } catch (error) {
        outcome = { error };
      }
      if (outcome === "missing") {
        throw new UserNotFoundError("the user does not exist");
      } else if (outcome === "alone") {
        const response = await this.connection.call(method.getUser, request, attempts);
        return onlyRecord(decodeAnswer(response, readUser), { user_id });
      } else if (typeof outcome === "object" && "user" in outcome) {
        // Each caller gets a separate object, because the caller may change the metadata.
        const user = outcome.isTaken ? outcome.user.copy() : outcome.user;
        outcome.isTaken = true;
        return user;
      } else if (outcome !== "again") {
        await attempts.pause(outcome.error);
      }
    }
  }

  /** Returns the gatherings of the gets with the same token and headers. Creates them if no manager has them. */
  #find(connection: Connection): Gatherings {
    const key = connection.caller;
    const found = this.#all.get(key)?.deref();
    if (found !== undefined) {
      return found;
    }
    const made = new Gatherings(connection);
    this.#all.set(key, new WeakRef(made));
    COLLECTED.register(made, { all: this.#all, key });
    return made;
  }
}

/** Makes one call without retries; returns the outcome of each user_id. */
async function send(
  connection: Connection,
  user_ids: readonly string[],
  view: View | undefined,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<ReadonlyMap<string, Outcome>> {
  try {
    const [user_id] = user_ids;
    if (user_id !== undefined && user_ids.length === 1) {
      const request = encodeRequest(method.getUser.input, { user_id, view });
      const response = await connection.callOnce(method.getUser, request, timeoutMs, signal);
      const user = onlyRecord(decodeAnswer(response, readUser), { user_id });
      return new Map([[user_id, { user, isTaken: false }]]);
    }
    const request = encodeRequest(method.batchGetUsers.input, { user_ids, view });
    const response = await connection.callOnce(method.batchGetUsers, request, timeoutMs, signal);
    const found = decodeAnswer(response, readUser);
    checkBatch(found, user_ids);
    const outcomes = new Map<string, Outcome>(found.missing_user_ids.map((missing) => [missing, "missing"]));
    for (const user of found.records) {
      outcomes.set(user.user_id, { user, isTaken: false });
    }
    return outcomes;
  } catch (error) {
    return outcomesOfFailure(error, user_ids);
  }
}

/** Returns the outcome of each user_id of a call that failed. */
function outcomesOfFailure(error: unknown, user_ids: readonly string[]): ReadonlyMap<string, Outcome> {
  const isShared = (error instanceof UserServiceError && error.retried) || error instanceof ManagerClosedError;
  if (user_ids.length === 1 || isShared) {
    return new Map(user_ids.map((user_id) => [user_id, { error }]));
  }
  const invalid = new Set(
    error instanceof InvalidArgumentError
      ? error.violations.map(({ field }) => /^user_ids\[(\d+)\]$/.exec(field)?.[1])
      : [],
  );
  invalid.delete(undefined);
  return new Map(
    user_ids.map((user_id, position) => [
      user_id,
      invalid.size > 0 && !invalid.has(String(position)) ? "again" : "alone",
    ]),
  );
}
