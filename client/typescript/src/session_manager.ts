/** `SessionManager` manages the sessions of users. */

import { decodeRevokedCount, onlyRecord } from "./answers.js";
import { SessionService } from "./gen/userservice/v1/session_service_pb.js";
import { UserService } from "./gen/userservice/v1/user_service_pb.js";
import {
  type ConditionalWriteOptions,
  Manager,
  type ReadOptions,
  type SessionListOptions,
  type WriteOptions,
} from "./manager.js";
import { type Session, SessionPage } from "./models.js";
import { readSession } from "./records.js";
import type { ICreateSessionRequest, IUpdateSessionRequest } from "./requests.js";
import { checkSessions } from "./user_manager.js";

const { method } = SessionService;

/** Options of `SessionManager.revoke`. */
export interface RevokeOptions extends WriteOptions {
  /** session_id of the session to keep; default: none. */
  exceptSessionId?: string | undefined;
}

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
   * @throws SessionAlreadyExistsError if the user already has a session with this session_id that has not expired.
   * @throws SessionLimitError if the user has 10 000 sessions.
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
   * Reports that a session is in use, which extends the session by its `idle_ttl`, at most to its `max_expire_time`. A
   * touch within a tenth of `idle_ttl` (at most 60 s) after `last_seen_at` changes nothing, so a program may touch a
   * session with every request of its user. `etag` and `updated_at` do not change.
   *
   * @returns The session after the touch.
   * @throws UserNotFoundError if the user does not exist.
   * @throws SessionNotFoundError if the user has no session with this session_id, or if the session has expired.
   * @throws UpdateConflictError if too many concurrent writes changed the session.
   * @throws RequestIdReusedError if the requestId was used for a different request.
   * @throws InvalidArgumentError if an argument is invalid.
   */
  async touch(user_id: string, session_id: string, options: WriteOptions = {}): Promise<Session> {
    const asked = { user_id, session_id };
    return onlyRecord(await this.write(method.touchSession, asked, options, readSession), asked);
  }

  /**
   * Deletes all sessions of a user, or all except one, in one step.
   *
   * @returns The number of deleted sessions, without sessions that had expired before.
   * @throws UserNotFoundError if the user does not exist.
   * @throws RequestIdReusedError if the requestId was used for a different request.
   * @throws InvalidArgumentError if an argument is invalid.
   */
  async revoke(user_id: string, { exceptSessionId, ...options }: RevokeOptions = {}): Promise<number> {
    const fields = { user_id, except_session_id: exceptSessionId };
    return decodeRevokedCount(await this.writeEncoded(method.revokeUserSessions, fields, options));
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
  async list(
    user_id: string,
    limit = 100,
    cursor = 0,
    { view, includeExpired, ...options }: SessionListOptions = {},
  ): Promise<SessionPage> {
    const attempts = this.connection.attempts(options);
    const fields = { user_id, limit, cursor, view, include_expired: includeExpired };
    const answer = await this.read(UserService.method.getUserSessions, fields, attempts, readSession);
    checkSessions(answer, user_id, cursor);
    return new SessionPage(answer.records, answer);
  }
}
