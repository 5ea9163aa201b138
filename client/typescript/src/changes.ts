/** The changes that `UserManager.watch` yields. */

import type { CallOptions } from "./connection.js";
import type { Session, User } from "./models.js";
import type { View } from "./requests.js";

/** The records whose changes a watch reports. */
export type WatchKind = "USERS" | "SESSIONS";

/**
 * What happened to a record. USER_EXISTS and SESSION_EXISTS are parts of a snapshot. USER_DELETED also stands for the
 * deletion of all sessions of the user.
 */
export type ChangeKind =
  | "USER_EXISTS"
  | "USER_ADDED"
  | "USER_UPDATED"
  | "USER_DELETED"
  | "SESSION_EXISTS"
  | "SESSION_ADDED"
  | "SESSION_UPDATED"
  | "SESSION_DELETED"
  | "SESSION_EXPIRED";

/** A change of a user or session. */
export interface Change {
  /** What happened. */
  readonly kind: ChangeKind;
  /** Number that increases with every change of a user and its sessions; 0 in a snapshot. */
  readonly revision: number;
  /** user_id of the user, or of the user of the session. */
  readonly user_id: string;
  /** session_id of the session; undefined for a change of a user. */
  readonly session_id: string | undefined;
  /** id of the user or session. */
  readonly id: number;
  /** The user in its present state; undefined if it was deleted, and for sessions. */
  readonly user: User | undefined;
  /** The session in its present state; undefined if it was removed, and for users. */
  readonly session: Session | undefined;
}

/** The changes of one message of a watch. */
export interface Changes {
  /** The changes; empty in a heartbeat. */
  readonly changes: readonly Change[];
  /** Resumes the watch after these changes. Store the token after they are processed. */
  readonly resume_token: string;
  /** Whether the snapshot is complete, or the watch has none. */
  readonly snapshot_complete: boolean;
  /**
   * Whether the watch starts again with a snapshot here, because changes were lost (`onExpired: "snapshot"`). Records
   * that the snapshot does not contain were deleted.
   */
  readonly restarted: boolean;
}

/** Options of `UserManager.watch`. */
export interface WatchOptions extends CallOptions {
  /**
   * "now": only changes from now on; the first element is yielded at once, and all changes after it are yielded.
   * "snapshot": first all users, each exactly once, and then the changes since the start. Default: "now".
   */
  start?: "now" | "snapshot" | undefined;
  /** The token of the last changes that were processed; `start` is then not used. */
  resumeToken?: string | undefined;
  /**
   * The records whose changes are yielded. The deletion of a user is always yielded, the touch of a session never.
   * Default: USERS.
   */
  kinds?: readonly WatchKind[] | undefined;
  /** The fields of the records; default: `FULL`. */
  view?: View | undefined;
  /** Seconds, 1 to 600, after which an empty element is yielded if there are no changes. Default: 15. */
  heartbeatSeconds?: number | undefined;
  /**
   * What happens if changes were lost. "raise": WatchTokenExpiredError is thrown. "snapshot": the watch starts again
   * with a snapshot, whose first element has `restarted` set. Default: "raise".
   */
  onExpired?: "raise" | "snapshot" | undefined;
}
