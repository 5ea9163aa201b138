/** `UserManager`: users and their sessions. */

import { type Answer, checkBatch, checkContinues, checkNamed, onlyRecord } from "./answers.js";
import { ChunkReader } from "./chunks.js";
import type { CallOptions } from "./connection.js";
import { UserService } from "./gen/userservice/v1/user_service_pb.js";
import { type ConditionalWriteOptions, Manager, type WriteOptions } from "./manager.js";
import { type Session, SessionPage, type User, UserBatch, UserPage } from "./models.js";
import { readSession, readUser } from "./records.js";
import { type ICreateUserRequest, isList, type IUpdateUserRequest } from "./requests.js";

const { method } = UserService;

/** What the service makes of any larger limit. */
const LARGEST_PAGE = 1000;

/**
 * Adds, reads, changes, removes and lists users.
 *
 * Every method throws `UserServiceError` or one of its classes. All have a deadline, and all are tried again while the
 * service is unavailable; writes carry a request_id, so that an attempt whose answer was lost is applied once.
 *
 * ```ts
 * const userManager = new UserManager("http://localhost:50051");
 * const user = await userManager.get("user123");
 * ```
 */
export class UserManager extends Manager {
  /**
   * Adds a user.
   *
   * @returns The user as it was stored.
   * @throws InvalidArgumentError if a field is bad or unknown; `violations` has all of them.
   * @throws UserAlreadyExistsError if there is a user of that user_id.
   * @throws RequestIdReusedError if the request_id was used for a different request.
   */
  async add(user: ICreateUserRequest, options: WriteOptions = {}): Promise<User> {
    // The caller may change or reuse the object while the call runs.
    const sent = { ...user };
    return onlyRecord(await this.write(method.addUser, sent, options, readUser), { user_id: sent.user_id });
  }

  /**
   * Returns a user.
   *
   * @throws UserNotFoundError if there is none of that user_id.
   * @throws InvalidArgumentError if the user_id is bad.
   */
  async get(user_id: string, options: CallOptions = {}): Promise<User> {
    const attempts = this.connection.attempts(options);
    return onlyRecord(await this.read(method.getUser, { user_id }, attempts, readUser), { user_id });
  }

  /**
   * Changes a user. What is absent stays as it is, and metadata is merged, with null removing a key.
   *
   * @returns The user after the update.
   * @throws InvalidArgumentError if a field is bad or unknown; `violations` has all of them.
   * @throws UserNotFoundError if there is none of that user_id.
   * @throws EtagMismatchError if an etag was given and is not the current one.
   * @throws UpdateConflictError if too many others wrote the user at the same time.
   * @throws RequestIdReusedError if the request_id was used for a different request.
   */
  async update(user: IUpdateUserRequest, options: ConditionalWriteOptions = {}): Promise<User> {
    const sent = { ...user };
    return onlyRecord(await this.write(method.updateUser, sent, options, readUser), { user_id: sent.user_id });
  }

  /**
   * Removes a user and all its sessions.
   *
   * @throws UserNotFoundError if there is none of that user_id.
   * @throws EtagMismatchError if an etag was given and is not the current one.
   * @throws UpdateConflictError if too many others wrote the user at the same time; nothing was removed.
   * @throws RequestIdReusedError if the requestId was used for a different request.
   * @throws InvalidArgumentError if an argument is bad.
   */
  async delete(user_id: string, options: ConditionalWriteOptions = {}): Promise<void> {
    await this.write(method.deleteUser, { user_id }, options, readUser);
  }

  /**
   * Returns one page of users in the order of their ids.
   *
   * @param limit - The most users to return, at most 1000. A page closes early at 1 MiB.
   * @param cursor - The `next_cursor` of an earlier page; 0 for the beginning.
   * @returns An array of User with `next_cursor`, which is 0 at the end, and `total_size`.
   * @throws InvalidArgumentError if an argument is negative or no whole number.
   */
  async list(limit = 100, cursor = 0, options: CallOptions = {}): Promise<UserPage> {
    const attempts = this.connection.attempts(options);
    const answer = await this.read(method.listUsers, { limit, cursor }, attempts, readUser);
    checkContinues(answer, cursor);
    return new UserPage(answer.records, answer);
  }

  /**
   * Goes through all users in the order of their ids, a chunk at a time, up to the newest one at its start.
   *
   * A user that exists the whole time comes exactly once, whatever is written meanwhile, and though the connection is
   * cut or the server restarted: then it goes on behind the last chunk by itself. Leaving the loop cancels the RPC. One
   * chunk is fetched ahead, and no more, however slow the loop is.
   *
   * @param chunkSize - The most users in a chunk, at most 10 000. A chunk closes early at 1 MiB.
   * @param cursor - Where to start: the `next_cursor` of a chunk of an earlier run; 0 for the beginning.
   * @param options - `timeoutMs` is for each chunk, reconnecting included; the time that the loop's body takes does not
   *   count.
   * @returns Arrays of User, never empty, with `next_cursor`, which is 0 in the last one, and `total_size`.
   * @throws InvalidArgumentError if an argument is negative or no whole number.
   * @throws UnavailableError if the service stayed away for the whole timeout.
   * @throws DeadlineExceededError if the service was there but no chunk came.
   */
  async *listChunked(
    chunkSize = 100,
    cursor = 0,
    options: CallOptions = {},
  ): AsyncGenerator<UserPage, void, undefined> {
    const reader = new ChunkReader(this.connection, chunkSize, cursor, options);
    try {
      for (let chunk = await reader.next(); chunk; chunk = await reader.next()) {
        yield chunk;
      }
    } finally {
      reader.cancel();
    }
  }

  /**
   * Returns many users by name.
   *
   * @param user_ids - 1 to 1000 names. One given twice is answered twice.
   * @returns An array of the users that exist, in the order of the request, with `missing_user_ids`.
   * @throws InvalidArgumentError if there are none or too many names, or a bad one.
   */
  async batchGet(user_ids: Iterable<string>, options: CallOptions = {}): Promise<UserBatch> {
    const attempts = this.connection.attempts(options);
    // An iterable may be read only once. What is none is refused with the other bad fields.
    const names: unknown = isList(user_ids) ? Array.from(user_ids) : user_ids;
    const answer = await this.read(method.batchGetUsers, { user_ids: names }, attempts, readUser);
    checkBatch(answer, names as string[]);
    return new UserBatch(answer.records, answer);
  }

  /**
   * Returns all sessions of a user in the order of their ids, however many pages that takes.
   *
   * @param user_id - Name of the user.
   * @param options - `timeoutMs` is for all the pages together.
   * @returns An array of Session, empty if there is none.
   * @throws UserNotFoundError if there is no user of that user_id.
   * @throws InvalidArgumentError if the user_id is bad.
   */
  async getSessions(user_id: string, options: CallOptions = {}): Promise<SessionPage> {
    const attempts = this.connection.attempts(options);
    const sessions: Session[] = [];
    let cursor = 0;
    do {
      const fields = { user_id, limit: LARGEST_PAGE, cursor };
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
 * @throws InternalError if it does not continue the list, or has a session of another user.
 */
export function checkSessions(answer: Answer<Session>, user_id: string, cursor: number): void {
  checkContinues(answer, cursor);
  for (const session of answer.records) {
    checkNamed(session, { user_id });
  }
}
