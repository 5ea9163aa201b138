/** Encodes the rows of an import, and decodes its responses. */

import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

import { InvalidArgumentError } from "./errors.js";
import {
  type GetImportResponse,
  ImportBatchSchema,
  ImportOptionsSchema,
  ImportUsersRequestSchema,
  type ImportUsersResponse,
  OnDuplicate as Choice,
} from "./gen/userservice/v1/user_import_pb.js";
import { UserSchema } from "./gen/userservice/v1/user_pb.js";
import type { ImportRow, ImportStatus, ImportUsersOptions, OnDuplicate, RowError } from "./imports.js";
import { asBuffer, encodeRequest } from "./requests.js";
import { errorOfRow } from "./status.js";

export const MOST_BATCH_ROWS = 500;

const OVERHEAD_BYTES = 64; // of a batch around its rows
export const MOST_BATCH_BYTES = 2 ** 20 - OVERHEAD_BYTES;

const CHOICES: Readonly<Record<OnDuplicate, Choice>> = {
  FAIL: Choice.FAIL,
  SKIP: Choice.SKIP,
  MERGE: Choice.MERGE,
  REPLACE: Choice.REPLACE,
};
const TIMES = { created_at: UserSchema.field.createdAt.number, updated_at: UserSchema.field.updatedAt.number } as const;
const SET_BY_THE_SERVICE = ["id", "uuid", "etag"];
const TIME_FIELDS = ["created_at", "created_at_us", "updated_at", "updated_at_us"];

/**
 * Encodes the first message of an import.
 *
 * @throws InvalidArgumentError if an option has a wrong type, or onDuplicate is unknown.
 */
export function encodeOptions(import_id: string, options: ImportUsersOptions): Buffer {
  const { onDuplicate = "FAIL", validateOnly = false, restore = false, digest } = options;
  const choice = CHOICES[onDuplicate] as Choice | undefined;
  if (choice === undefined) {
    throw invalid("onDuplicate", `must be one of ${Object.keys(CHOICES).join(", ")}`);
  }
  const { field } = ImportOptionsSchema;
  const writer = new BinaryWriter();
  writer.tag(ImportUsersRequestSchema.field.options.number, WireType.LengthDelimited).fork();
  writer.raw(encodeRequest(ImportOptionsSchema, { import_id, digest }));
  writer.tag(field.onDuplicate.number, WireType.Varint).int32(choice);
  writer.tag(field.validateOnly.number, WireType.Varint).bool(validateOnly);
  writer.tag(field.restore.number, WireType.Varint).bool(restore);
  return asBuffer(writer.join().finish());
}

/** An encoded row. If the row is invalid, the service rejects it, and `error` is the reason. */
export interface EncodedRow {
  readonly encoded: Uint8Array;
  readonly error?: InvalidArgumentError;
}

/**
 * Encodes a row as an element of a batch.
 *
 * @throws TypeError if the row is not an object.
 */
export function encodeRow(row: ImportRow, restore: boolean): EncodedRow {
  try {
    const encoded = frameUser(encodeUser(row, restore));
    if (encoded.length > MOST_BATCH_BYTES) {
      throw invalid("user", `must be at most ${MOST_BATCH_BYTES} bytes encoded, is ${encoded.length}`);
    }
    return { encoded };
  } catch (error) {
    if (!(error instanceof InvalidArgumentError)) {
      throw error;
    }
    return { encoded: frameUser(new Uint8Array()), error }; // the service rejects a row without user_id
  }
}

function frameUser(user: Uint8Array): Uint8Array {
  return new BinaryWriter().tag(ImportBatchSchema.field.users.number, WireType.LengthDelimited).bytes(user).finish();
}

function encodeUser(row: ImportRow, restore: boolean): Uint8Array {
  if (row instanceof InvalidArgumentError) {
    throw row;
  }
  if (typeof row !== "object" || (row as unknown) === null) {
    throw new TypeError("a row must be an object with the fields of a user");
  }
  const left_out = restore ? TIME_FIELDS : [...TIME_FIELDS, ...SET_BY_THE_SERVICE];
  const fields = Object.fromEntries(Object.entries(row).filter(([name]) => !left_out.includes(name)));
  const encoded = encodeRequest(UserSchema, fields);
  if (!restore) {
    return encoded;
  }
  const writer = new BinaryWriter().raw(encoded);
  writeTime(writer, "created_at", row.created_at, row.created_at_us);
  writeTime(writer, "updated_at", row.updated_at, row.updated_at_us);
  return writer.finish();
}

function writeTime(
  writer: BinaryWriter,
  name: keyof typeof TIMES,
  time: Date | undefined,
  microseconds: number | undefined,
): void {
  const exact = microseconds ?? (time === undefined ? undefined : time.getTime() * 1000);
  if (exact === undefined) {
    return; // the service reports the missing field
  }
  if (!Number.isSafeInteger(exact)) {
    throw invalid(name, "must be a valid Date");
  }
  const seconds = Math.floor(exact / 1e6);
  writer.tag(TIMES[name], WireType.LengthDelimited).fork();
  writer.tag(1, WireType.Varint).int64(seconds);
  writer.tag(2, WireType.Varint).int32((exact - seconds * 1e6) * 1000);
  writer.join();
}

function invalid(field: string, description: string): InvalidArgumentError {
  return new InvalidArgumentError(`${field}: ${description}`, { violations: [{ field, description }] });
}

/** Encodes a request with rows that `encodeRow` has encoded. */
export function encodeBatch(offset: number, rows: readonly Uint8Array[]): Buffer {
  const writer = new BinaryWriter();
  writer.tag(ImportUsersRequestSchema.field.batch.number, WireType.LengthDelimited).fork();
  writer.tag(ImportBatchSchema.field.offset.number, WireType.Varint).int64(offset);
  for (const row of rows) {
    writer.raw(row);
  }
  return asBuffer(writer.join().finish());
}

/** Returns the state in a response, with these row errors. */
export function statusOf(
  import_id: string,
  response: ImportUsersResponse | GetImportResponse,
  row_errors: readonly RowError[],
): ImportStatus {
  const { ackedOffset, added, merged, replaced, skipped, failed } = response;
  return {
    import_id,
    offset: Number(ackedOffset),
    added: Number(added),
    merged: Number(merged),
    replaced: Number(replaced),
    skipped: Number(skipped),
    failed: Number(failed),
    row_errors,
  };
}

/** Returns the row errors in a response. */
export function rowErrorsOf(response: ImportUsersResponse | GetImportResponse): RowError[] {
  return response.rowErrors.flatMap(({ index, status }) =>
    status === undefined ? [] : [{ index: Number(index), error: errorOfRow(status) }],
  );
}
