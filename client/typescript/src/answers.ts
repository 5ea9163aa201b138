/** Decodes responses into records, and rejects responses that violate the contract. */

import { fromBinary } from "@bufbuild/protobuf";

import { InternalError } from "./errors.js";
import { RevokeUserSessionsResponseSchema } from "./gen/userservice/v1/session_service_pb.js";
import {
  BatchGetUsersResponseSchema,
  CountUsersResponseSchema,
  ListUsersResponseSchema,
  PlanUserScanResponseSchema,
  UserScanPartSchema,
} from "./gen/userservice/v1/user_service_pb.js";
import type { UserScanPart } from "./models.js";
import type { ReadRecord } from "./records.js";
import { lengthDelimited, MalformedError, WireReader } from "./wire.js";

/**
 * A decoded response. Every response has its users or sessions, one or many, in field 1. Pages also have a cursor and a
 * total, and a batch has the user_ids of missing users.
 */
export interface Answer<Item> {
  readonly records: readonly Item[];
  readonly next_cursor: number;
  readonly total_size: number;
  readonly missing_user_ids: readonly string[];
}

const RECORD = lengthDelimited(ListUsersResponseSchema.field.users.number);
const NEXT_CURSOR = ListUsersResponseSchema.field.nextCursor.number << 3;
const TOTAL_SIZE = ListUsersResponseSchema.field.totalSize.number << 3;
const COUNT = CountUsersResponseSchema.field.count.number << 3;
const COUNT_CURSOR = CountUsersResponseSchema.field.nextCursor.number << 3;
const MISSING_USER_ID = lengthDelimited(BatchGetUsersResponseSchema.field.missingUserIds.number);

/**
 * Decodes any response of the service.
 *
 * @param encoded - The encoded response.
 * @param readRecord - Decodes one record of the response.
 * @throws InternalError if the bytes are not a valid response.
 */
export function decodeAnswer<Item>(encoded: Buffer, readRecord: ReadRecord<Item>): Answer<Item> {
  const records: Item[] = [];
  const missing_user_ids: string[] = [];
  let next_cursor = 0;
  let total_size = 0;
  try {
    const reader = new WireReader(encoded);
    while (reader.pos < reader.end) {
      const tag = reader.uint32();
      if (tag === RECORD) {
        records.push(reader.inside(readRecord));
      } else if (tag === NEXT_CURSOR) {
        next_cursor = reader.int64();
      } else if (tag === TOTAL_SIZE) {
        total_size = reader.int64();
      } else if (tag === MISSING_USER_ID) {
        missing_user_ids.push(reader.text());
      } else {
        reader.skip(tag);
      }
    }
    checkCount(next_cursor);
    checkCount(total_size);
  } catch (error) {
    throw new InternalError("cannot decode the response of the service", { cause: error });
  }
  return { records, next_cursor, total_size, missing_user_ids };
}

/**
 * Decodes a response of CountUsers.
 *
 * @param encoded - The encoded response.
 * @throws InternalError if the bytes are not a valid response.
 */
export function decodeCount(encoded: Buffer): { readonly count: number; readonly next_cursor: number } {
  let count = 0;
  let next_cursor = 0;
  try {
    const reader = new WireReader(encoded);
    while (reader.pos < reader.end) {
      const tag = reader.uint32();
      if (tag === COUNT) {
        count = reader.int64();
      } else if (tag === COUNT_CURSOR) {
        next_cursor = reader.int64();
      } else {
        reader.skip(tag);
      }
    }
    checkCount(count);
    checkCount(next_cursor);
  } catch (error) {
    throw new InternalError("cannot decode the response of the service", { cause: error });
  }
  return { count, next_cursor };
}

function checkCount(count: number): void {
  if (!(count >= 0 && count <= Number.MAX_SAFE_INTEGER)) {
    throw new MalformedError("a cursor or total is out of range");
  }
}

const PARTS = lengthDelimited(PlanUserScanResponseSchema.field.parts.number);
const PARTITION = UserScanPartSchema.field.partition.number << 3;
const CURSOR = UserScanPartSchema.field.cursor.number << 3;
const END_CURSOR = UserScanPartSchema.field.endCursor.number << 3;

/**
 * Decodes a plan.
 *
 * @throws InternalError if the bytes are not a valid plan, or if its parts overlap: a reader could receive a user twice.
 */
export function decodeParts(encoded: Buffer): UserScanPart[] {
  const parts: UserScanPart[] = [];
  try {
    const reader = new WireReader(encoded);
    while (reader.pos < reader.end) {
      const tag = reader.uint32();
      if (tag === PARTS) {
        parts.push(reader.inside(readPart));
      } else {
        reader.skip(tag);
      }
    }
  } catch (error) {
    throw new InternalError("cannot decode the response of the service", { cause: error });
  }
  checkParts(parts);
  return parts;
}

function readPart(reader: WireReader): UserScanPart {
  const part = { partition: 0, cursor: 0, end_cursor: 0 };
  while (reader.pos < reader.end) {
    const tag = reader.uint32();
    if (tag === PARTITION) {
      part.partition = reader.int64();
    } else if (tag === CURSOR) {
      part.cursor = reader.int64();
    } else if (tag === END_CURSOR) {
      part.end_cursor = reader.int64();
    } else {
      reader.skip(tag);
    }
  }
  return part;
}

