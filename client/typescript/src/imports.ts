/** The types of imports; see `UserManager.importUsers`. */

import type { CallOptions } from "./connection.js";
import type { InvalidArgumentError, UserServiceError } from "./errors.js";
import type { UserFields } from "./models.js";
import type { ICreateUserRequest } from "./requests.js";

/** The fields of a user that the service sets. They are ignored unless the import restores users. */
export type FieldsOfService = Partial<
  Pick<UserFields, "id" | "uuid" | "created_at" | "created_at_us" | "updated_at" | "updated_at_us" | "etag">
>;

/** A row of an import: the fields of a user, or the error of a row that the caller could not read. */
export type ImportRow = (Omit<ICreateUserRequest, "request_id"> & FieldsOfService) | InvalidArgumentError;

/**
 * What an import does with a row whose user exists already. FAIL: the row fails with UserAlreadyExistsError. SKIP: the
 * user is not changed. MERGE: fields that are not empty replace the old values, and metadata is merged (RFC 7396).
 * REPLACE: email, first_name, last_name and metadata are replaced.
 */
export type OnDuplicate = "FAIL" | "SKIP" | "MERGE" | "REPLACE";

/** A row that failed. */
export interface RowError {
  /** Number of the row in the import, counted from 0. */
  readonly index: number;
  /** Why the row failed: usually InvalidArgumentError or UserAlreadyExistsError. */
  readonly error: UserServiceError;
}

/** The state of an import. */
export interface ImportStatus {
  /** Identifies the import, a UUID. */
  readonly import_id: string;
  /** The rows below this number are applied; a resumed import continues here. */
  readonly offset: number;
  /** Number of rows that added a user. */
  readonly added: number;
  /** Number of rows that were merged into a user. */
  readonly merged: number;
  /** Number of rows that replaced a user. */
  readonly replaced: number;
  /** Number of rows that were skipped, because their user existed. */
  readonly skipped: number;
  /** Number of rows that failed. */
  readonly failed: number;
  /**
   * Rows that failed, ordered by index: at most the first 10 000 of the import. In a progress callback, the rows that
   * failed since the previous call.
   */
  readonly row_errors: readonly RowError[];
}

/** Options of `UserManager.importUsers`. */
export interface ImportUsersOptions extends CallOptions {
  /** Identifies the import, a UUID; default: a new one. */
  importId?: string | undefined;
  /** What to do with a row whose user exists already. Default: "FAIL". */
  onDuplicate?: OnDuplicate | undefined;
  /** Check the rows, but write nothing. Default: false. */
  validateOnly?: boolean | undefined;
  /** Keep all fields of the rows, also ids and times. Needs the scope admin and an empty store. Default: false. */
  restore?: boolean | undefined;
  /** Digest of the source, such as the SHA-256 of a file. The service rejects the importId for another digest. */
  digest?: string | undefined;
  /** The number of the first row, if the caller leaves out rows that are applied already. Default: 0. */
  offset?: number | undefined;
  /**
   * Called after each response with the state of the import. Its `row_errors` are the rows that failed since the
   * previous call. If an import is resumed, the first call contains the errors of the earlier run.
   */
  onProgress?: ((status: ImportStatus) => void | Promise<void>) | undefined;
}
