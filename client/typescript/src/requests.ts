/**
 * Encodes the arguments of a call as a request.
 *
 * The client checks only what the service cannot check: unknown fields, values of a wrong type, and metadata that a
 * Struct cannot represent. The service checks all other rules, such as lengths and required fields, so that each rule
 * is implemented once.
 */

import { type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";
import { FieldMaskSchema, StructSchema, TimestampSchema } from "@bufbuild/protobuf/wkt";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

import { type FieldViolation, InvalidArgumentError } from "./errors.js";
import { type MetadataInput, nameOf, writeMetadata } from "./metadata.js";

/**
 * The fields that a read returns. `FULL`: all fields. `BASIC`: all fields except metadata. `ID`: the keys and the id.
 * Fields that are not in the view are empty in the models; times are 1970.
 */
export type View = "FULL" | "BASIC" | "ID";

/** The order of a list of users: `id` is the order of creation, and `id desc` lists the newest users first. */
export type OrderBy = "id" | "id desc";

/** Request of `UserManager.add`. Undefined fields are treated as absent. */
export interface ICreateUserRequest {
  /** Key of the new user. 1 to 256 bytes of UTF-8, no control characters, no leading or trailing white space. */
  user_id: string;
  /** E-mail address, not parsed, at most 320 bytes. */
  email?: string | undefined;
  /** Given name, at most 256 bytes. */
  first_name?: string | undefined;
  /** Family name, at most 256 bytes. */
  last_name?: string | undefined;
  /** JSON object with the caller's own data: at most 16 levels deep and 64 KiB encoded, integers within ±2^53. */
  metadata?: MetadataInput | undefined;
  /**
   * Idempotency key of the write, a UUID; the manager generates one if it is absent. If the same request is sent again
   * with the same request_id within 10 minutes, it is applied only once.
   */
  request_id?: string | undefined;
}

/** Request of `UserManager.update`. Absent and undefined fields are not changed. */
export interface IUpdateUserRequest {
  /** user_id of the user to update. */
  user_id: string;
  /** New e-mail address; empty clears it. */
  email?: string | undefined;
  /** New given name; empty clears it. */
  first_name?: string | undefined;
  /** New family name; empty clears it. */
  last_name?: string | undefined;
  /** Changes to the metadata, merged by RFC 7396 (JSON Merge Patch): a key with the value null is removed. */
  metadata?: MetadataInput | undefined;
  /** The fields to replace as a whole: `email`, `first_name`, `last_name`, `metadata`, or `*` for all of them. */
  update_mask?: readonly string[] | undefined;
  /** The etag that the caller expects. If the user has another etag, the write is rejected. */
  etag?: string | undefined;
  /** Idempotency key of the write, a UUID; see `ICreateUserRequest.request_id`. */
  request_id?: string | undefined;
  /**
   * Whether to add the user if it does not exist. The new user gets all fields of the request. With an etag, a missing
   * user is an error.
   */
  allow_missing?: boolean | undefined;
}

/** Request of `SessionManager.add`. Undefined fields are treated as absent. */
export interface ICreateSessionRequest {
  /** user_id of the user to which the session will belong. */
  user_id: string;
  /** Key of the new session, unique among the sessions of its user. Limits: see `ICreateUserRequest.user_id`. */
  session_id: string;
  /** JSON object with the caller's own data; see `ICreateUserRequest.metadata`. */
  metadata?: MetadataInput | undefined;
  /** Idempotency key of the write, a UUID; see `ICreateUserRequest.request_id`. */
  request_id?: string | undefined;
  /** Time at which the session expires: in the future, before the year 2200. It excludes `ttl`. */
  expire_time?: Date | undefined;
  /** Number of seconds after which the session expires. It excludes `expire_time`. */
  ttl?: number | undefined;
  /** Number of seconds without a touch after which the session expires; see `SessionManager.touch`. */
  idle_ttl?: number | undefined;
}

/** Request of `SessionManager.update`. Absent and undefined fields are not changed. */
export interface IUpdateSessionRequest {
  /** user_id of the user to which the session belongs. */
  user_id: string;
  /** session_id of the session to update. */
  session_id: string;
  /** Changes to the metadata; see `IUpdateUserRequest.metadata`. */
  metadata?: MetadataInput | undefined;
  /** The fields to replace as a whole: `metadata` or `*`, which have the same effect. */
  update_mask?: readonly string[] | undefined;
  /** The etag that the caller expects. If the session has another etag, the write is rejected. */
  etag?: string | undefined;
  /** Idempotency key of the write, a UUID; see `ICreateUserRequest.request_id`. */
  request_id?: string | undefined;
}

const MAX_INT32 = 2 ** 31 - 1;

/** A field with the names of values of an enum, or a list of them. */
type EnumField = Pick<DescField & { readonly fieldKind: "enum" }, "name" | "number" | "enum">;

/**
 * Encodes a request.
 *
 * @param schema - The generated descriptor of the request.
 * @param fields - The fields by name. Fields that are undefined or null are treated as absent.
 * @throws InvalidArgumentError if a field is unknown or a value is invalid; `violations` lists all invalid fields.
 */
export function encodeRequest(schema: DescMessage, fields: object): Buffer {
  const known = new Map(schema.fields.map((field) => [field.name, field]));
  const writer = new BinaryWriter();
  const violations: FieldViolation[] = [];
  for (const [name, value] of Object.entries<unknown>(fields as Record<string, unknown>)) {
    const field = known.get(name);
    if (field === undefined) {
      const description = `is not a field; the fields are ${[...known.keys()].join(", ")}`;
      violations.push({ field: name.toWellFormed(), description });
    } else if (value !== undefined && value !== null) {
      violations.push(...writeField(writer, field, value));
    }
  }
  reject(violations);
  return asBuffer(writer.finish());
}

/**
 * Rejects arguments, if there are violations.
 *
 * @throws InvalidArgumentError with all violations.
 */
export function reject(violations: readonly FieldViolation[]): void {
  if (violations.length > 0) {
    const summary = violations.map(({ field, description }) => `${field}: ${description}`).join("; ");
    throw new InvalidArgumentError(`the request was not sent: ${summary}`, { violations });
  }
}

/** Returns the bytes as a Buffer, without a copy. grpc-js sends only Buffers. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Writes one field; returns the violations of its value. */
function writeField(writer: BinaryWriter, field: DescField, value: unknown): readonly FieldViolation[] {
  const { name, number } = field;
  if (field.fieldKind === "message" && field.message.typeName === StructSchema.typeName) {
    writer.tag(number, WireType.LengthDelimited).fork();
    const violations = writeMetadata(writer, value, name);
    writer.join();
    return violations;
  }
  if (field.fieldKind === "message" && field.message.typeName === FieldMaskSchema.typeName) {
    writer.tag(number, WireType.LengthDelimited).fork();
    const violations = writeTexts(writer, FieldMaskSchema.field.paths.number, value, name);
    writer.join();
    return violations;
  }
  if (field.fieldKind === "message") {
    const { typeName } = field.message;
    return writeTime(writer, number, value, name, typeName === TimestampSchema.typeName);
  }
  if (field.fieldKind === "list" && field.listKind === "enum") {
    return writeEnums(writer, field, value);
  }
  if (field.fieldKind === "list") {
    return writeTexts(writer, number, value, name);
  }
  if (field.fieldKind === "enum") {
    return writeEnum(writer, field, value);
  }
  if (field.scalar === ScalarType.STRING) {
    return writeText(writer, number, value, name);
  }
  if (field.scalar === ScalarType.BOOL) {
    return writeBoolean(writer, number, value, name);
  }
  return writeInteger(writer, number, value, name, field.scalar === ScalarType.INT32);
}

/** The range of google.protobuf.Duration: 10 000 years. */
const MOST_SECONDS = 315_576_000_000;

/** Writes a Timestamp, which is given as a Date, or a Duration, which is given as a number of seconds. */
function writeTime(
  writer: BinaryWriter,
  number: number,
  value: unknown,
  name: string,
  isTimestamp: boolean,
): FieldViolation[] {
  let microseconds: number;
  if (isTimestamp) {
    microseconds = value instanceof Date ? value.getTime() * 1e3 : NaN;
  } else {
    microseconds = typeof value === "number" && Math.abs(value) <= MOST_SECONDS ? Math.round(value * 1e6) : NaN;
  }
  if (Number.isNaN(microseconds)) {
    const wanted = isTimestamp ? "a valid Date" : "a number of seconds";
    return [
      { field: name, description: `must be ${wanted}, not ${typeof value === "number" ? value : nameOf(value)}` },
    ];
  }
  // The nanoseconds of a Timestamp are never negative; those of a Duration have the sign of the seconds.
  const seconds = isTimestamp ? Math.floor(microseconds / 1e6) : Math.trunc(microseconds / 1e6);
  const nanos = (microseconds - seconds * 1e6) * 1e3;
  writer.tag(number, WireType.LengthDelimited).fork();
  writer.tag(1, WireType.Varint).int64(seconds).tag(2, WireType.Varint).int32(nanos);
  writer.join();
  return [];
}

/** Writes an enum by the name of a value without the prefix that the name of the enum adds, such as `BASIC`. */
function writeEnum(writer: BinaryWriter, { name, number, enum: kind }: EnumField, value: unknown): FieldViolation[] {
  const prefix = `${kind.name.replace(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase()}_`;
  const names = new Map(
    kind.values.filter((each) => each.number !== 0).map((each) => [each.name.replace(prefix, ""), each.number]),
  );
  const chosen = typeof value === "string" ? names.get(value) : undefined;
  if (chosen === undefined) {
    const given = typeof value === "string" ? JSON.stringify(value) : nameOf(value);
    return [{ field: name, description: `must be one of ${[...names.keys()].join(", ")}, not ${given}` }];
  }
  writer.tag(number, WireType.Varint).int32(chosen);
  return [];
}

function writeEnums(writer: BinaryWriter, field: EnumField, value: unknown): FieldViolation[] {
  const { name, number } = field;
  if (!isList(value)) {
    return [{ field: name, description: `must be a list of strings, not ${nameOf(value)}` }];
  }
  return Array.from(value).flatMap((item, index) =>
    writeEnum(writer, { name: `${name}[${index}]`, number, enum: field.enum }, item),
  );
}

/** Returns whether the value is a list. Strings are iterable, but would silently become lists of their letters. */
export function isList(value: unknown): value is Iterable<unknown> {
  return typeof value === "object" && value !== null && Symbol.iterator in value;
}

function writeTexts(writer: BinaryWriter, number: number, value: unknown, name: string): FieldViolation[] {
  if (!isList(value)) {
    return [{ field: name, description: `must be a list of strings, not ${nameOf(value)}` }];
  }
  return Array.from(value).flatMap((item, index) => writeText(writer, number, item, `${name}[${index}]`));
}

function writeText(writer: BinaryWriter, number: number, value: unknown, name: string): FieldViolation[] {
  if (typeof value !== "string") {
    return [{ field: name, description: `must be a string, not ${nameOf(value)}` }];
  }
  if (!value.isWellFormed()) {
    return [{ field: name, description: "has a lone surrogate, which UTF-8 cannot encode" }];
  }
  writer.tag(number, WireType.LengthDelimited).string(value);
  return [];
}

function writeBoolean(writer: BinaryWriter, number: number, value: unknown, name: string): FieldViolation[] {
  if (typeof value !== "boolean") {
    return [{ field: name, description: `must be a boolean, not ${nameOf(value)}` }];
  }
  writer.tag(number, WireType.Varint).bool(value);
  return [];
}

function writeInteger(
  writer: BinaryWriter,
  number: number,
  value: unknown,
  name: string,
  short: boolean,
): FieldViolation[] {
  if (!Number.isInteger(value)) {
    const description = `must be a whole number, not ${typeof value === "number" ? value : nameOf(value)}`;
    return [{ field: name, description }];
  }
  const integer = value as number;
  if (short ? integer > MAX_INT32 || integer < -MAX_INT32 - 1 : !Number.isSafeInteger(integer)) {
    return [{ field: name, description: `must fit in ${short ? 32 : 53} bits` }];
  }
  writer.tag(number, WireType.Varint).int64(integer);
  return [];
}
