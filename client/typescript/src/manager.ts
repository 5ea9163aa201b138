/** What the managers have in common. */

import { randomUUID } from "node:crypto";

import type { DescMessage } from "@bufbuild/protobuf";

import { type Answer, decodeAnswer } from "./answers.js";
import { type CallOptions, Connection, type ManagerOptions, type Method } from "./connection.js";
import type { ReadRecord } from "./records.js";
import { encodeRequest } from "./requests.js";
import type { Attempts } from "./retry.js";

/** What holds for one write. */
export interface WriteOptions extends CallOptions {
  /** A UUID that names this attempt; one is made if absent. `request_id` in a request goes before it. */
  requestId?: string | undefined;
}

/** What holds for one update or delete. */
export interface ConditionalWriteOptions extends WriteOptions {
  /**
   * The etag as the caller knows it; if it is not the current one, nothing is changed. `etag` in a request goes before
   * it.
   */
  etag?: string | undefined;
}

/** A method as the generated code describes it. */
export interface UnaryMethod extends Method {
  readonly input: DescMessage;
}

/** A connection to the service that is closed by `close()` or at the end of `await using`. */
export abstract class Manager implements AsyncDisposable {
  /** The connection of this manager. */
  protected readonly connection: Connection;

  /**
   * Makes a manager, which connects at its first call.
   *
   * @param address - `host:port`, `http://host:port`, `https://host:port` or `unix:/path`.
   * @param options - How to connect, and what holds for all calls.
   * @throws TypeError if the address or an option cannot be used; RangeError if the timeout cannot.
   */
  constructor(address: string, options: ManagerOptions = {}) {
    this.connection = new Connection(address, options);
  }

  /** Ends running calls with ManagerClosedError, and the connection. Safe to call twice. */
  close(): Promise<void> {
    this.connection.close();
    return Promise.resolve();
  }

  /** The same as `close`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /**
   * Makes a call that only reads.
   *
   * @param readRecord - Decodes one of the records of the answer.
   */
  protected async read<Item>(
    method: UnaryMethod,
    fields: object,
    attempts: Attempts,
    readRecord: ReadRecord<Item>,
  ): Promise<Answer<Item>> {
    const request = encodeRequest(method.input, fields);
    return decodeAnswer(await this.connection.call(method, request, attempts), readRecord);
  }

  /**
   * Makes a call that writes, with a request_id, so that a retry is applied once.
   *
   * @param readRecord - Decodes one of the records of the answer.
   */
  protected async write<Item>(
    method: UnaryMethod,
    fields: object,
    options: ConditionalWriteOptions,
    readRecord: ReadRecord<Item>,
  ): Promise<Answer<Item>> {
    const { requestId, etag, ...callOptions } = options;
    const attempts = this.connection.attempts(callOptions);
    const named = { ...fields } as { request_id?: unknown; etag?: unknown };
    named.request_id ??= requestId ?? randomUUID();
    if (etag !== undefined) {
      named.etag ??= etag;
    }
    const request = encodeRequest(method.input, named);
    return decodeAnswer(await this.connection.call(method, request, attempts), readRecord);
  }
}