function checkParts(parts: readonly UserScanPart[]): void {
  const ends = new Map<number, number>();
  for (const { partition, cursor, end_cursor } of parts.toSorted((one, other) => one.cursor - other.cursor)) {
    if (partition <= 0 || cursor < (ends.get(partition) ?? 0) || end_cursor <= cursor) {
      throw new InternalError("the service returned parts that are empty, overlap or have no partition");
    }
    ends.set(partition, end_cursor);
  }
}

/**
 * Decodes a RevokeUserSessionsResponse.
 *
 * @throws InternalError if the bytes are not a valid response.
 */
export function decodeRevokedCount(encoded: Buffer): number {
  try {
    const count = Number(fromBinary(RevokeUserSessionsResponseSchema, encoded).revokedCount);
    checkCount(count);
    return count;
  } catch (error) {
    throw new InternalError("cannot decode the response of the service", { cause: error });
  }
}

/**
 * Returns the single record of a response.
 *
 * @param answer - The decoded response.
 * @param asked - The key of the requested record, and its owner if there is one: `user_id`, `session_id`.
 * @throws InternalError if the response has no record, several records, or a record with another key or owner.
 */
export function onlyRecord<Item extends object>({ records }: Answer<Item>, asked: Partial<Item>): Item {
  const [record] = records;
  if (record === undefined || records.length > 1) {
    throw new InternalError(`the service returned ${records.length} records instead of one`);
  }
  checkKey(record, asked);
  return record;
}

/**
 * Checks that a record has the requested key, or the requested owner, or both.
 *
 * @throws InternalError if the record has another key or owner.
 */
export function checkKey<Item extends object>(record: Item, asked: Partial<Item>): void {
  for (const [field, value] of Object.entries(asked)) {
    if (record[field as keyof Item] !== value) {
      throw new InternalError(`the service returned a record with another ${field} than the one in the request`);
    }
  }
}

/**
 * Checks that a page or chunk continues a list: all ids are larger than the cursor of the request and increase, and the
 * next cursor is not smaller than the ids.
 *
 * @param page - The page or chunk.
 * @param cursor - The cursor of the request.
 * @throws InternalError if the page does not continue the list: a reader could receive a record twice or repeat the
 *   same pages forever.
 */
export function checkContinues(
  page: Pick<Answer<{ readonly id: number }>, "records" | "next_cursor">,
  cursor: number,
): void {
  let last = cursor;
  for (const { id } of page.records) {
    if (id <= last) {
      throw new InternalError(`the service returned id ${id} after ${last}; ids must increase`);
    }
    last = id;
  }
  if (page.next_cursor !== 0 && (page.next_cursor < last || page.next_cursor <= cursor)) {
    throw new InternalError(
      `the service returned next_cursor ${page.next_cursor} for a page that starts after ${cursor}`,
    );
  }
}

/**
 * Checks that a chunk of a part contains no user beyond the end of the part.
 *
 * @throws InternalError if it contains one: another part contains this user too.
 */
export function checkEnd(page: Answer<{ readonly id: number }>, end_cursor: number): void {
  const last = page.records.at(-1)?.id ?? 0;
  if (last > end_cursor) {
    throw new InternalError(`the service returned id ${last} for a part that ends at ${end_cursor}`);
  }
}

/**
 * Checks that a page in descending order continues a list: all ids are smaller than the cursor of the request and
 * decrease, and the next cursor is not larger than the ids.
 *
 * @param page - The page.
 * @param cursor - The cursor of the request; 0 for the beginning.
 * @throws InternalError if the page does not continue the list.
 */
export function checkDescending(page: Answer<{ readonly id: number }>, cursor: number): void {
  let last = cursor === 0 ? Infinity : cursor;
  for (const { id } of page.records) {
    if (id >= last) {
      throw new InternalError(`the service returned id ${id} after ${last}; ids must decrease`);
    }
    last = id;
  }
  if (page.next_cursor > last || (page.records.length === 0 && page.next_cursor === cursor && cursor !== 0)) {
    throw new InternalError(
      `the service returned next_cursor ${page.next_cursor} for a page that starts before ${cursor}`,
    );
  }
}

/**
 * Checks that a batch contains each requested user_id, in the order of the request, as a user or as missing.
 *
 * @throws InternalError if a user_id is absent, in another place, or was not requested.
 */
export function checkBatch(batch: Answer<{ readonly user_id: string }>, user_ids: readonly string[]): void {
  let found = 0;
  let missing = 0;
  for (const user_id of user_ids) {
    if (batch.records[found]?.user_id === user_id) {
      found += 1;
    } else if (batch.missing_user_ids[missing] === user_id) {
      missing += 1;
    } else {
      throw new InternalError("the service returned other users than the ones in the request, or in another order");
    }
  }
  if (found < batch.records.length || missing < batch.missing_user_ids.length) {
    throw new InternalError("the service returned more users than the request contains");
  }
}
