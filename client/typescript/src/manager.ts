/** What the managers have in common. */

import { randomUUID } from "node:crypto";

import type { DescMessage } from "@bufbuild/protobuf";

import type { Answer } from "./answers.js";
import { type CallOptions, Connection, type ManagerOptions, type Method } from "./connection.js";
import { InternalError } from "./errors.js";
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

  /** Makes a call that only reads. */
  protected read(method: UnaryMethod, fields: object, attempts: Attempts): Promise<Answer> {
    return this.connection.call(method, encodeRequest(method.input, fields), attempts);
  }

  /** Makes a call that writes, named by a request_id so that a retry of it is applied once. */
  protected write(method: UnaryMethod, fields: object, options: ConditionalWriteOptions): Promise<Answer> {
    const { requestId, etag, ...callOptions } = options;
    const attempts = this.connection.attempts(callOptions);
    const named = { ...fields } as { request_id?: unknown; etag?: unknown };
    named.request_id ??= requestId ?? randomUUID();
    if (etag !== undefined) {
      named.etag ??= etag;
    }
    return this.connection.call(method, encodeRequest(method.input, named), attempts);
  }
}

/**
 * Returns the one record of an answer.
 *
 * @throws InternalError if it has none.
 */
export function onlyRecord({ records: [record] }: Answer): Uint8Array {
  if (record === undefined) {
    throw new InternalError("the service answered without the record that it should have sent");
  }
  return record;
}
