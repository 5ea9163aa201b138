/**
 * From the arguments of a call to the bytes of its request.
 *
 * What can only be said here is checked here: names that are no field, values of the wrong type, metadata that a
 * Struct cannot hold. Lengths, required fields and the like are the service's to check, so that each rule lives in one
 * place.
 */

import { type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";
import { FieldMaskSchema, StructSchema } from "@bufbuild/protobuf/wkt";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

import { type FieldViolation, InvalidArgumentError } from "./errors.js";
import { type MetadataInput, nameOf, writeMetadata } from "./metadata.js";

/** What `UserManager.add` takes. A field that is undefined counts as absent. */
export interface ICreateUserRequest {
  /** Name of the new user. 1 to 256 bytes of UTF-8, no control characters, no white space at the ends. */
  user_id: string;
  /** E-mail address, not parsed, at most 320 bytes. */
  email?: string | undefined;
  /** Given name, at most 256 bytes. */
  first_name?: string | undefined;
  /** Family name, at most 256 bytes. */
  last_name?: string | undefined;
  /** Free-form data, 16 levels deep, 64 KiB encoded, whole numbers within ±2^53. */
  metadata?: MetadataInput | undefined;
  /** A UUID that names this attempt, made by the manager if absent. A repetition within 10 minutes is applied once. */
  request_id?: string | undefined;
}

/** What `UserManager.update` takes. A field that is undefined counts as absent; what is absent stays as it is. */
export interface IUpdateUserRequest {
  /** Name of the user to change. */
  user_id: string;
  /** New e-mail address; empty clears it. */
  email?: string | undefined;
  /** New given name; empty clears it. */
  first_name?: string | undefined;
  /** New family name; empty clears it. */
  last_name?: string | undefined;
  /** Changes to the metadata, merged as JSON Merge Patch (RFC 7396) says: null removes a key. */
  metadata?: MetadataInput | undefined;
  /** Fields to replace whole instead: `email`, `first_name`, `last_name`, `metadata`, or `*` for all of them. */
  update_mask?: readonly string[] | undefined;
  /** The etag as the caller knows it; if it is not the current one, nothing is changed. */
  etag?: string | undefined;
  /** A UUID that names this attempt; see `ICreateUserRequest.request_id`. */
  request_id?: string | undefined;
}

/** What `SessionManager.add` takes. A field that is undefined counts as absent. */
export interface ICreateSessionRequest {
  /** The user that the session will belong to. */
  user_id: string;
  /** Name of the new session, unique within its user. Limits as for user_id. */
  session_id: string;
  /** Free-form data; see `ICreateUserRequest.metadata`. */
  metadata?: MetadataInput | undefined;
  /** A UUID that names this attempt; see `ICreateUserRequest.request_id`. */
  request_id?: string | undefined;
}

/** What `SessionManager.update` takes. A field that is undefined counts as absent; what is absent stays as it is. */
export interface IUpdateSessionRequest {
  /** The user that the session belongs to. */
  user_id: string;
  /** Name of the session to change. */
  session_id: string;
  /** Changes to the metadata; see `IUpdateUserRequest.metadata`. */
  metadata?: MetadataInput | undefined;
  /** Fields to replace whole instead: `metadata`, or `*`, which is the same here. */
  update_mask?: readonly string[] | undefined;
  /** The etag as the caller knows it; if it is not the current one, nothing is changed. */
  etag?: string | undefined;
  /** A UUID that names this attempt; see `ICreateUserRequest.request_id`. */
  request_id?: string | undefined;
}

const MAX_INT32 = 2 ** 31 - 1;

/**
 * Encodes a request.
 *
 * @param schema - The generated description of the request.
 * @param fields - The fields by name. One that is undefined or null counts as absent.
 * @throws InvalidArgumentError if a name is no field of the request, or a value does not fit its field; with every
 *   violation of the request, not only the first.
 */
export function encodeRequest(schema: DescMessage, fields: object): Buffer {
  const known = new Map(schema.fields.map((field) => [field.name, field]));
  const writer = new BinaryWriter();
  const violations: FieldViolation[] = [];
  for (const [name, value] of Object.entries<unknown>(fields as Record<string, unknown>)) {
    const field = known.get(name);
    if (field === undefined) {
      const description = `is not a field; there are ${[...known.keys()].join(", ")}`;
      violations.push({ field: name.toWellFormed(), description });
    } else if (value !== undefined && value !== null) {
      violations.push(...writeField(writer, field, value));
    }
  }
  if (violations.length > 0) {
    const summary = violations.map(({ field, description }) => `${field}: ${description}`).join("; ");
    throw new InvalidArgumentError(`the request was not sent: ${summary}`, { violations });
  }
  return asBuffer(writer.finish());
}

/** The same bytes as a Buffer, which is what gRPC sends. */
function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Writes one field; returns what is wrong with the value. */
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
  if (field.fieldKind === "list") {
    return writeTexts(writer, number, value, name);
  }
  if (field.scalar === ScalarType.STRING) {
    return writeText(writer, number, value, name);
  }
  return writeInteger(writer, number, value, name, field.scalar === ScalarType.INT32);
}

/** Tells whether the value can be a list. A string, iterable too, would silently become a list of its letters. */
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
