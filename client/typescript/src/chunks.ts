/** Reads the stream of all users, and resumes the stream after a lost connection or a restart of the server. */

import { checkContinues, checkEnd, decodeAnswer } from "./answers.js";
import type { CallOptions, Connection } from "./connection.js";
import { UnavailableError } from "./errors.js";
import { ListUsersChunkedRequestSchema, UserService } from "./gen/userservice/v1/user_service_pb.js";
import { UserPage, type UserScanPart } from "./models.js";
import { readUser } from "./records.js";
import { encodeRequest, type View } from "./requests.js";
import type { Attempts } from "./retry.js";
import type { Rpc } from "./rpc.js";

const STATUS_TIMEOUT_MS = 500;

/** The fields of a request of ListUsersChunked. A part has also `partition` and `end_cursor`. */
export interface ChunkFields extends Partial<UserScanPart> {
  readonly chunk_size: number;
  readonly cursor: number;
  readonly view: View | undefined;
  readonly filter: string | undefined;
}

/**
 * Reads the chunks of one `listChunked` call, one at a time.
 *
 * Each call of `next` has its own deadline. The time that the consumer takes between two chunks therefore does not
 * count, and while the service is unavailable, `next` retries until its deadline.
 */
export class ChunkReader {
  readonly #connection: Connection;
  readonly #fields: ChunkFields;
  readonly #options: CallOptions;
  #request: Buffer;
  #cursor: number;
  #rpc: Rpc | undefined;
  #finished = false;

  /**
   * @param connection - The connection to read from.
   * @param fields - The fields of the request by name. The cursor is the id after which the stream starts.
   * @param options - The timeout of each chunk, and the signal that ends the stream.
   * @throws InvalidArgumentError if a field has a wrong type.
   */
  constructor(connection: Connection, fields: ChunkFields, options: CallOptions) {
    this.#connection = connection;
    this.#fields = fields;
    this.#options = options;
    this.#cursor = fields.cursor;
    this.#request = this.#encode();
  }

  /**
   * Returns the next chunk that contains users, or undefined at the end. One deadline covers the whole call, including
   * empty chunks and retries. With a filter, each empty chunk starts a new deadline, because the service has examined
   * many users for it.
   *
   * @throws UserServiceError if the service rejected the request, or if no chunk arrived before the deadline; the
   *   signal's reason, if the signal is aborted.
   */
  async next(): Promise<UserPage | undefined> {
    let attempts = this.#connection.attempts(this.#options);
    while (!this.#finished) {
      const chunk = await this.#read(attempts);
      if (chunk.length > 0) {
        return chunk;
      }
      if (this.#fields.filter) {
        attempts = this.#connection.attempts(this.#options);
      }
    }
    await this.#readStatus();
    return undefined;
  }

  /** What remains of the part, if the fields contain a part. */
  get part(): UserScanPart | undefined {
    const { partition, end_cursor } = this.#fields;
    if (partition === undefined || end_cursor === undefined) {
      return undefined;
    }
    return { partition, cursor: this.#finished ? end_cursor : this.#cursor, end_cursor };
  }

  /** Cancels the running RPC, if there is one. A caller that stops reading must call `cancel`, or the RPC continues. */
  cancel(): void {
    this.#rpc?.cancel(undefined);
    this.#rpc = undefined;
  }

  async #read(attempts: Attempts): Promise<UserPage> {
    for (;;) {
      try {
        attempts.signal?.throwIfAborted();
        // Chunks that have already arrived are read without waiting, so no timer would end a series of empty chunks.
        if (attempts.remaining === 0) {
          throw this.#connection.outOfTime("no chunk with users arrived before the deadline");
        }
        this.#rpc ??= await this.#open(attempts);
        return this.#accept(await this.#readInTime(this.#rpc, attempts.remaining));
      } catch (error) {
        this.cancel();
        await attempts.pause(error);
      }
    }
  }

  async #open({ remaining, signal }: Attempts): Promise<Rpc> {
    const metadata = await this.#connection.headers(remaining, signal);
    return this.#connection.open(UserService.method.listUsersChunked, this.#request, metadata, Infinity, signal);
  }

  /**
   * Reads the status of a complete stream; gives up after half a second. If the client does not read the status, the
   * service logs the stream as cancelled. The caller does not need the status, because it has all chunks.
   */
  async #readStatus(): Promise<void> {
    const rpc = this.#rpc;
    if (rpc === undefined) {
      return;
    }
    const timer = setTimeout(() => {
      rpc.cancel(undefined);
    }, STATUS_TIMEOUT_MS);
    try {
      await rpc.read();
    } catch {
      // All chunks have arrived, so the stream is complete even if its status is an error.
    } finally {
      clearTimeout(timer);
    }
  }

  #accept(encoded: Buffer): UserPage {
    const answer = decodeAnswer(encoded, readUser);
    checkContinues(answer, this.#cursor);
    checkEnd(answer, this.#fields.end_cursor ?? Infinity);
    this.#finished = answer.next_cursor === 0;
    // If this stream is cut, the next stream starts at this cursor.
    this.#cursor = answer.next_cursor;
    this.#request = this.#encode();
    return new UserPage(answer.records, { ...answer, part: this.part });
  }

  #encode(): Buffer {
    return encodeRequest(ListUsersChunkedRequestSchema, { ...this.#fields, cursor: this.#cursor });
  }

  async #readInTime(rpc: Rpc, timeoutMs: number): Promise<Buffer> {
    const timer = setTimeout(() => {
      rpc.cancel(this.#connection.outOfTime("no chunk arrived before the deadline"));
    }, timeoutMs);
    try {
      const message = await rpc.read();
      if (message === undefined) {
        throw new UnavailableError("the stream ended before its last chunk");
      }
      return message;
    } finally {
      clearTimeout(timer);
    }
  }
}
