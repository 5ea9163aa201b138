/**
 * What the service returns: users, sessions, and the lists that they come in.
 *
 * Fields are plain properties of the objects themselves, so everything that copies, sends or shows objects finds them:
 * `structuredClone`, `postMessage`, `{...user}`, `Object.entries`, `console.table`, `JSON.stringify`. Only metadata, by
 * far the most expensive field, is decoded when it is first read. Until then a record keeps the response alive that it
 * came in, up to 1 MiB for a chunk: to keep a few users of a long stream, keep `user.copy()`.
 */

import { inspect } from "node:util";

import { EncodedMetadata, type Metadata } from "./metadata.js";

/** What users and sessions have in common. */
export interface RecordFields {
  /** Place in the lists. Grows with creation, is never reused, fits 53 bits. Also what cursors are made of. */
  readonly id: number;
  /** Globally unique identifier made by the service: a UUID of version 7 in its canonical text form. */
  readonly uuid: string;
  /** The caller's own name for the user, 1 to 256 bytes of UTF-8. */
  readonly user_id: string;
  /**
   * The caller's own data: null, boolean, number, string, array and plain object. Empty if there is none. The keys of
   * each object are in the order of their code points, except that JavaScript puts keys like "0" and "12" first.
   * Changing it changes nothing in the service.
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

/**
 * Some of the fields of a record. What is left out, or undefined, is empty or 0, and times are 1970. Of a time and the
 * same time in microseconds one is enough.
 */
export type Some<Fields, Required extends keyof Fields = never> = {
  readonly [Name in keyof Fields]?: Fields[Name] | undefined;
} & { readonly [Name in Required]: Fields[Name] };

/** The times of a record, each in both forms. */
type Times = Pick<RecordFields, "created_at" | "created_at_us" | "updated_at" | "updated_at_us">;

/** What users and sessions share: metadata that is decoded at its first reading. */
abstract class StoredRecord {
  declare readonly metadata: Metadata;
  #metadata: Metadata | EncodedMetadata | undefined;

  /**
   * One description for all records, so that they share a hidden class. The property stays an accessor: to replace it
   * by its value costs more than to decode it.
   */
  static readonly #DECODED_WHEN_READ: PropertyDescriptor & ThisType<StoredRecord> = {
    get() {
      if (this.#metadata instanceof EncodedMetadata) {
        this.#metadata = this.#metadata.decode();
      }
      return this.#metadata;
    },
    set(value: Metadata) {
      this.#metadata = value;
    },
    enumerable: true,
    configurable: true,
  };

  /** Defines `metadata`. To be called by the constructors, where the property is to stand among the others. */
  protected defineMetadata(metadata: Metadata | EncodedMetadata): void {
    if (!(metadata instanceof EncodedMetadata)) {
      (this as { metadata: Metadata }).metadata = metadata;
    } else if (metadata === EncodedMetadata.EMPTY) {
      (this as { metadata: Metadata }).metadata = {};
    } else {
      this.#metadata = metadata;
      Object.defineProperty(this, "metadata", StoredRecord.#DECODED_WHEN_READ);
    }
  }
}

const USER_FIELDS: ReadonlySet<string> = new Set<keyof UserFields>([
  "user_id",
  "id",
  "uuid",
  "email",
  "first_name",
  "last_name",
  "metadata",
  "created_at",
  "created_at_us",
  "updated_at",
  "updated_at_us",
  "etag",
]);

const SESSION_FIELDS: ReadonlySet<string> = new Set<keyof SessionFields>([
  "session_id",
  "id",
  "user_id",
  "uuid",
  "metadata",
  "created_at",
  "created_at_us",
  "updated_at",
  "updated_at_us",
  "etag",
]);

/** A user as the service stored it. */
export class User extends StoredRecord implements UserFields {
  declare readonly user_id: string;
  declare readonly id: number;
  declare readonly uuid: string;
  declare readonly email: string;
  declare readonly first_name: string;
  declare readonly last_name: string;
  declare readonly created_at: Date;
  declare readonly created_at_us: number;
  declare readonly updated_at: Date;
  declare readonly updated_at_us: number;
  declare readonly etag: string;

