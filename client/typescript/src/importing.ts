/** Sends the rows of an import, and resumes the import after lost connections and restarts of the server. */

import { randomUUID } from "node:crypto";

import { type DescMessage, fromBinary, type MessageShape } from "@bufbuild/protobuf";

import type { Connection } from "./connection.js";
import { ImportOffsetGapError, InternalError, UnavailableError, type UserServiceError } from "./errors.js";
import {
  GetImportRequestSchema,
  GetImportResponseSchema,
  type ImportUsersResponse,
  ImportUsersResponseSchema,
} from "./gen/userservice/v1/user_import_pb.js";
import { UserService } from "./gen/userservice/v1/user_service_pb.js";
import {
  encodeBatch,
  encodeOptions,
  encodeRow,
  MOST_BATCH_BYTES,
  MOST_BATCH_ROWS,
  rowErrorsOf,
  statusOf,
} from "./import_messages.js";
import type { ImportRow, ImportStatus, ImportUsersOptions, RowError } from "./imports.js";
import { encodeRequest } from "./requests.js";
import type { Attempts } from "./retry.js";
import type { Rpc } from "./rpc.js";

/** Maximum number of batches without a response; they stay in memory, because they may have to be sent again. */
const MOST_BATCHES = 4;
const MOST_ROW_ERRORS = 10_000;
const LARGEST_PAGE = 1000;
const STATUS_TIMEOUT_MS = 500;

/** An encoded batch, and the offset after its last row. */
interface Batch {
  readonly encoded: Buffer;
  readonly stop: number;
}

/** Runs one import. */
export class Importer {
  readonly #connection: Connection;
  readonly #options: ImportUsersOptions;
  readonly #importId: string;
  readonly #first: Buffer;
  readonly #rows: Iterator<ImportRow> | AsyncIterator<ImportRow>;
  #rpc: Rpc | undefined;
  #window: Batch[] = [];
  /** Number of batches in the window that were sent over the present RPC. */
  #sent = 0;
  /** The number of the next row of the source. */
  #next: number;
  /** An encoded row that did not fit into the previous batch. */
  #left: Uint8Array | undefined;
  #atEnd = false;
  /** Errors of rows that this client rejected, by the number of the row. */
  readonly #ownErrors = new Map<number, UserServiceError>();
  #status: ImportStatus;
  readonly #errors: RowError[] = [];
  #unreported: RowError[] = [];
  #hasNews = false;

  /**
   * @param connection - The connection of the manager.
   * @param rows - The rows.
   * @param options - The options of the import.
   * @throws InvalidArgumentError if an option is invalid; TypeError if the rows are not iterable.
   */
  constructor(
    connection: Connection,
    rows: Iterable<ImportRow> | AsyncIterable<ImportRow>,
    options: ImportUsersOptions,
  ) {
    this.#connection = connection;
    this.#options = options;
    this.#importId = options.importId ?? randomUUID();
    this.#first = encodeOptions(this.#importId, options);
    this.#next = options.offset ?? 0;
    this.#rows = Symbol.asyncIterator in rows ? rows[Symbol.asyncIterator]() : rows[Symbol.iterator]();
    const none = { added: 0, merged: 0, replaced: 0, skipped: 0, failed: 0 };
    this.#status = { import_id: this.#importId, offset: 0, ...none, row_errors: [] };
  }

