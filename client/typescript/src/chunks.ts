/** Reading the stream of all users, over cuts of the connection and restarts of the server. */

import { checkContinues, decodeAnswer } from "./answers.js";
import type { CallOptions, Connection } from "./connection.js";
import { UnavailableError } from "./errors.js";
import { ListUsersChunkedRequestSchema, UserService } from "./gen/userservice/v1/user_service_pb.js";
import { UserPage } from "./models.js";
import { readUser } from "./records.js";
import { encodeRequest } from "./requests.js";
import type { Attempts } from "./retry.js";
import type { Rpc } from "./rpc.js";

const STATUS_TIMEOUT_MS = 500;

/**
 * The chunks of one `listChunked`, one at a time.
 *
 * Each `next` has a deadline of its own over all it does, so the time that the consumer takes between two chunks does
 * not count, and a service that is away is tried again for that long after the last chunk that came.
 */
export class ChunkReader {
  readonly #connection: Connection;
  readonly #chunkSize: number;
  readonly #options: CallOptions;
  #request: Buffer;
  #cursor: number;
  #rpc: Rpc | undefined;
  #finished = false;

  /**
   * @param connection - The connection to read from.
   * @param chunkSize - The most users in a chunk.
   * @param cursor - Where to start.
   * @param options - The time for each chunk, and what ends the stream.
   * @throws InvalidArgumentError if chunkSize or cursor are no whole numbers.
   */
  constructor(connection: Connection, chunkSize: number, cursor: number, options: CallOptions) {
    this.#connection = connection;
    this.#chunkSize = chunkSize;
    this.#options = options;
    this.#cursor = cursor;
    this.#request = this.#encode();
  }

  /**
   * Returns the next chunk that has users in it, or undefined at the end. One deadline covers all that takes, empty
   * chunks included.
   *
   * @throws UserServiceError if no chunk came in time, with the last error, or the service refused the request; the
   *   signal's reason, if it is aborted.
   */
  async next(): Promise<UserPage | undefined> {
    const attempts = this.#connection.attempts(this.#options);
    while (!this.#finished) {
      const chunk = await this.#read(attempts);
      if (chunk.length > 0) {
        return chunk;
      }
    }
    await this.#readStatus();
    return undefined;
  }

  /** Ends the RPC at once, if one runs. To be called by whoever stops reading, for nothing else would end it. */
  cancel(): void {
    this.#rpc?.cancel(undefined);
    this.#rpc = undefined;
  }

  async #read(attempts: Attempts): Promise<UserPage> {
    for (;;) {
      try {
        attempts.signal?.throwIfAborted();
        // A chunk that is here already would win against any timer, and so would any number of empty ones.
        if (attempts.remaining === 0) {
          throw this.#connection.outOfTime("no chunk with users came in time");
        }
        this.#rpc ??= this.#connection.open(
          UserService.method.listUsersChunked,
          this.#request,
          Infinity,
          attempts.signal,
        );
        return this.#accept(await this.#readInTime(this.#rpc, attempts.remaining));
      } catch (error) {
        this.cancel();
        await attempts.pause(error);
      }
    }
  }

  /**
   * Reads the status of a complete stream; gives up after half a second. Without its status, the service would log the
   * stream as cancelled. The status does not matter to the caller, who has all chunks.
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
      // The stream is complete whatever its status is.
    } finally {
      clearTimeout(timer);
    }
  }

  #accept(encoded: Buffer): UserPage {
    const answer = decodeAnswer(encoded, readUser);
    checkContinues(answer, this.#cursor);
    this.#finished = answer.next_cursor === 0;
    // Where the next stream starts, should this one be cut.
    this.#cursor = answer.next_cursor;
    this.#request = this.#encode();
    return new UserPage(answer.records, answer);
  }

  #encode(): Buffer {
    return encodeRequest(ListUsersChunkedRequestSchema, { chunk_size: this.#chunkSize, cursor: this.#cursor });
  }

  async #readInTime(rpc: Rpc, timeoutMs: number): Promise<Buffer> {
    const timer = setTimeout(() => {
      rpc.cancel(this.#connection.outOfTime("no chunk came in time"));
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