  /**
   * Makes a user, for tests of programs that get users from the service.
   *
   * @throws TypeError if a name is no field, or user_id is no string.
   */
  constructor(fields: Some<UserFields, "user_id">);
  /** @internal */
  // eslint-disable-next-line @typescript-eslint/unified-signatures -- only the one above is public
  constructor(fields: Some<UserFields, "user_id">, metadata: EncodedMetadata);
  constructor(fields: Some<UserFields, "user_id">, metadata?: EncodedMetadata) {
    super();
    if (metadata === undefined) {
      checkFields(fields, USER_FIELDS, ["user_id"]);
    }
    this.user_id = fields.user_id;
    this.id = fields.id ?? 0;
    this.uuid = fields.uuid ?? "";
    this.email = fields.email ?? "";
    this.first_name = fields.first_name ?? "";
    this.last_name = fields.last_name ?? "";
    this.defineMetadata(metadata ?? fields.metadata ?? {});
    this.created_at = fields.created_at ?? dateOf(fields.created_at_us);
    this.created_at_us = fields.created_at_us ?? microsecondsOf(fields.created_at);
    this.updated_at = fields.updated_at ?? dateOf(fields.updated_at_us);
    this.updated_at_us = fields.updated_at_us ?? microsecondsOf(fields.updated_at);
    this.etag = fields.etag ?? "";
  }

  /** Returns another user with the same fields, but for the changes. The two share no object. */
  copy(changes: Partial<UserFields> = {}): User {
    return new User({ ...structuredClone<UserFields>(this), ...withBothTimes(changes) });
  }

  /** Returns all fields as a plain object. */
  toJSON(): UserFields {
    return { ...(this as UserFields) };
  }

  // Logs are full of what was inspected: no personal data beyond the name that the program itself uses.
  [inspect.custom](): string {
    return `<User user_id=${inspect(this.user_id)} id=${this.id}>`;
  }
}

/** A session as the service stored it. */
export class Session extends StoredRecord implements SessionFields {
  declare readonly session_id: string;
  declare readonly id: number;
  declare readonly user_id: string;
  declare readonly uuid: string;
  declare readonly created_at: Date;
  declare readonly created_at_us: number;
  declare readonly updated_at: Date;
  declare readonly updated_at_us: number;
  declare readonly etag: string;

  /**
   * Makes a session, for tests of programs that get sessions from the service.
   *
   * @throws TypeError if a name is no field, or session_id or user_id are no strings.
   */
  constructor(fields: Some<SessionFields, "session_id" | "user_id">);
  /** @internal */
  // eslint-disable-next-line @typescript-eslint/unified-signatures -- only the one above is public
  constructor(fields: Some<SessionFields, "session_id" | "user_id">, metadata: EncodedMetadata);
  constructor(fields: Some<SessionFields, "session_id" | "user_id">, metadata?: EncodedMetadata) {
    super();
    if (metadata === undefined) {
      checkFields(fields, SESSION_FIELDS, ["session_id", "user_id"]);
    }
    this.session_id = fields.session_id;
    this.id = fields.id ?? 0;
    this.user_id = fields.user_id;
    this.uuid = fields.uuid ?? "";
    this.defineMetadata(metadata ?? fields.metadata ?? {});
    this.created_at = fields.created_at ?? dateOf(fields.created_at_us);
    this.created_at_us = fields.created_at_us ?? microsecondsOf(fields.created_at);
    this.updated_at = fields.updated_at ?? dateOf(fields.updated_at_us);
    this.updated_at_us = fields.updated_at_us ?? microsecondsOf(fields.updated_at);
    this.etag = fields.etag ?? "";
  }

  /** Returns another session with the same fields, but for the changes. The two share no object. */
  copy(changes: Partial<SessionFields> = {}): Session {
    return new Session({ ...structuredClone<SessionFields>(this), ...withBothTimes(changes) });
  }

