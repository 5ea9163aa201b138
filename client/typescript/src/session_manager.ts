/** `SessionManager`: the sessions of users. */

import { onlyRecord } from "./answers.js";
import type { CallOptions } from "./connection.js";
import { SessionService } from "./gen/userservice/v1/session_service_pb.js";
import { UserService } from "./gen/userservice/v1/user_service_pb.js";
import { type ConditionalWriteOptions, Manager, type WriteOptions } from "./manager.js";
import { type Session, SessionPage } from "./models.js";
import { readSession } from "./records.js";
import type { ICreateSessionRequest, IUpdateSessionRequest } from "./requests.js";
import { checkSessions } from "./user_manager.js";

const { method } = SessionService;

/**
 * Adds, reads, changes, removes and lists the sessions of users.
 *
 * Errors, deadlines and retries are those of `UserManager`. Every method throws UserNotFoundError if there is no such
 * user.
 */
export class SessionManager extends Manager {
  /**
   * Adds a session to a user.
   *
   * @returns The session as it was stored.
   * @throws InvalidArgumentError if a field is bad or unknown; `violations` has all of them.
   * @throws UserNotFoundError if there is no such user.
   * @throws SessionAlreadyExistsError if the user has a session of that session_id.
   * @throws RequestIdReusedError if the request_id was used for a different request.
   */
  async add(session: ICreateSessionRequest, options: WriteOptions = {}): Promise<Session> {
    const sent = { ...session };
    const { user_id, session_id } = sent;
    return onlyRecord(await this.write(method.addSession, sent, options, readSession), { user_id, session_id });
  }

  /**
   * Returns a session.
   *
   * @throws UserNotFoundError if there is no such user.
   * @throws SessionNotFoundError if the user has no session of that session_id.
   * @throws InvalidArgumentError if an argument is bad.
   */
  async get(user_id: string, session_id: string, options: CallOptions = {}): Promise<Session> {
    const attempts = this.connection.attempts(options);
    const asked = { user_id, session_id };
    return onlyRecord(await this.read(method.getSession, asked, attempts, readSession), asked);
  }

  /**
   * Changes a session's metadata: merged, with null removing a key, or replaced if update_mask names it.
   *
   * @returns The session after the update.
   * @throws InvalidArgumentError if a field is bad or unknown; `violations` has all of them.
   * @throws UserNotFoundError if there is no such user.
   * @throws SessionNotFoundError if the user has no session of that session_id.
   * @throws EtagMismatchError if an etag was given and is not the current one.
   * @throws UpdateConflictError if too many others wrote the session at the same time.
   * @throws RequestIdReusedError if the request_id was used for a different request.
   */
  async update(session: IUpdateSessionRequest, options: ConditionalWriteOptions = {}): Promise<Session> {
    const sent = { ...session };
    const { user_id, session_id } = sent;
    return onlyRecord(await this.write(method.updateSession, sent, options, readSession), { user_id, session_id });
  }

  /**
   * Removes a session.
   *
   * @throws UserNotFoundError if there is no such user.
   * @throws SessionNotFoundError if the user has no session of that session_id.
   * @throws EtagMismatchError if an etag was given and is not the current one.
   * @throws UpdateConflictError if too many others wrote the session at the same time; nothing was removed.
   * @throws RequestIdReusedError if the requestId was used for a different request.
   * @throws InvalidArgumentError if an argument is bad.
   */
  async delete(user_id: string, session_id: string, options: ConditionalWriteOptions = {}): Promise<void> {
    await this.write(method.deleteSession, { user_id, session_id }, options, readSession);
  }

  /**
   * Returns one page of the sessions of a user in the order of their ids; `UserManager.getSessions` has all.
   *
   * @param user_id - Name of the user.
   * @param limit - The most sessions to return, at most 1000. A page closes early at 1 MiB.
   * @param cursor - The `next_cursor` of an earlier page; 0 for the beginning.
   * @returns An array of Session with `next_cursor`, which is 0 at the end, and `total_size`.
   * @throws UserNotFoundError if there is no such user.
   * @throws InvalidArgumentError if an argument is bad.
   */
  async list(user_id: string, limit = 100, cursor = 0, options: CallOptions = {}): Promise<SessionPage> {
    const attempts = this.connection.attempts(options);
    const fields = { user_id, limit, cursor };
    const answer = await this.read(UserService.method.getUserSessions, fields, attempts, readSession);
    checkSessions(answer, user_id, cursor);
    return new SessionPage(answer.records, answer);
  }
}
