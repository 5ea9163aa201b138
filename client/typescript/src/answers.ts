/** Decoding answers no further than their records. */

import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";

import { InternalError } from "./errors.js";
import { BatchGetUsersResponseSchema, ListUsersResponseSchema } from "./gen/userservice/v1/user_service_pb.js";

/**
 * What answers are made of. Every response has its users or sessions, one or many, in field 1; beside them stand a
 * cursor and a total in those that are pages, and the missing names in the one that is a batch.
 */
export interface Answer {
  /** The encoded users or sessions, as parts of the encoded answer. */
  readonly records: readonly Uint8Array[];
  readonly next_cursor: number;
  readonly total_size: number;
  readonly missing_user_ids: readonly string[];
}

const RECORDS = ListUsersResponseSchema.field.users.number;
const NEXT_CURSOR = ListUsersResponseSchema.field.nextCursor.number;
const TOTAL_SIZE = ListUsersResponseSchema.field.totalSize.number;
const MISSING_USER_IDS = BatchGetUsersResponseSchema.field.missingUserIds.number;

/**
 * Decodes any response of the service.
 *
 * @throws InternalError if the bytes are none.
 */
export function decodeAnswer(encoded: Uint8Array): Answer {
  const records: Uint8Array[] = [];
  const missing_user_ids: string[] = [];
  let next_cursor = 0;
  let total_size = 0;
  try {
    const reader = new BinaryReader(encoded);
    while (reader.pos < reader.len) {
      const [field, wireType] = reader.tag();
      if (field === RECORDS) {
        records.push(reader.bytes());
      } else if (field === NEXT_CURSOR && wireType === WireType.Varint) {
        next_cursor = Number(reader.int64());
      } else if (field === MISSING_USER_IDS && wireType === WireType.LengthDelimited) {
        missing_user_ids.push(reader.string());
      } else if (field === TOTAL_SIZE) {
        total_size = Number(reader.int64());
      } else {
        reader.skip(wireType);
      }
    }
  } catch (error) {
    throw new InternalError("cannot decode the answer of the service", { cause: error });
  }
  return { records, next_cursor, total_size, missing_user_ids };
}
