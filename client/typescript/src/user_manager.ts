/** `UserManager` manages users and lists their sessions. */

import {
  type Answer,
  checkBatch,
  checkContinues,
  checkDescending,
  checkKey,
  decodeCount,
  decodeParts,
  onlyRecord,
} from "./answers.js";
import type { Changes, WatchOptions } from "./changes.js";
import { ChunkReader } from "./chunks.js";
import type { CallOptions, Connection, ManagerOptions } from "./connection.js";
import { UserService } from "./gen/userservice/v1/user_service_pb.js";
import { Importer, readImport } from "./importing.js";
import type { ImportRow, ImportStatus, ImportUsersOptions } from "./imports.js";
import {
  type ConditionalWriteOptions,
  Manager,
  type ReadOptions,
  type SessionListOptions,
  type WriteOptions,
} from "./manager.js";
import { type Session, SessionPage, type User, UserBatch, UserPage, type UserScanPart } from "./models.js";
import { checkScan, type ListChunkedOptions, PartsReader } from "./parts.js";
import { readSession, readUser } from "./records.js";
import { encodeRequest, type ICreateUserRequest, isList, type IUpdateUserRequest, type OrderBy } from "./requests.js";
import { SharedReads } from "./shared_reads.js";
import { WatchReader } from "./watching.js";

const { method } = UserService;

/** The maximum limit of a page. The service reduces larger limits to it. */
const LARGEST_PAGE = 1000;

/** Options of `UserManager.list`. */
export interface ListOptions extends ReadOptions {
  /**
   * Selects users by their fields, such as `metadata.plan = "pro" AND email : "@example.org"`; see docs/filters.md. A
   * page may then have few users or none and still have a `next_cursor`, and `total_size` is 0.
   */
  filter?: string | undefined;
  /** The order of the users: `id` (the default), or `id desc` for the newest users first. */
  orderBy?: OrderBy | undefined;
}

/** Options of `UserManager.iter`. */
export interface IterOptions extends ListOptions {
  /** Maximum number of users in a chunk or page; default: 1000. */
  chunkSize?: number | undefined;
}

/** Options of a `UserManager`. */
export interface UserManagerOptions extends ManagerOptions {
  /**
   * Send concurrent `get` calls as one BatchGetUsers with at most 100 user_ids. Each `get` has its own result, error,
   * timeout and signal. A `get` without concurrent gets is sent as a GetUser. Default: false.
   */
  shareReads?: boolean | undefined;
}

/**
 * Adds, gets, updates, deletes and lists users.
 *
 * If a call fails, its method throws `UserServiceError` or a subclass. Every call has a deadline and is retried while
 * the service is unavailable. Every write has a request_id, so that a write that is retried because its response was
 * lost is applied once.
 *
 * ```ts
 * const userManager = new UserManager("http://localhost:50051");
 * const user = await userManager.get("user123");
 * ```
 */
export class UserManager extends Manager {
  // Not a private field of JavaScript, because `withOptions` copies the properties of a manager.
  private sharedReads: SharedReads | undefined;

  /**
   * Creates a manager, which connects at its first call.
   *
   * @param address - `host:port`, `http://host:port`, `https://host:port`, `unix:/path`, or another form in the README.
   * @param options - The options of the connection, and defaults for all calls.
   * @throws TypeError if the address or an option is invalid; RangeError if a number is out of range.
   */
  constructor(address: string, options: UserManagerOptions = {}) {
    const { shareReads = false, ...others } = options;
    super(address, others);
    this.sharedReads = shareReads ? new SharedReads(this.connection) : undefined;
  }

  protected override use(connection: Connection): void {
    super.use(connection);
    this.sharedReads = this.sharedReads && new SharedReads(connection, this.sharedReads);
  }