  /**
   * Sends all rows, and returns the final state.
   *
   * @throws UserServiceError if the service rejected the import, or did not respond before the deadline; the signal's
   *   reason, if the signal is aborted.
   */
  async run(): Promise<ImportStatus> {
    try {
      await this.#persist(() => undefined);
      await this.#report();
      await this.#skipApplied();
      for (;;) {
        while (this.#window.length < MOST_BATCHES && (await this.#readBatch())) {
          await this.#persist(() => {
            this.#send();
          });
        }
        if (this.#window.length === 0) {
          break;
        }
        await this.#persist((attempts) => this.#receive(attempts));
        await this.#report();
      }
      await this.#finish();
    } finally {
      this.#cancel();
      if (!this.#atEnd) {
        await this.#rows.return?.();
      }
    }
    return { ...this.#status, row_errors: this.#errors };
  }

  #cancel(): void {
    this.#rpc?.cancel(undefined);
    this.#rpc = undefined;
  }

  /** Runs a step of the import, and repeats it over a new RPC until its deadline. */
  async #persist(step: (attempts: Attempts) => void | Promise<void>): Promise<void> {
    const attempts = this.#connection.attempts(this.#options);
    for (;;) {
      try {
        attempts.signal?.throwIfAborted();
        if (this.#rpc === undefined) {
          await this.#open(attempts);
        }
        await step(attempts);
        return;
      } catch (error) {
        this.#cancel();
        await attempts.pause(error);
      }
    }
  }

  /** Opens the import, and takes the response, which contains the offset at which to continue. */
  async #open(attempts: Attempts): Promise<void> {
    const metadata = await this.#connection.headers(attempts.remaining, attempts.signal);
    const { importUsers } = UserService.method;
    this.#rpc = this.#connection.open(importUsers, undefined, metadata, Infinity, attempts.signal);
    this.#sent = 0;
    this.#rpc.send(this.#first);
    const response = await this.#nextResponse(attempts);
    const { offset } = this.#status;
    const acked = Number(response.ackedOffset);
    let lost: readonly RowError[] = [];
    if (acked > offset) {
      // The responses with the errors of these rows did not arrive.
      const found = await readImport(this.#connection, this.#importId, offset, attempts);
      lost = found.row_errors.filter(({ index }) => index < acked);
    }
    this.#accept(response, lost);
  }

  /** Sends the batches that were not sent over this RPC. */
  #send(): void {
    for (const { encoded } of this.#window.slice(this.#sent)) {
      this.#rpc?.send(encoded);
      this.#sent += 1;
    }
  }

  /** Takes the response to the oldest batch. */
  async #receive(attempts: Attempts): Promise<void> {
    this.#send();
    if (this.#window.length > 0) {
      const response = await this.#nextResponse(attempts);
      this.#accept(response, rowErrorsOf(response));
    }
  }

  async #nextResponse(attempts: Attempts): Promise<ImportUsersResponse> {
    const rpc = this.#rpc;
    const timer = setTimeout(() => {
      rpc?.cancel(this.#connection.outOfTime("no response arrived before the deadline"));
    }, attempts.remaining);
    try {
      const message = await rpc?.read();
      if (message === undefined) {
        throw new UnavailableError("the stream ended before its last response");
      }
      return decode(ImportUsersResponseSchema, message);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Takes the state from a response, and removes the batches that are applied. */
  #accept(response: ImportUsersResponse, errors: readonly RowError[]): void {
    const acked = Number(response.ackedOffset);
    if (acked < this.#status.offset) {
      throw new ImportOffsetGapError(
        `the service has lost rows that it had applied: the import continues at row ${acked}; ` +
          "start the import again from this row",
      );
    }
    for (const { index, error } of errors) {
      const one = { index, error: this.#ownErrors.get(index) ?? error };
      this.#ownErrors.delete(index);
      this.#unreported.push(one);
      if (this.#errors.length < MOST_ROW_ERRORS) {
        this.#errors.push(one);
      }
    }
    this.#status = statusOf(this.#importId, response, []);
    const waiting = this.#window.filter(({ stop }) => stop > acked);
    this.#sent = Math.max(0, this.#sent - (this.#window.length - waiting.length));
    this.#window = waiting;
    this.#hasNews = true;
  }

  /** Reports the responses since the last report. Not while a step runs: errors of the callback are not retried. */
  async #report(): Promise<void> {
    const row_errors = this.#unreported;
    this.#unreported = [];
    if (this.#hasNews) {
      this.#hasNews = false;
      await this.#options.onProgress?.({ ...this.#status, row_errors });
    }
  }

  /** Reads the rows that an earlier run has applied. */
  async #skipApplied(): Promise<void> {
    const { offset } = this.#status;
    if (offset < this.#next) {
      throw new ImportOffsetGapError(`the import continues at row ${offset}, but the rows start at ${this.#next}`);
    }
    while (this.#next < offset && !(await this.#rows.next()).done) {
      this.#next += 1;
    }
  }

  /** Adds the next batch to the window; returns false at the end of the rows. */
  async #readBatch(): Promise<boolean> {
    const batch: Uint8Array[] = [];
    let size = 0;
    while (batch.length < MOST_BATCH_ROWS) {
      const encoded = this.#left ?? (await this.#readRow());
      this.#left = undefined;
      if (encoded === undefined) {
        break;
      }
      if (size + encoded.length > MOST_BATCH_BYTES) {
        this.#left = encoded;
        break;
      }
      batch.push(encoded);
      size += encoded.length;
    }
    if (batch.length === 0) {
      return false;
    }
    const stop = this.#next - (this.#left === undefined ? 0 : 1);
    this.#window.push({ encoded: encodeBatch(stop - batch.length, batch), stop });
    return true;
  }

  async #readRow(): Promise<Uint8Array | undefined> {
    if (this.#atEnd) {
      return undefined;
    }
    const next = this.#rows.next();
    const result: IteratorResult<ImportRow, unknown> = next instanceof Promise ? await next : next;
    if (result.done === true) {
      this.#atEnd = true;
      return undefined;
    }
    const { encoded, error } = encodeRow(result.value, this.#options.restore ?? false);
    if (error !== undefined) {
      this.#ownErrors.set(this.#next, error);
    }
    this.#next += 1;
    return encoded;
  }

  /** Ends the RPC and reads its status, so that the service does not log it as cancelled. */
  async #finish(): Promise<void> {
    const rpc = this.#rpc;
    if (rpc === undefined) {
      return;
    }
    rpc.endRequests();
    const timer = setTimeout(() => {
      rpc.cancel(undefined);
    }, STATUS_TIMEOUT_MS);
    try {
      await rpc.read();
    } catch {
      // All rows are applied, so the import is complete even if the status is an error.
    } finally {
      clearTimeout(timer);
    }
  }
}

/**
 * Returns the state of an import, with all row errors from row `cursor` on.
 *
 * @throws UserServiceError if the call failed.
 */
export async function readImport(
  connection: Connection,
  import_id: string,
  cursor: number,
  attempts: Attempts,
): Promise<ImportStatus> {
  const errors: RowError[] = [];
  for (;;) {
    const request = encodeRequest(GetImportRequestSchema, { import_id, limit: LARGEST_PAGE, cursor });
    const encoded = await connection.call(UserService.method.getImport, request, attempts);
    const response = decode(GetImportResponseSchema, encoded);
    errors.push(...rowErrorsOf(response));
    if (Number(response.nextCursor) <= cursor) {
      return statusOf(import_id, response, errors);
    }
    cursor = Number(response.nextCursor);
  }
}

function decode<Schema extends DescMessage>(schema: Schema, encoded: Buffer): MessageShape<Schema> {
  try {
    return fromBinary(schema, encoded);
  } catch (error) {
    throw new InternalError(`cannot decode a ${schema.name} of the service`, { cause: error });
  }
}
