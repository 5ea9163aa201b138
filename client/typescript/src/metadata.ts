/**
 * Metadata between plain values and an encoded google.protobuf.Struct.
 *
 * A Struct knows one kind of number, the IEEE 754 double. Whole numbers up to ±2^53 survive it exactly; a larger one
 * may have been rounded already, so it is refused here, before anything is sent.
 */

import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

import type { FieldViolation } from "./errors.js";

/** A value that metadata holds. A whole number must be within ±2^53; a bigint comes back as a number. */
export type MetadataValue =
  string | number | bigint | boolean | null | readonly MetadataValue[] | { readonly [key: string]: MetadataValue };

/** Metadata to be sent: a plain object, at most 64 KiB encoded and 16 levels deep. */
export type MetadataInput = Readonly<Record<string, MetadataValue>>;

/** Metadata that was received: a plain object, the caller's own to change. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any -- as JSON.parse: whoever wrote it knows its shape
export type Metadata = Record<string, any>;

/** The largest whole number, either sign, that metadata can hold. */
const MAX_WHOLE_NUMBER = 2 ** 53;

/** How deep metadata may nest: metadata itself is level 1, and each object or array inside another adds one. */
const MAX_DEPTH = 16;

/**
 * How deep metadata is sent, for the service to refuse it together with whatever else is wrong with the request. Each
 * object takes three levels of messages, and a receiver gives up at 100 with an error that names no field. So what is
 * deeper than this is refused here.
 */
const SENDABLE_DEPTH = 30;

/** The fields of google.protobuf.Value; of Struct, of ListValue and of a map's entry they are 1, or 1 and 2. */
const Kind = { NULL: 1, NUMBER: 2, STRING: 3, BOOL: 4, STRUCT: 5, LIST: 6 } as const;

/**
 * Decodes an encoded Struct.
 *
 * @param encoded - A serialised google.protobuf.Struct; empty means an empty one.
 * @returns A new plain object of null, boolean, number, string, array and plain object.
 * @throws Error if the bytes are not a Struct.
 */
export function decodeMetadata(encoded: Uint8Array): Metadata {
  return readStruct(new BinaryReader(encoded), encoded.length);
}

function readStruct(reader: BinaryReader, end: number): Metadata {
  const object: Metadata = {};
  while (reader.pos < end) {
    reader.tag();
    const entryEnd = reader.uint32() + reader.pos;
    let key = "";
    let value: unknown = null;
    while (reader.pos < entryEnd) {
      const [field] = reader.tag();
      if (field === 1) {
        key = reader.string();
      } else {
        value = readValue(reader, reader.uint32() + reader.pos);
      }
    }
    if (key === "__proto__") {
      // An assignment would set the object's prototype instead.
      Object.defineProperty(object, key, { value, writable: true, enumerable: true, configurable: true });
    } else {
      object[key] = value;
    }
  }
  return object;
}

function readValue(reader: BinaryReader, end: number): unknown {
  let value: unknown = null;
  while (reader.pos < end) {
    const [kind, wireType] = reader.tag();
    switch (kind) {
      case Kind.NUMBER:
        value = reader.double();
        break;
      case Kind.STRING:
        value = reader.string();
        break;
      case Kind.BOOL:
        value = reader.bool();
        break;
      case Kind.STRUCT:
        value = readStruct(reader, reader.uint32() + reader.pos);
        break;
      case Kind.LIST:
        value = readList(reader, reader.uint32() + reader.pos);
        break;
      default:
        reader.skip(wireType);
        value = null;
    }
  }
  return value;
}

function readList(reader: BinaryReader, end: number): unknown[] {
  const list: unknown[] = [];
  while (reader.pos < end) {
    reader.tag();
    list.push(readValue(reader, reader.uint32() + reader.pos));
  }
  return list;
}

/**
 * Writes a plain object as the content of a Struct.
 *
 * @param writer - Where to write. With violations it holds a part, and must not be used.
 * @param metadata - What to write.
 * @param path - The name to begin the fields of violations with, such as `metadata`.
 * @returns Every violation; empty if all is well.
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

/** One pass over one metadata object, gathering what is wrong with it. */
class Encoder {
  readonly violations: FieldViolation[] = [];
  /** The objects and arrays from the root to the one being written. Their number is the depth. */
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
    // By index, for the holes of a sparse array are to be found too.
    for (let index = 0; index < list.length; index++) {
      this.#writeValue(1, list[index], `${path}[${index}]`);
    }
    this.#ancestors.pop();
  }

  /** Goes one level down, unless that would never end or go too deep. */
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
      this.refuse(path, "is undefined; leave the key out, or give null");
    } else {
      this.refuse(path, `must be null, boolean, number, string, array or plain object, not ${nameOf(value)}`);
    }
    this.writer.join();
  }

  #writeNumber(value: number | bigint, path: string): void {
    if (typeof value === "number" && !Number.isFinite(value)) {
      this.refuse(path, "must be a finite number: NaN and the infinities are not JSON");
    } else if (value > MAX_WHOLE_NUMBER || value < -MAX_WHOLE_NUMBER) {
      // Every double of this size is whole.
      this.refuse(path, "a whole number must be within ±2^53, or it would be rounded; send it as a string");
    } else {
      this.writer.tag(Kind.NUMBER, WireType.Bit64).double(Number(value));
    }
  }
}

/** Tells whether the value is an object as `{}` makes it, of this realm or another, or one without a prototype. */
function isPlainObject(value: unknown): value is Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null) {
    return false;
  }
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** Names what a value is, for people. */
export function nameOf(value: unknown): string {
  if (typeof value !== "object" || value === null) {
    return value === null ? "null" : typeof value;
  }
  return Object.prototype.toString.call(value).slice("[object ".length, -1) === "Object"
    ? `an object of class ${value.constructor.name}`
    : Object.prototype.toString.call(value).slice("[object ".length, -1);
}