  /**
   * Adds a user.
   *
   * @returns The user as stored.
   * @throws InvalidArgumentError if a field is invalid or unknown; `violations` lists all such fields.
   * @throws UserAlreadyExistsError if a user with this user_id already exists.
   * @throws RequestIdReusedError if the request_id was used for a different request.
   */
  async add(user: ICreateUserRequest, options: WriteOptions = {}): Promise<User> {
    // A copy, because the caller may change the object while the call runs.
    const sent = { ...user };
    return onlyRecord(await this.write(method.addUser, sent, options, readUser), { user_id: sent.user_id });
  }

  /**
   * Returns a user.
   *
   * @throws UserNotFoundError if the user does not exist.
   * @throws InvalidArgumentError if the user_id or the view is invalid.
   */
  async get(user_id: string, { view, ...options }: ReadOptions = {}): Promise<User> {
    const attempts = this.connection.attempts(options);
    if (this.sharedReads) {
      return this.sharedReads.get(user_id, view ?? "FULL", attempts);
    }
    return onlyRecord(await this.read(method.getUser, { user_id, view }, attempts, readUser), { user_id });
  }

  /**
   * Updates a user. Absent fields are not changed. Metadata is merged: a key with the value null is removed.
   *
   * @returns The user after the update.
   * @throws InvalidArgumentError if a field is invalid or unknown; `violations` lists all such fields.
   * @throws UserNotFoundError if the user does not exist and `allow_missing` is not set.
   * @throws EtagMismatchError if the given etag is not the current etag.
   * @throws UpdateConflictError if too many concurrent writes changed the user; nothing was changed.
   * @throws RequestIdReusedError if the request_id was used for a different request.
   */
  async update(user: IUpdateUserRequest, options: ConditionalWriteOptions = {}): Promise<User> {
    const sent = { ...user };
    return onlyRecord(await this.write(method.updateUser, sent, options, readUser), { user_id: sent.user_id });
  }

  /**
   * Deletes a user and all its sessions.
   *
   * @throws UserNotFoundError if the user does not exist.
   * @throws EtagMismatchError if the given etag is not the current etag.
   * @throws UpdateConflictError if too many concurrent writes changed the user; nothing was deleted.
   * @throws RequestIdReusedError if the requestId was used for a different request.
   * @throws InvalidArgumentError if an argument is invalid.
   */
  async delete(user_id: string, options: ConditionalWriteOptions = {}): Promise<void> {
    await this.write(method.deleteUser, { user_id }, options, readUser);
  }

  /**
   * Returns one page of users, ordered by id.
   *
   * @param limit - Maximum number of users in the page, at most 1000. A page has at most 1 MiB.
   * @param cursor - The `next_cursor` of an earlier page in the same order; 0 for the beginning.
   * @returns An array of User with `next_cursor`, which is 0 in the last page, and `total_size`.
   * @throws InvalidArgumentError if an argument is invalid.
   */
  async list(limit = 100, cursor = 0, { view, orderBy, filter, ...options }: ListOptions = {}): Promise<UserPage> {
    const attempts = this.connection.attempts(options);
    const fields = { limit, cursor, view, order_by: orderBy, filter };
    const answer = await this.read(method.listUsers, fields, attempts, readUser);
    (orderBy?.trim().endsWith("desc") ? checkDescending : checkContinues)(answer, cursor);
    return new UserPage(answer.records, answer);
  }

