/** Decodes users and sessions into models. */

import { EncodedMetadata } from "./metadata.js";
import { Session, User } from "./models.js";
import { lengthDelimited, MalformedError, type WireReader } from "./wire.js";

/** A function that decodes one record, from the position of the reader to its end. */
export type ReadRecord<T> = (reader: WireReader) => T;

// Field numbers of protos/userservice/v1/user.proto and session.proto. They are repeated here because the JavaScript
// compiler does not treat the generated descriptors as constants. A test compares them with the descriptors.
const INTEGER = 0;
const ID = (2 << 3) | INTEGER;
const USER_ID = lengthDelimited(1);
const UUID = lengthDelimited(3);
const EMAIL = lengthDelimited(4);
const FIRST_NAME = lengthDelimited(5);
const LAST_NAME = lengthDelimited(6);
const METADATA = lengthDelimited(7);
const CREATED_AT = lengthDelimited(8);
const UPDATED_AT = lengthDelimited(9);
const ETAG = lengthDelimited(10);

const SESSION_ID = lengthDelimited(1);
const SESSION_USER_ID = lengthDelimited(3);
const SESSION_UUID = lengthDelimited(4);
const SESSION_METADATA = lengthDelimited(5);
const SESSION_CREATED_AT = lengthDelimited(6);
const SESSION_UPDATED_AT = lengthDelimited(7);
const SESSION_ETAG = lengthDelimited(8);
const SESSION_IDLE_TTL = lengthDelimited(9);
const SESSION_MAX_EXPIRE_TIME = lengthDelimited(10);
const SESSION_EXPIRE_TIME = lengthDelimited(11);
const SESSION_LAST_SEEN_AT = lengthDelimited(12);

const SECONDS = (1 << 3) | INTEGER;
const NANOS = (2 << 3) | INTEGER;

/** The range of google.protobuf.Timestamp: the years 1 to 9999. */
const FIRST_SECOND = -62_135_596_800;
const LAST_SECOND = 253_402_300_799;

/**
 * Decodes a user.
 *
 * @throws MalformedError if the bytes are not a user, or its id or times are out of range.
 */
export function readUser(reader: WireReader): User {
  let user_id = "";
  let id = 0;
  let uuid = "";
  let email = "";
  let first_name = "";
  let last_name = "";
  let metadata = EncodedMetadata.EMPTY;
  let created_at_us = 0;
  let updated_at_us = 0;
  let etag = "";
  while (reader.pos < reader.end) {
    const tag = reader.uint32();
    switch (tag) {
      case USER_ID:
        user_id = reader.text();
        break;
      case ID:
        id = reader.int64();
        break;
      case UUID:
        uuid = reader.text();
        break;
      case EMAIL:
        email = reader.text();
        break;
      case FIRST_NAME:
        first_name = reader.text();
        break;
      case LAST_NAME:
        last_name = reader.text();
        break;
      case METADATA:
        metadata = readEncodedMetadata(reader);
        break;
      case CREATED_AT:
        created_at_us = reader.inside(readMicroseconds);
        break;
      case UPDATED_AT:
        updated_at_us = reader.inside(readMicroseconds);
        break;
      case ETAG:
        etag = reader.text();
        break;
      default:
        reader.skip(tag);
    }
  }
  checkPlace(id, user_id);
  const fields = { user_id, id, uuid, email, first_name, last_name, created_at_us, updated_at_us, etag };
  return new User(fields, metadata);
}

/**
 * Decodes a session.
 *
 * @throws MalformedError if the bytes are not a session, or its id or times are out of range.
 */
export function readSession(reader: WireReader): Session {
  let session_id = "";
  let id = 0;
  let user_id = "";
  let uuid = "";
  let metadata = EncodedMetadata.EMPTY;
  let created_at_us = 0;
  let updated_at_us = 0;
  let etag = "";
  let idle_ttl: number | null = null;
  let max_expire_time_us: number | null = null;
  let expire_time_us: number | null = null;
  let last_seen_at_us: number | null = null;
  while (reader.pos < reader.end) {
    const tag = reader.uint32();
    switch (tag) {
      case SESSION_ID:
        session_id = reader.text();
        break;
      case ID:
        id = reader.int64();
        break;
      case SESSION_USER_ID:
        user_id = reader.text();
        break;
      case SESSION_UUID:
        uuid = reader.text();
        break;
      case SESSION_METADATA:
        metadata = readEncodedMetadata(reader);
        break;
      case SESSION_CREATED_AT:
        created_at_us = reader.inside(readMicroseconds);
        break;
      case SESSION_UPDATED_AT:
        updated_at_us = reader.inside(readMicroseconds);
        break;
      case SESSION_ETAG:
        etag = reader.text();
        break;
      case SESSION_IDLE_TTL:
        idle_ttl = reader.inside(readSeconds);
        break;
      case SESSION_MAX_EXPIRE_TIME:
        max_expire_time_us = reader.inside(readMicroseconds);
        break;
      case SESSION_EXPIRE_TIME:
        expire_time_us = reader.inside(readMicroseconds);
        break;
      case SESSION_LAST_SEEN_AT:
        last_seen_at_us = reader.inside(readMicroseconds);
        break;
      default:
        reader.skip(tag);
    }
  }
  checkPlace(id, session_id);
  const fields = { session_id, id, user_id, uuid, created_at_us, updated_at_us, etag };
  return new Session({ ...fields, idle_ttl, max_expire_time_us, expire_time_us, last_seen_at_us }, metadata);
}

function readEncodedMetadata(reader: WireReader): EncodedMetadata {
  const end = reader.contentEnd();
  const metadata = new EncodedMetadata(reader.bytes, reader.pos, end);
  reader.pos = end;
  return metadata;
}

function readMicroseconds(reader: WireReader): number {
  const [seconds, nanos] = readSecondsAndNanos(reader);
  if (seconds < FIRST_SECOND || seconds > LAST_SECOND || nanos < 0 || nanos > 999_999_999) {
    throw new MalformedError("a time is out of range");
  }
  return seconds * 1e6 + Math.floor(nanos / 1e3);
}

/** Reads a google.protobuf.Duration as a number of seconds. */
function readSeconds(reader: WireReader): number {
  const [seconds, nanos] = readSecondsAndNanos(reader);
  return (seconds * 1e6 + Math.trunc(nanos / 1e3)) / 1e6;
}

/** Reads the fields of a Timestamp or Duration. */
function readSecondsAndNanos(reader: WireReader): [number, number] {
  let seconds = 0;
  let nanos = 0;
  while (reader.pos < reader.end) {
    const tag = reader.uint32();
    if (tag === SECONDS) {
      seconds = reader.int64();
    } else if (tag === NANOS) {
      nanos = reader.int64();
    } else {
      reader.skip(tag);
    }
  }
  return [seconds, nanos];
}

function checkPlace(id: number, key: string): void {
  if (!(id > 0 && id <= Number.MAX_SAFE_INTEGER)) {
    throw new MalformedError("a record's id is out of range");
  }
  if (key === "") {
    throw new MalformedError("a record has no user_id or session_id");
  }
}
