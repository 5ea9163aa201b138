/**
 * What the service returns: users, sessions, and the lists that they come in.
 *
 * The objects are views of the encoded record. A field is decoded when it is read, so that a program that goes through
 * a million users for one field pays for one field; metadata, by far the most expensive one, is decoded at the first
 * read and kept. A view keeps the answer alive that it came in, up to 1 MiB for a chunk: to keep a few users of a long
 * stream, keep what `toJSON` returns, which stands alone.
 */

import { inspect } from "node:util";

import { BinaryReader } from "@bufbuild/protobuf/wire";
import { TimestampSchema } from "@bufbuild/protobuf/wkt";

import { SessionSchema } from "./gen/userservice/v1/session_pb.js";
import { UserSchema } from "./gen/userservice/v1/user_pb.js";
import { decodeMetadata, type Metadata } from "./metadata.js";

/** What users and sessions have in common. */
export interface RecordFields {
  /** Place in the lists. Grows with creation, is never reused, fits 53 bits. Also what cursors are made of. */
  readonly id: number;
  /** Globally unique identifier made by the service: a UUID of version 7 in its canonical text form. */
  readonly uuid: string;
  /** The caller's own name for the user, 1 to 256 bytes of UTF-8. */
  readonly user_id: string;
  /**
   * The caller's own data: null, boolean, number, string, array and plain object. Empty if there is none. Changing it
   * changes nothing in the service.
   */
  readonly metadata: Metadata;
  /** When it was added, by the service's clock, cut to milliseconds. */
  readonly created_at: Date;
  /** The same in microseconds since 1970 began in UTC, as precise as the service has it. */
  readonly created_at_us: number;
  /** When it was last written, by the service's clock, cut to milliseconds. Equal to created_at until an update. */
  readonly updated_at: Date;
  /** The same in microseconds since 1970 began in UTC. */
  readonly updated_at_us: number;
  /** Version: opaque, different after every write. For an update or delete that must not overwrite others'. */
  readonly etag: string;
}

/** The fields of a user. */
export interface UserFields extends RecordFields {
  /** E-mail address as it was given, at most 320 bytes; empty if there is none. */
  readonly email: string;
  /** Given name, at most 256 bytes; empty if there is none. */
  readonly first_name: string;
  /** Family name, at most 256 bytes; empty if there is none. */
  readonly last_name: string;
}

/** The fields of a session. */
export interface SessionFields extends RecordFields {
  /** The caller's own name for the session, 1 to 256 bytes of UTF-8, unique within its user. */
  readonly session_id: string;
}

/** A user as the service stored it. The fields are read through getters, which `{...user}` does not copy. */
export interface User extends UserFields {
  /** Returns all fields as a plain object, with the `metadata` of the view itself. */
  toJSON(): UserFields;
}

/** A session as the service stored it. The fields are read through getters, which `{...session}` does not copy. */
export interface Session extends SessionFields {
  /** Returns all fields as a plain object, with the `metadata` of the view itself. */
  toJSON(): SessionFields;
}

/** Where a list goes on, and how long it is. */
export interface Page {
  /** The cursor of the next page; 0 at the end. */
  readonly next_cursor: number;
  /**
   * How many there are in all: for a page at the time of the call, for a chunk at the start of its stream.
   */
  readonly total_size: number;
}

/** A page or chunk of users, in the order of their ids. */
export interface UserPage extends Array<User>, Page {}

/** A page of the sessions of one user, in the order of their ids. */
export interface SessionPage extends Array<Session>, Page {}

/** The users that were asked for by name and exist, in the order of the request. */
export interface UserBatch extends Array<User> {
  /** The names for which there is no user, in the order of the request. */
  readonly missing_user_ids: readonly string[];
}

/** The numbers of the fields that users and sessions both have. */
interface FieldNumbers {
  readonly id: number;
  readonly uuid: number;
  readonly userId: number;
  readonly metadata: number;
  readonly createdAt: number;
  readonly updatedAt: number;
  readonly etag: number;
}