  /**
   * Yields all users in chunks, ordered by id, up to the newest user at the start of the stream.
   *
   * Each user that exists throughout is returned exactly once, regardless of concurrent writes. If the connection is
   * lost or the server restarts, the stream resumes after the last chunk, with the same guarantee. Leaving the loop
   * cancels the RPC. The client fetches one chunk ahead of the loop, even if the loop is slow.
   *
   * With `parallel`, several streams read the parts of `planUserScan` side by side, which is faster if the store has
   * several partitions. Each user is still returned exactly once, and each part resumes by itself. The chunks of different
   * parts alternate, so that only the users of one part are ordered by id. To continue in another process, keep
   * `remaining` of the last chunk, which has at most 64 parts, and pass it as `parts`.
   *
   * @param chunkSize - Maximum number of users in a chunk, at most 10 000. A chunk has at most 1 MiB.
   * @param cursor - The `next_cursor` of a chunk of an earlier stream; 0 for the beginning. Must be 0 with `parallel` and
   *   `parts`.
   * @param options - `timeoutMs` is the timeout of each chunk, including reconnection. The time that the loop's body
   *   needs does not count. With a filter, it is the timeout of each message, also if no user in the message matches.
   * @returns Arrays of User, never empty, with `next_cursor`, which is 0 in the last chunk, and `total_size`. If parts are
   *   read, also with `part` and `remaining`; `next_cursor` is then 0 in the last chunk of each part.
   * @throws InvalidArgumentError if an argument is invalid.
   * @throws UnavailableError if the service was unavailable until the timeout.
   * @throws DeadlineExceededError if the service was available but sent no chunk before the timeout.
   */
  async *listChunked(
    chunkSize = 100,
    cursor = 0,
    { view, filter, parallel = 1, parts, ...options }: ListChunkedOptions = {},
  ): AsyncGenerator<UserPage, void, undefined> {
    let given = parts && Array.from(parts);
    checkScan(cursor, parallel, given);
    const fields = { chunk_size: chunkSize, cursor, view, filter };
    if (given === undefined && parallel > 1) {
      given = await this.planUserScan(parallel, options);
    }
    const reader = given
      ? new PartsReader(this.connection, fields, options, given, parallel)
      : new ChunkReader(this.connection, fields, options);
    try {
      for (let chunk = await reader.next(); chunk; chunk = await reader.next()) {
        yield chunk;
      }
    } finally {
      reader.cancel();
    }
  }

  /**
   * Yields all users one by one; reads chunks like `listChunked`, with the same guarantee.
   *
   * All options apply to each chunk, also after the stream was resumed. Leaving the loop cancels the RPC. To continue
   * later, store the id of the last user that you processed, and pass this id as `cursor`.
   *
   * @param cursor - The id of the user after which to start; 0 for the beginning.
   * @param options - With `orderBy: "id desc"`, reads pages like `list`; users that are added meanwhile are not
   *   returned. `timeoutMs` is the timeout of each chunk or page, including reconnection. The time that the loop's body
   *   needs does not count.
   * @throws InvalidArgumentError if an argument is invalid.
   * @throws UnavailableError if the service was unavailable until the timeout.
   * @throws DeadlineExceededError if the service was available but sent no chunk before the timeout.
   */
  async *iter(
    cursor = 0,
    { chunkSize = 1000, orderBy, ...options }: IterOptions = {},
  ): AsyncGenerator<User, void, undefined> {
    if (orderBy === undefined || orderBy.trim() === "id") {
      for await (const chunk of this.listChunked(chunkSize, cursor, options)) {
        yield* chunk;
      }
      return;
    }
    let next = cursor;
    do {
      const page = await this.list(chunkSize, next, { orderBy, ...options });
      yield* page;
      next = page.next_cursor;
    } while (next !== 0);
  }

  /**
   * Divides all users into parts that `listChunked` can read side by side, in one program or in several.
   *
   * All parts together contain every user that exists from this call to the end of the last part exactly once,
   * regardless of concurrent writes. The largest `end_cursor` of the parts is a cursor: `listChunked` with it returns the
   * users that were added after this call.
   *
   * @param parts - The number of parts, from 1 to 64; 0 means 16. There are more parts if the store has more partitions
   *   with users, and fewer if there are fewer users.
   * @returns The parts, at most 64, of about the same size; none if there are no users.
   * @throws InvalidArgumentError if `parts` is not an integer from 0 to 64.
   */
  async planUserScan(parts = 16, options: CallOptions = {}): Promise<UserScanPart[]> {
    const attempts = this.connection.attempts(options);
    const request = encodeRequest(method.planUserScan.input, { parts });
    return decodeParts(await this.connection.call(method.planUserScan, request, attempts));
  }