  /** Returns all fields as a plain object. */
  toJSON(): SessionFields {
    return { ...(this as SessionFields) };
  }

  [inspect.custom](): string {
    return `<Session session_id=${inspect(this.session_id)} user_id=${inspect(this.user_id)} id=${this.id}>`;
  }
}

function checkFields(fields: object, known: ReadonlySet<string>, required: readonly string[]): void {
  for (const name of Object.keys(fields)) {
    if (!known.has(name)) {
      throw new TypeError(`${name} is not a field; the fields are ${[...known].join(", ")}`);
    }
  }
  for (const name of required) {
    if (typeof (fields as Record<string, unknown>)[name] !== "string") {
      throw new TypeError(`${name} is required and must be a string`);
    }
  }
}

function dateOf(microseconds = 0): Date {
  return new Date(Math.floor(microseconds / 1e3));
}

function microsecondsOf(date: Date | undefined): number {
  return (date?.getTime() ?? 0) * 1e3;
}

/** The changes, without the other form of a time that changes in one form. */
function withBothTimes<Changes extends Partial<Record<keyof Times, unknown>>>(changes: Changes): Changes {
  const both: Partial<Record<keyof Times, undefined>> = {};
  for (const [one, other] of [
    ["created_at", "created_at_us"],
    ["updated_at", "updated_at_us"],
  ] as const) {
    if (changes[one] !== undefined) {
      both[other] = undefined;
    } else if (changes[other] !== undefined) {
      both[one] = undefined;
    }
  }
  return { ...both, ...changes };
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

/** An array with properties of its own. What `map`, `filter` and the like return are ordinary arrays. */
class RecordArray<Item> extends Array<Item> {
  static override get [Symbol.species](): ArrayConstructor {
    return Array;
  }

  constructor(items: Iterable<Item>) {
    super();
    for (const item of items) {
      this.push(item);
    }
  }
}

/** A page or chunk of users, in the order of their ids. As JSON it is an object, with the users in `users`. */
export class UserPage extends RecordArray<User> implements Page {
  declare readonly next_cursor: number;
  declare readonly total_size: number;

  constructor(users: Iterable<User> = [], { next_cursor = 0, total_size = 0 }: Partial<Page> = {}) {
    super(users);
    this.next_cursor = next_cursor;
    this.total_size = total_size;
  }

  /** Returns a plain object with the users and the page's own fields. */
  toJSON(): Page & { readonly users: User[] } {
    return { users: Array.from(this), next_cursor: this.next_cursor, total_size: this.total_size };
  }
}

/** A page of the sessions of one user, in the order of their ids. As JSON it is an object, with them in `sessions`. */
export class SessionPage extends RecordArray<Session> implements Page {
  declare readonly next_cursor: number;
  declare readonly total_size: number;

  constructor(sessions: Iterable<Session> = [], { next_cursor = 0, total_size = 0 }: Partial<Page> = {}) {
    super(sessions);
    this.next_cursor = next_cursor;
    this.total_size = total_size;
  }

  /** Returns a plain object with the sessions and the page's own fields. */
  toJSON(): Page & { readonly sessions: Session[] } {
    return { sessions: Array.from(this), next_cursor: this.next_cursor, total_size: this.total_size };
  }
}

/**
 * The users that were asked for by name and exist, in the order of the request. As JSON it is an object, with the
 * users in `users`.
 */
export class UserBatch extends RecordArray<User> {
  /** The names for which there is no user, in the order of the request. */
  declare readonly missing_user_ids: readonly string[];

  constructor(users: Iterable<User> = [], { missing_user_ids = [] }: { missing_user_ids?: Iterable<string> } = {}) {
    super(users);
    this.missing_user_ids = [...missing_user_ids];
  }

  /** Returns a plain object with the users and the missing names. */
  toJSON(): { readonly users: User[]; readonly missing_user_ids: readonly string[] } {
    return { users: Array.from(this), missing_user_ids: this.missing_user_ids };
  }
}
