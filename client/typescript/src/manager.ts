/** The base class of the managers. */

import { randomUUID } from "node:crypto";

import type { DescMessage } from "@bufbuild/protobuf";

import { type Answer, decodeAnswer } from "./answers.js";
import { type CallOptions, Connection, type ManagerOptions, type Method, type SharedOptions } from "./connection.js";
import { type EnvironmentOptions, settingsFromEnvironment } from "./environment.js";
import type { ReadRecord } from "./records.js";
import { encodeRequest, type View } from "./requests.js";
import type { Attempts } from "./retry.js";

/** Options of one read. */
export interface ReadOptions extends CallOptions {
  /** The fields to return; default: `FULL`. */
  view?: View | undefined;
}

/** Options of a list of sessions. */
export interface SessionListOptions extends ReadOptions {
  /** Whether to include expired sessions that the service has not removed yet; default: false. */
  includeExpired?: boolean | undefined;
}

/** Options of one write. */
export interface WriteOptions extends CallOptions {
  /** Idempotency key of the write, a UUID; default: a new one. `request_id` in the request takes precedence. */
  requestId?: string | undefined;
}

/** Options of one update or delete. */
export interface ConditionalWriteOptions extends WriteOptions {
  /**
   * The etag that the caller expects. If the record has another etag, the write is rejected. `etag` in the request
   * takes precedence.
   */
  etag?: string | undefined;
}

/** The generated descriptor of a unary RPC. */
export interface UnaryMethod extends Method {
  readonly input: DescMessage;
}

/** A connection to the service that is closed by `close()` or at the end of `await using`. */
export abstract class Manager implements AsyncDisposable {
  /** The connection of this manager. */
  protected connection: Connection;

  /**
   * Creates a manager, which connects at its first call.
   *
   * @param address - `host:port`, `http://host:port`, `https://host:port`, `unix:/path`, or another form in the README.
   * @param options - The options of the connection, and defaults for all calls.
   * @throws TypeError if the address or an option is invalid; RangeError if a number is out of range.
   */
  constructor(address: string, options: ManagerOptions = {}) {
    this.connection = new Connection(address, options);
  }

  /**
   * Creates a manager with the settings in environment variables: USERSERVICE_ADDRESS, USERSERVICE_TOKEN or
   * USERSERVICE_TOKEN_FILE (a path; the file is read for each attempt of a call), USERSERVICE_CA, USERSERVICE_CERT and
   * USERSERVICE_KEY (paths). Empty variables are treated as absent.
   *
   * @param others - The other options of the manager.
   * @throws TypeError if a setting is invalid, or both variables of the token are set.
   */
  static fromEnv<Made extends Manager, Options extends ManagerOptions>(
    this: new (address: string, options?: Options) => Made,
    others?: EnvironmentOptions<Options>,
  ): Made {
    const { address, options } = settingsFromEnvironment();
    return new this(address, { ...others, ...options } as Options);
  }

  /**
   * Returns a manager that has other options and shares the connections of this manager.
   *
   * The new manager costs little, so it may be created for a single call, for example to send metadata with this call
   * only. The header `x-request-id` sets the call id in the log of the service. `close` of the new manager has no
   * effect. Calls of the new manager end when this manager is closed.
   *
   * ```ts
   * await userManager.withOptions({ metadata: { "x-request-id": "checkout-7" } }).get("user123");
   * ```
   *
   * @throws TypeError if an option is invalid; RangeError if a number is out of range.
   */
  withOptions(options: SharedOptions): this {
    const twin = Object.assign(Object.create(Object.getPrototypeOf(this) as object), this) as this;
    twin.use(this.connection.withOptions(options));
    return twin;
  }

  /** Replaces the connection. */
  protected use(connection: Connection): void {
    this.connection = connection;
  }

  /**
   * Closes the connections; running calls end with ManagerClosedError. Can be called more than once. Has no effect on a
   * manager that `withOptions` returned: close the manager that made the connections.
   */
  close(): Promise<void> {
    this.connection.close();
    return Promise.resolve();
  }

  /** The same as `close`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /**
   * Makes a call that changes nothing.
   *
   * @param readRecord - Decodes one record of the response.
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
   * Makes a call that writes. The request contains a request_id, so that a retried write is applied once.
   *
   * @param readRecord - Decodes one record of the response.
   */
  protected async write<Item>(
    method: UnaryMethod,
    fields: object,
    options: ConditionalWriteOptions,
    readRecord: ReadRecord<Item>,
  ): Promise<Answer<Item>> {
    return decodeAnswer(await this.writeEncoded(method, fields, options), readRecord);
  }

  /** Writes like `write`, but returns the encoded response. */
  protected async writeEncoded(method: UnaryMethod, fields: object, options: ConditionalWriteOptions): Promise<Buffer> {
    const { requestId, etag, ...callOptions } = options;
    const attempts = this.connection.attempts(callOptions);
    const named = { ...fields } as { request_id?: unknown; etag?: unknown };
    named.request_id ??= requestId ?? randomUUID();
    if (etag !== undefined) {
      named.etag ??= etag;
    }
    const request = encodeRequest(method.input, named);
    return await this.connection.call(method, request, attempts);
  }
}