  /**
   * Returns the number of all users, or of the users that match a filter. With a filter, the service examines all users,
   * at most 100 000 per call.
   *
   * @param filter - Selects users by their fields, as in `list`; default: all users.
   * @param options - `timeoutMs` is the timeout of each call.
   * @throws InvalidArgumentError if the filter is invalid.
   */
  async count(filter?: string, options: CallOptions = {}): Promise<number> {
    let total = 0;
    let cursor = 0;
    do {
      const request = encodeRequest(method.countUsers.input, { filter, cursor });
      const attempts = this.connection.attempts(options);
      const answer = decodeCount(await this.connection.call(method.countUsers, request, attempts));
      checkContinues({ records: [], next_cursor: answer.next_cursor }, cursor);
      total += answer.count;
      cursor = answer.next_cursor;
    } while (cursor !== 0);
    return total;
  }

  /**
   * Returns one page of the users that have one of these e-mail addresses, ordered by id. Addresses are compared without
   * regard to case and Unicode form. Several users can have the same address.
   *
   * @param emails - 1 to 1000 addresses.
   * @param limit - Maximum number of users in the page, at most 1000. A page has at most 1 MiB. If many users have the
   *   same address, a page can have few users or none and still have a `next_cursor`.
   * @param cursor - The `next_cursor` of an earlier page for the same addresses; 0 for the beginning.
   * @returns An array of User with `next_cursor`, which is 0 in the last page. `total_size` is 0.
   * @throws InvalidArgumentError if there are no addresses or more than 1000, or an argument is invalid.
   * @throws IndexNotReadyError if the store has no e-mail index yet (`userservice reindex`).
   */
  async find(
    emails: Iterable<string>,
    limit = 100,
    cursor = 0,
    { view, ...options }: ReadOptions = {},
  ): Promise<UserPage> {
    const attempts = this.connection.attempts(options);
    // encodeRequest rejects values that are not lists.
    const requested: unknown = isList(emails) ? Array.from(emails) : emails;
    const answer = await this.read(method.findUsers, { emails: requested, view, limit, cursor }, attempts, readUser);
    checkContinues(answer, cursor);
    return new UserPage(answer.records, answer);
  }

  /**
   * Returns up to 1000 users by their user_ids.
   *
   * @param user_ids - 1 to 1000 user_ids. If a user_id is repeated, the result contains its user each time.
   * @returns An array of the users that exist, in the order of the request, with `missing_user_ids`.
   * @throws InvalidArgumentError if there are no user_ids or more than 1000, or a user_id or the view is invalid.
   */
  async batchGet(user_ids: Iterable<string>, { view, ...options }: ReadOptions = {}): Promise<UserBatch> {
    const attempts = this.connection.attempts(options);
    // The user_ids are needed twice, but some iterables can be read only once. encodeRequest rejects other values.
    const requested: unknown = isList(user_ids) ? Array.from(user_ids) : user_ids;
    const answer = await this.read(method.batchGetUsers, { user_ids: requested, view }, attempts, readUser);
    checkBatch(answer, requested as string[]);
    return new UserBatch(answer.records, answer);
  }

