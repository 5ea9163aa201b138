/** From the bytes of a response to records, and what a response must be to be believed. */

import { InternalError } from "./errors.js";
import { BatchGetUsersResponseSchema, ListUsersResponseSchema } from "./gen/userservice/v1/user_service_pb.js";
import type { ReadRecord } from "./records.js";
import { lengthDelimited, MalformedError, WireReader } from "./wire.js";

/**
 * What answers are made of. Every response has its users or sessions, one or many, in field 1; beside them stand a
 * cursor and a total in those that are pages, and the missing names in the one that is a batch.
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
const MISSING_USER_ID = lengthDelimited(BatchGetUsersResponseSchema.field.missingUserIds.number);

/**
 * Decodes any response of the service.
 *
 * @param encoded - The response.
 * @param readRecord - Reads one of its records.
 * @throws InternalError if the bytes are none.
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
    throw new InternalError("cannot decode the answer of the service", { cause: error });
  }
  return { records, next_cursor, total_size, missing_user_ids };
}

function checkCount(count: number): void {
  if (!(count >= 0 && count <= Number.MAX_SAFE_INTEGER)) {
    throw new MalformedError("a cursor or total is out of range");
  }
}

/**
 * Returns the one record of an answer.
 *
 * @param answer - The answer.
 * @param asked - The fields that name the record that was asked for.
 * @throws InternalError if the answer has no record, several, or another one.
 */
export function onlyRecord<Item extends object>({ records }: Answer<Item>, asked: Partial<Item>): Item {
  const [record] = records;
  if (record === undefined || records.length > 1) {
    throw new InternalError(`the service answered with ${records.length} records instead of one`);
  }
  checkNamed(record, asked);
  return record;
}

/**
 * Checks that a record is of the name, or the owner, that was asked for.
 *
 * @throws InternalError if it is not.
 */
export function checkNamed<Item extends object>(record: Item, asked: Partial<Item>): void {
  for (const [field, value] of Object.entries(asked)) {
    if (record[field as keyof Item] !== value) {
      throw new InternalError(`the service sent a record with another ${field} than the one that was asked for`);
    }
  }
}

/**
 * Checks that a page or chunk continues a list: ids that grow, from behind the cursor that was sent, and a next cursor
 * that is not before them.
 *
 * @param page - The page.
 * @param cursor - The cursor that it was asked for with.
 * @throws InternalError if a reader would see a record twice or go in circles.
 */
export function checkContinues(page: Answer<{ readonly id: number }>, cursor: number): void {
  let last = cursor;
  for (const { id } of page.records) {
    if (id <= last) {
      throw new InternalError(`the service sent id ${id} after ${last}; ids must grow`);
    }
    last = id;
  }
  if (page.next_cursor !== 0 && (page.next_cursor < last || page.next_cursor <= cursor)) {
    throw new InternalError(`the service sent cursor ${page.next_cursor} for a page that starts after ${cursor}`);
  }
}

/**
 * Checks that each name of a batch was answered, in the order of the request, with its user or as missing.
 *
 * @throws InternalError if not.
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
      throw new InternalError("the service left a user out of its answer, or sent another one");
    }
  }
  if (found < batch.records.length || missing < batch.missing_user_ids.length) {
    throw new InternalError("the service answered with more users than were asked for");
  }
}
