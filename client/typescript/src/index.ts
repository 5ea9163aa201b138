/** The client of the User service: `UserManager` and `SessionManager`. */

export type { CallHeaders, HeaderValue } from "./call_headers.js";
export type { Change, ChangeKind, Changes, WatchKind, WatchOptions } from "./changes.js";
export type { CallOptions, ManagerOptions, SharedOptions } from "./connection.js";
export type { EnvironmentOptions } from "./environment.js";
export * from "./error_base.js";
export * from "./error_classes.js";
export { ManagerClosedError } from "./errors.js";
export type { CallAttempt, CallEnd, OnCall } from "./hooks.js";
export type { FieldsOfService, ImportRow, ImportStatus, ImportUsersOptions, OnDuplicate, RowError } from "./imports.js";
export type { ConditionalWriteOptions, ReadOptions, SessionListOptions, WriteOptions } from "./manager.js";
export type { Metadata, MetadataInput, MetadataValue } from "./metadata.js";
export {
  type Page,
  type RecordFields,
  type Rest,
  Session,
  type SessionFields,
  SessionPage,
  type Some,
  User,
  UserBatch,
  type UserFields,
  UserPage,
  type UserScanPart,
} from "./models.js";
export type { ListChunkedOptions } from "./parts.js";
export type {
  ICreateSessionRequest,
  ICreateUserRequest,
  IUpdateSessionRequest,
  IUpdateUserRequest,
  OrderBy,
  View,
} from "./requests.js";
export { type RevokeOptions, SessionManager } from "./session_manager.js";
export type { PemSource, TlsOptions } from "./tls.js";
export type { TokenSource } from "./token.js";
export { type IterOptions, type ListOptions, UserManager, type UserManagerOptions } from "./user_manager.js";