  /**
   * Writes users in bulk. Each row is applied exactly once.
   *
   * After a lost connection or a restart of the server, the import resumes where it was interrupted. To resume an import
   * in another process, call this method with the same rows, importId and options: the service keeps the state of an
   * import for 7 days, and rows that are applied are read from the source and not sent. An invalid row fails alone. At
   * most 4 batches of 500 rows are in memory.
   *
   * @param rows - The rows: objects with the fields of `ICreateUserRequest` (except request_id), or User. An
   *   InvalidArgumentError is accepted as a row that the caller could not read; it fails with this error. Fields that
   *   the service sets, such as id, are ignored unless `restore` is set.
   * @param options - `timeoutMs` is the timeout of each response, including reconnection. The time that the rows need
   *   does not count.
   * @returns The final state, with the first 10 000 row errors of the import.
   * @throws InvalidArgumentError if an option is invalid, or restore is set and the store has users.
   * @throws ImportIdReusedError if the importId was used with other options or another digest.
   * @throws ImportOffsetGapError if the import continues before the first row; or if the store has lost rows that were
   *   applied, as after a failover.
   * @throws UnavailableError if the service was unavailable until the timeout.
   * @throws TypeError if a row is not an object.
   */
  async importUsers(
    rows: Iterable<ImportRow> | AsyncIterable<ImportRow>,
    options: ImportUsersOptions = {},
  ): Promise<ImportStatus> {
    return await new Importer(this.connection, rows, options).run();
  }

  /**
   * Returns the state of an import, with its first 10 000 row errors. Reads as many pages as necessary.
   *
   * @param options - `timeoutMs` is the timeout of all pages together.
   * @throws ImportNotFoundError if no import has this import_id, or its last batch was more than 7 days ago.
   * @throws InvalidArgumentError if the import_id is not a UUID.
   */
  async getImport(import_id: string, options: CallOptions = {}): Promise<ImportStatus> {
    return await readImport(this.connection, import_id, 0, this.connection.attempts(options));
  }

  /**
   * Yields the changes of users and sessions until the loop is left. The feed of the service must be on.
   *
   * Every change is yielded at least once, the changes of one user in order, and the last one contains the latest
   * state. There is never a silent gap. After a lost connection or a restart of the server, the watch resumes after the
   * last changes that it yielded. To resume it in another process, store `resume_token` after processing the changes.
   * Leaving the loop cancels the RPC.
   *
   * @param options - `timeoutMs` is the timeout of a reconnection.
   * @throws WatchDisabledError if the feed of the service is off.
   * @throws WatchTokenExpiredError if the feed no longer contains all changes after the token, for example because the
   *   token is too old.
   * @throws InvalidArgumentError if an option is invalid.
   * @throws UnavailableError if the service was unavailable until the timeout.
   */
  async *watch(options: WatchOptions = {}): AsyncGenerator<Changes, void, undefined> {
    const reader = new WatchReader(this.connection, options);
    try {
      for (;;) {
        yield await reader.next();
      }
    } finally {
      reader.cancel();
    }
  }

  /**
   * Returns all sessions of a user, ordered by id. Reads as many pages as necessary.
   *
   * @param user_id - The user_id of the user.
   * @param options - `timeoutMs` is the timeout of all pages together.
   * @returns An array of Session; empty if the user has no sessions.
   * @throws UserNotFoundError if the user does not exist.
   * @throws InvalidArgumentError if the user_id or the view is invalid.
   */
  async getSessions(
    user_id: string,
    { view, includeExpired, ...options }: SessionListOptions = {},
  ): Promise<SessionPage> {
    const attempts = this.connection.attempts(options);
    const sessions: Session[] = [];
    let cursor = 0;
    do {
      const fields = { user_id, limit: LARGEST_PAGE, cursor, view, include_expired: includeExpired };
      const answer = await this.read(method.getUserSessions, fields, attempts, readSession);
      checkSessions(answer, user_id, cursor);
      sessions.push(...answer.records);
      cursor = answer.next_cursor;
    } while (cursor !== 0);
    return new SessionPage(sessions, { next_cursor: 0, total_size: sessions.length });
  }
}

/**
 * Checks a page of the sessions of a user.
 *
 * @throws InternalError if the page does not continue the list, or contains a session of another user.
 */
export function checkSessions(answer: Answer<Session>, user_id: string, cursor: number): void {
  checkContinues(answer, cursor);
  for (const session of answer.records) {
    checkKey(session, { user_id });
  }
}
