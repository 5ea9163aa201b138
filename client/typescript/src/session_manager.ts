/** `SessionManager` manages the sessions of users. */

import { onlyRecord } from "./answers.js";
import { SessionService } from "./gen/userservice/v1/session_service_pb.js";
import { UserService } from "./gen/userservice/v1/user_service_pb.js";
import { type ConditionalWriteOptions, Manager, type ReadOptions, type WriteOptions } from "./manager.js";
import { type Session, SessionPage } from "./models.js";
import { readSession } from "./records.js";
import type { ICreateSessionRequest, IUpdateSessionRequest } from "./requests.js";
import { checkSessions } from "./user_manager.js";

const { method } = SessionService;

/**
 * Adds, gets, updates, deletes and lists the sessions of users.
 *
 * Errors, deadlines and retries are the same as in `UserManager`. Every method throws UserNotFoundError if the user
 * does not exist.
 */
export class SessionManager extends Manager {
  /**
   * Adds a session to a user.
   *
   * @returns The session as stored.
   * @throws InvalidArgumentError if a field is invalid or unknown; `violations` lists all such fields.
   * @throws UserNotFoundError if the user does not exist.
   * @throws SessionAlreadyExistsError if the user already has a session with this session_id.
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
   * @throws UserNotFoundError if the user does not exist.
   * @throws SessionNotFoundError if the user has no session with this session_id.
   * @throws InvalidArgumentError if an argument is invalid.
   */
  async get(user_id: string, session_id: string, { view, ...options }: ReadOptions = {}): Promise<Session> {
    const attempts = this.connection.attempts(options);
    const asked = { user_id, session_id };
    return onlyRecord(await this.read(method.getSession, { ...asked, view }, attempts, readSession), asked);
  }

  /**
   * Updates a session's metadata. The metadata is merged: a key with the value null is removed. If update_mask contains
   * `metadata` or `*`, the metadata is replaced.
   *
   * @returns The session after the update.
   * @throws InvalidArgumentError if a field is invalid or unknown; `violations` lists all such fields.
   * @throws UserNotFoundError if the user does not exist.
   * @throws SessionNotFoundError if the user has no session with this session_id.
   * @throws EtagMismatchError if the given etag is not the current etag.
   * @throws UpdateConflictError if too many concurrent writes changed the session; nothing was changed.
   * @throws RequestIdReusedError if the request_id was used for a different request.
   */
  async update(session: IUpdateSessionRequest, options: ConditionalWriteOptions = {}): Promise<Session> {
    const sent = { ...session };
    const { user_id, session_id } = sent;
    return onlyRecord(await this.write(method.updateSession, sent, options, readSession), { user_id, session_id });
  }

  /**
   * Deletes a session.
   *
   * @throws UserNotFoundError if the user does not exist.
   * @throws SessionNotFoundError if the user has no session with this session_id.
   * @throws EtagMismatchError if the given etag is not the current etag.
   * @throws UpdateConflictError if too many concurrent writes changed the session; nothing was deleted.
   * @throws RequestIdReusedError if the requestId was used for a different request.
   * @throws InvalidArgumentError if an argument is invalid.
   */
  async delete(user_id: string, session_id: string, options: ConditionalWriteOptions = {}): Promise<void> {
    await this.write(method.deleteSession, { user_id, session_id }, options, readSession);
  }

  /**
   * Returns one page of the sessions of a user, ordered by id. `UserManager.getSessions` returns all sessions.
   *
   * @param user_id - The user_id of the user.
   * @param limit - Maximum number of sessions in the page, at most 1000. A page has at most 1 MiB.
   * @param cursor - The `next_cursor` of an earlier page; 0 for the beginning.
   * @returns An array of Session with `next_cursor`, which is 0 in the last page, and `total_size`.
   * @throws UserNotFoundError if the user does not exist.
   * @throws InvalidArgumentError if an argument is invalid.
   */
  async list(user_id: string, limit = 100, cursor = 0, { view, ...options }: ReadOptions = {}): Promise<SessionPage> {
    const attempts = this.connection.attempts(options);
    const fields = { user_id, limit, cursor, view };
    const answer = await this.read(UserService.method.getUserSessions, fields, attempts, readSession);
    checkSessions(answer, user_id, cursor);
    return new SessionPage(answer.records, answer);
  }
}