function numbersOf<Name extends string>(fields: Record<Name, { readonly number: number }>): Record<Name, number> {
  const entries = Object.entries<{ readonly number: number }>(fields).map(([name, { number }]) => [name, number]);
  return Object.fromEntries(entries) as Record<Name, number>;
}

const USER = numbersOf(UserSchema.field);
const SESSION = numbersOf(SessionSchema.field);
const TIMESTAMP = numbersOf(TimestampSchema.field);

/** Returns a reader that stands at the content of a field, or undefined if the message does not have it. */
function seek(encoded: Uint8Array, number: number): BinaryReader | undefined {
  const reader = new BinaryReader(encoded);
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field === number) {
      return reader;
    }
    reader.skip(wireType);
  }
  return undefined;
}

function readInteger(encoded: Uint8Array, number: number): number {
  return Number(seek(encoded, number)?.int64() ?? 0);
}

abstract class View implements RecordFields {
  protected abstract readonly numbers: FieldNumbers;
  #metadata: Metadata | undefined;

  /** @param encoded - The encoded message. An ordinary property, so that deepEqual can tell records apart. */
  constructor(protected readonly encoded: Uint8Array) {}

  get id(): number {
    return readInteger(this.encoded, this.numbers.id);
  }

  get uuid(): string {
    return this.text(this.numbers.uuid);
  }

  get user_id(): string {
    return this.text(this.numbers.userId);
  }

  get metadata(): Metadata {
    return (this.#metadata ??= decodeMetadata(this.#bytes(this.numbers.metadata)));
  }

  get created_at(): Date {
    return new Date(Math.floor(this.created_at_us / 1e3));
  }

  get created_at_us(): number {
    return this.#time(this.numbers.createdAt);
  }

  get updated_at(): Date {
    return new Date(Math.floor(this.updated_at_us / 1e3));
  }

  get updated_at_us(): number {
    return this.#time(this.numbers.updatedAt);
  }

  get etag(): string {
    return this.text(this.numbers.etag);
  }

  toJSON(): RecordFields {
    const { user_id, id, uuid, metadata, created_at, created_at_us, updated_at, updated_at_us, etag } = this;
    return { user_id, id, uuid, metadata, created_at, created_at_us, updated_at, updated_at_us, etag };
  }

  protected text(number: number): string {
    return seek(this.encoded, number)?.string() ?? "";
  }

  #bytes(number: number): Uint8Array {
    return seek(this.encoded, number)?.bytes() ?? new Uint8Array();
  }

  #time(number: number): number {
    const timestamp = this.#bytes(number);
    return readInteger(timestamp, TIMESTAMP.seconds) * 1e6 + readInteger(timestamp, TIMESTAMP.nanos) / 1e3;
  }
}

/** Makes a `User` of an encoded one. */
export class UserView extends View implements User {
  protected get numbers(): FieldNumbers {
    return USER;
  }

  get email(): string {
    return this.text(USER.email);
  }

  get first_name(): string {
    return this.text(USER.firstName);
  }

  get last_name(): string {
    return this.text(USER.lastName);
  }

  override toJSON(): UserFields {
    const { email, first_name, last_name } = this;
    return { ...super.toJSON(), email, first_name, last_name };
  }

  // Logs are full of what was inspected: no personal data beyond the name that the program itself uses.
  [inspect.custom](): string {
    return `<User user_id=${inspect(this.user_id)} id=${this.id}>`;
  }
}

/** Makes a `Session` of an encoded one. */
export class SessionView extends View implements Session {
  protected get numbers(): FieldNumbers {
    return SESSION;
  }

  get session_id(): string {
    return this.text(SESSION.sessionId);
  }

  override toJSON(): SessionFields {
    return { session_id: this.session_id, ...super.toJSON() };
  }

  [inspect.custom](): string {
    return `<Session session_id=${inspect(this.session_id)} user_id=${inspect(this.user_id)} id=${this.id}>`;
  }
}
