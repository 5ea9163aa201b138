/**
 * Converts metadata between plain values and an encoded google.protobuf.Struct.
 *
 * All numbers in a Struct are IEEE 754 doubles. A double represents integers up to ±2^53 exactly. A larger integer may
 * have been rounded already, so the client rejects it before sending anything.
 */

import { type BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

import { type FieldViolation, InternalError } from "./errors.js";
import { lengthDelimited, MalformedError, WireReader } from "./wire.js";

/** A value in metadata. An integer must be within ±2^53. A bigint is sent as a number and is received as a number. */
export type MetadataValue =
  string | number | bigint | boolean | null | readonly MetadataValue[] | { readonly [key: string]: MetadataValue };

/** Metadata of a request: a plain object, at most 64 KiB encoded and 16 levels deep. */
export type MetadataInput = Readonly<Record<string, MetadataValue>>;

/** Metadata of a response: a plain object, which the caller may change. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any -- as in JSON.parse: only the program knows the types
export type Metadata = Record<string, any>;

/** The largest absolute value of an integer in metadata. */
const MAX_WHOLE_NUMBER = 2 ** 53;

/** Maximum depth of metadata: metadata itself is level 1, and each nested object or array adds a level. */
const MAX_DEPTH = 16;

/**
 * Maximum depth that the client sends. Metadata between this limit and MAX_DEPTH is sent, because the service reports
 * it together with all other invalid fields. Deeper metadata is rejected by the client: each object takes three levels
 * of messages, and a protobuf parser rejects more than 100 levels with an error that names no field.
 */
const SENDABLE_DEPTH = 30;

/** Field numbers of google.protobuf.Value. Struct and ListValue have only field 1; a map entry has fields 1 and 2. */
const Kind = { NULL: 1, NUMBER: 2, STRING: 3, BOOL: 4, STRUCT: 5, LIST: 6 } as const;

/** Metadata of a response that is not decoded yet. */
export class EncodedMetadata {
  /** No metadata at all. */
  static readonly EMPTY = new EncodedMetadata(Buffer.alloc(0), 0, 0);

  /** The bytes from start to end are the encoded google.protobuf.Struct. */
  constructor(
    private readonly bytes: Buffer,
    private readonly start: number,
    private readonly end: number,
  ) {}

  /**
   * Decodes the metadata.
   *
   * @returns A new plain object. Its values are null, boolean, number, string, array and plain object. The keys of each
   *   object are sorted by code point, except that JavaScript puts keys like "0" and "12" before all others.
   * @throws InternalError if the bytes are not a Struct.
   */
  decode(): Metadata {
    try {
      return readStruct(new WireReader(this.bytes, this.start, this.end), 1);
    } catch (error) {
      throw new InternalError("cannot decode the metadata that the service returned", { cause: error });
    }
  }
}

const ENTRY = lengthDelimited(1);
const KEY = lengthDelimited(1);
const ENTRY_VALUE = lengthDelimited(2);
const ITEM = lengthDelimited(1);

const NUMBER_VALUE = (Kind.NUMBER << 3) | WireType.Bit64;
const STRING_VALUE = lengthDelimited(Kind.STRING);
const BOOL_VALUE = (Kind.BOOL << 3) | WireType.Varint;
const STRUCT_VALUE = lengthDelimited(Kind.STRUCT);
const LIST_VALUE = lengthDelimited(Kind.LIST);

/** Maximum depth that is decoded. Protobuf parsers accept less, and the stack is large enough for much more. */
const DECODABLE_DEPTH = 100;

function readStruct(reader: WireReader, depth: number): Metadata {
  if (depth > DECODABLE_DEPTH) {
    throw new MalformedError(`metadata of more than ${DECODABLE_DEPTH} levels`);
  }
  const object: Metadata = {};
  let sorted = true;
  let last: string | undefined;
  while (reader.pos < reader.end) {
    const tag = reader.uint32();
    if (tag !== ENTRY) {
      reader.skip(tag);
      continue;
    }
    const outerEnd = reader.end;
    reader.end = reader.contentEnd();
    let key = "";
    let value: unknown = null;
    while (reader.pos < reader.end) {
      const field = reader.uint32();
      if (field === KEY) {
        key = reader.text();
      } else if (field === ENTRY_VALUE) {
        value = readValue(reader, depth);
      } else {
        reader.skip(field);
      }
    }
    reader.end = outerEnd;
    sorted &&= last === undefined || compareCodePoints(last, key) < 0;
    last = key;
    setOwn(object, key, value);
  }
  return sorted ? object : withSortedKeys(object);
}

function withSortedKeys(object: Metadata): Metadata {
  const sorted: Metadata = {};
  for (const key of Object.keys(object).sort(compareCodePoints)) {
    setOwn(sorted, key, object[key]);
  }
  return sorted;
}

function setOwn(object: Metadata, key: string, value: unknown): void {
  if (key === "__proto__") {
    // An assignment would set the object's prototype instead.
    Object.defineProperty(object, key, { value, writable: true, enumerable: true, configurable: true });
  } else {
    object[key] = value;
  }
}

/** Compares by code points, as Python does. JavaScript's `<` compares UTF-16 units, so U+E000 is after U+1F600. */
export function compareCodePoints(left: string, right: string): number {
  const length = Math.min(left.length, right.length);
  for (let index = 0; index < length; index++) {
    const difference = rank(left.charCodeAt(index)) - rank(right.charCodeAt(index));
    if (difference !== 0) {
      return difference;
    }
  }
  return left.length - right.length;
}

/** Returns the rank of a UTF-16 unit. Surrogates rank last, because they encode the highest code points. */
function rank(unit: number): number {
  return unit < 0xd800 ? unit : unit < 0xe000 ? unit + 0x2000 : unit - 0x800;
}

function readValue(reader: WireReader, depth: number): unknown {
  const outerEnd = reader.end;
  reader.end = reader.contentEnd();
  let value: unknown = null;
  while (reader.pos < reader.end) {
    const tag = reader.uint32();
    switch (tag) {
      case NUMBER_VALUE:
        value = reader.double();
        break;
      case STRING_VALUE:
        value = reader.text();
        break;
      case BOOL_VALUE:
        value = reader.int64() !== 0;
        break;
      case STRUCT_VALUE:
        value = readInside(reader, readStruct, depth + 1);
        break;
      case LIST_VALUE:
        value = readInside(reader, readList, depth + 1);
        break;
      default:
        reader.skip(tag);
        value = null;
    }
  }
  reader.end = outerEnd;
  return value;
}

function readInside<T>(reader: WireReader, read: (reader: WireReader, depth: number) => T, depth: number): T {
  const outerEnd = reader.end;
  reader.end = reader.contentEnd();
  const value = read(reader, depth);
  reader.end = outerEnd;
  return value;
}

function readList(reader: WireReader, depth: number): unknown[] {
  if (depth > DECODABLE_DEPTH) {
    throw new MalformedError(`metadata of more than ${DECODABLE_DEPTH} levels`);
  }
  const list: unknown[] = [];
  while (reader.pos < reader.end) {
    const tag = reader.uint32();
    if (tag === ITEM) {
      list.push(readValue(reader, depth));
    } else {
      reader.skip(tag);
    }
  }
  return list;
}

/**
 * Writes a plain object as the content of a Struct.
 *
 * @param writer - The writer. If there are violations, its content is incomplete and must not be used.
 * @param metadata - The value to write.
 * @param path - The first part of the field of each violation, such as `metadata`.
 * @returns All violations; empty if the metadata is valid.
 */
export function writeMetadata(writer: BinaryWriter, metadata: unknown, path: string): FieldViolation[] {
  const encoder = new Encoder(writer);
  if (isPlainObject(metadata)) {
    encoder.writeObject(metadata, path);
  } else {
    encoder.refuse(path, `must be a plain object, not ${nameOf(metadata)}`);
  }
  return encoder.violations;
}

/** Encodes one metadata object, and collects all violations in it. */
class Encoder {
  readonly violations: FieldViolation[] = [];
  /** The objects and arrays from the root to the current one. Their number is the depth. */
  readonly #ancestors: unknown[] = [];

  constructor(private readonly writer: BinaryWriter) {}

  refuse(field: string, description: string): void {
    this.violations.push({ field, description });
  }

  writeObject(object: Readonly<Record<string, unknown>>, path: string): void {
    if (!this.#enter(object, path)) {
      return;
    }
    if (Object.getOwnPropertySymbols(object).length > 0) {
      this.refuse(path, "keys must be strings, not symbols");
    }
    for (const key of Object.keys(object)) {
      if (key.isWellFormed()) {
        this.writer.tag(1, WireType.LengthDelimited).fork().tag(1, WireType.LengthDelimited).string(key);
        this.#writeValue(2, object[key], `${path}.${key}`);
        this.writer.join();
      } else {
        this.refuse(`${path}.${key.toWellFormed()}`, "the key has a lone surrogate, which UTF-8 cannot encode");
      }
    }
    this.#ancestors.pop();
  }

  #writeList(list: readonly unknown[], path: string): void {
    if (!this.#enter(list, path)) {
      return;
    }
    // The loop uses the index, because iteration methods would skip the holes of a sparse array.
    for (let index = 0; index < list.length; index++) {
      this.#writeValue(1, list[index], `${path}[${index}]`);
    }
    this.#ancestors.pop();
  }

  /** Enters an object or array. Returns false if it contains itself or is too deep. */
  #enter(container: unknown, path: string): boolean {
    if (this.#ancestors.includes(container)) {
      this.refuse(path, "must not contain itself");
      return false;
    }
    if (this.#ancestors.length === SENDABLE_DEPTH) {
      this.refuse(path, `must be at most ${MAX_DEPTH} levels deep, where metadata itself is the first`);
      return false;
    }
    this.#ancestors.push(container);
    return true;
  }

  #writeValue(field: number, value: unknown, path: string): void {
    this.writer.tag(field, WireType.LengthDelimited).fork();
    if (value === null) {
      this.writer.tag(Kind.NULL, WireType.Varint).int32(0);
    } else if (typeof value === "string") {
      if (value.isWellFormed()) {
        this.writer.tag(Kind.STRING, WireType.LengthDelimited).string(value);
      } else {
        this.refuse(path, "has a lone surrogate, which UTF-8 cannot encode");
      }
    } else if (typeof value === "boolean") {
      this.writer.tag(Kind.BOOL, WireType.Varint).bool(value);
    } else if (typeof value === "number" || typeof value === "bigint") {
      this.#writeNumber(value, path);
    } else if (Array.isArray(value)) {
      this.writer.tag(Kind.LIST, WireType.LengthDelimited).fork();
      this.#writeList(value, path);
      this.writer.join();
    } else if (isPlainObject(value)) {
      this.writer.tag(Kind.STRUCT, WireType.LengthDelimited).fork();
      this.writeObject(value, path);
      this.writer.join();
    } else if (value === undefined) {
      this.refuse(path, "is undefined; omit the key or set it to null");
    } else {
      this.refuse(path, `must be null, boolean, number, string, array or plain object, not ${nameOf(value)}`);
    }
    this.writer.join();
  }

  #writeNumber(value: number | bigint, path: string): void {
    if (typeof value === "number" && !Number.isFinite(value)) {
      this.refuse(path, "must be a finite number: NaN and the infinities are not JSON");
    } else if (value > MAX_WHOLE_NUMBER || value < -MAX_WHOLE_NUMBER) {
      // Every double of this size is an integer.
      this.refuse(path, "a whole number must be within ±2^53, or it would be rounded; send it as a string");
    } else {
      this.writer.tag(Kind.NUMBER, WireType.Bit64).double(Number(value));
    }
  }
}

/** Returns whether the value is a plain object (of this realm or another), or an object without a prototype. */
function isPlainObject(value: unknown): value is Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null) {
    return false;
  }
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** Returns the name of a value's type for an error message. */
export function nameOf(value: unknown): string {
  if (typeof value !== "object" || value === null) {
    return value === null ? "null" : typeof value;
  }
  return Object.prototype.toString.call(value).slice("[object ".length, -1) === "Object"
    ? `an object of class ${value.constructor.name}`
    : Object.prototype.toString.call(value).slice("[object ".length, -1);
}
