/** Reads parts of all users side by side. */

import { type ChunkFields, ChunkReader } from "./chunks.js";
import type { CallOptions, Connection } from "./connection.js";
import type { FieldViolation } from "./errors.js";
import type { ReadOptions } from "./manager.js";
import { UserPage, type UserScanPart } from "./models.js";
import { reject } from "./requests.js";

/** The maximum number of streams of one `listChunked`. */
const MOST_PARALLEL = 64;

/** Options of `UserManager.listChunked`. */
export interface ListChunkedOptions extends ReadOptions {
  /**
   * Selects users by their fields, such as `metadata.plan = "pro" AND email : "@example.org"`; see docs/filters.md.
   * `total_size` is then 0.
   */
  filter?: string | undefined;
  /**
   * The number of streams, from 1 (the default) to 64. With more than one, and without `parts`, the call first plans the
   * parts.
   */
  parallel?: number | undefined;
  /**
   * Read only these parts: those of `planUserScan`, some of them, or the `remaining` of a chunk. An empty array yields
   * nothing. Default: all users.
   */
  parts?: Iterable<UserScanPart> | undefined;
}

/**
 * Checks which parts a `listChunked` reads, and how many side by side.
 *
 * @throws InvalidArgumentError if an argument is invalid, or if there is a cursor although parts are read.
 */
export function checkScan(cursor: number, parallel: number, parts: readonly UserScanPart[] | undefined): void {
  const violations: FieldViolation[] = [];
  if (!Number.isInteger(parallel) || parallel < 1 || parallel > MOST_PARALLEL) {
    violations.push({ field: "parallel", description: `must be an integer from 1 to ${MOST_PARALLEL}` });
  } else if (cursor !== 0 && (parts !== undefined || parallel > 1)) {
    const description = "must be 0 with parallel or parts: the parts contain their cursors";
    violations.push({ field: "cursor", description });
  }
  if (parts?.some((part) => !isPart(part))) {
    const description = "must be objects with integers: a partition and an end_cursor above 0, and a cursor";
    violations.push({ field: "parts", description });
  }
  reject(violations);
}

function isPart(part: Partial<UserScanPart> | null): boolean {
  const { partition = 0, cursor = -1, end_cursor = 0 } = part ?? {};
  const numbers = [partition, cursor, end_cursor];
  return numbers.every((number) => Number.isSafeInteger(number)) && partition > 0 && cursor >= 0 && end_cursor > 0;
}

/**
 * Reads parts, several at a time, and returns their chunks in turn. Each part is a stream of its own. While the program
 * handles a chunk of one part, the chunks of the others arrive.
 */
export class PartsReader {
  readonly #reading: ChunkReader[];
  readonly #waiting: ChunkReader[];

  /**
   * @param connection - The connection to read from.
   * @param fields - The fields of the requests, except those of a part.
   * @param options - The timeout of each chunk, and the signal that ends the streams.
   * @param parts - The parts to read.
   * @param parallel - The maximum number of streams at the same time.
   */
  constructor(
    connection: Connection,
    fields: ChunkFields,
    options: CallOptions,
    parts: readonly UserScanPart[],
    parallel: number,
  ) {
    this.#waiting = parts
      .filter(isUnread)
      .map(({ partition, cursor, end_cursor }) => ({ ...fields, partition, cursor, end_cursor }))
      .map((part) => new ChunkReader(connection, part, options));
    this.#reading = this.#waiting.splice(0, parallel);
  }

  /**
   * Returns the next chunk of the part whose turn it is, or undefined after the last part.
   *
   * @throws UserServiceError if the service rejected the request, or if no chunk arrived before the deadline.
   */
  async next(): Promise<UserPage | undefined> {
    for (let reader = this.#reading[0]; reader; reader = this.#reading[0]) {
      const chunk = await reader.next();
      this.#reading.shift();
      if (chunk) {
        this.#reading.push(reader);
        const { next_cursor, total_size, part } = chunk;
        return new UserPage(chunk, { next_cursor, total_size, part, remaining: this.#remaining() });
      }
      reader.cancel();
      this.#reading.push(...this.#waiting.splice(0, 1));
    }
    return undefined;
  }

  /** Cancels the running RPCs. A caller that stops reading must call `cancel`, or the RPCs continue. */
  cancel(): void {
    for (const reader of this.#reading) {
      reader.cancel();
    }
  }

  #remaining(): UserScanPart[] {
    const parts = [...this.#reading, ...this.#waiting].map(({ part }) => part);
    return parts.filter((part) => part !== undefined).filter(isUnread);
  }
}

function isUnread({ cursor, end_cursor }: UserScanPart): boolean {
  return cursor < end_cursor;
}
