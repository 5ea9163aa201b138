/** One running RPC, whose responses are read one at a time. */

import { type Channel, type Metadata, status, type StatusObject } from "@grpc/grpc-js";

import { type StatusCode, UserServiceError } from "./error_base.js";
import { codeName } from "./status.js";

/** Callbacks of an RPC. */
export interface RpcEvents {
  /** Called when the service sent something, or the connection ended. */
  readonly heard: () => void;
  /** Returns the error for a status other than OK. */
  readonly failed: (failure: StatusObject) => unknown;
  /** Called once when the RPC has ended; the error is undefined if the RPC succeeded. */
  readonly ended: (error: unknown, code: StatusCode) => void;
}

interface Settle {
  readonly resolve: (message: Buffer | undefined) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * An RPC that receives any number of messages. It sends one message, or any number of messages with `send`.
 *
 * It uses grpc-js's Channel and not its Client, because the streams of Client read 16 messages ahead of a slow reader,
 * up to 16 MiB. This class requests a message when the previous message is taken.
 */
export class Rpc {
  readonly #call: ReturnType<Channel["createCall"]>;
  readonly #events: RpcEvents;
  #settle: Settle | undefined;
  #end: { readonly error: unknown } | undefined;
  #cancelled: { readonly error: unknown } | undefined;
  #next: Promise<Buffer | undefined>;

  /**
   * Starts the RPC.
   *
   * @param channel - The channel of the RPC.
   * @param path - The full name of the method, such as `/package.Service/Method`.
   * @param request - The encoded request; undefined if the caller sends messages with `send`.
   * @param metadata - The headers of the request.
   * @param timeoutMs - Timeout of the whole RPC in milliseconds, also sent to the service; Infinity for none.
   * @param events - The callbacks. None is called before the constructor returns.
   */
  constructor(
    channel: Channel,
    path: string,
    request: Buffer | undefined,
    metadata: Metadata,
    timeoutMs: number,
    events: RpcEvents,
  ) {
    this.#events = events;
    const deadline = timeoutMs === Infinity ? Infinity : Date.now() + timeoutMs;
    this.#call = channel.createCall(path, deadline, null, null, null);
    this.#call.start(metadata, {
      onReceiveMetadata: events.heard,
      onReceiveMessage: (message: Buffer) => {
        events.heard();
        this.#settle?.resolve(message);
      },
      onReceiveStatus: (received) => {
        this.#finish(received);
      },
    });
    if (request !== undefined) {
      this.send(request);
      this.endRequests();
    }
    this.#next = this.#ask();
  }

  /**
   * Returns the next message, or undefined at the end of a successful RPC. Also requests the following message, so that
   * it arrives while the caller processes the current one.
   *
   * @throws UserServiceError if the RPC failed; the error that was passed to `cancel`, if the RPC was cancelled.
   */
  async read(): Promise<Buffer | undefined> {
    const message = await this.#next;
    if (message !== undefined) {
      this.#next = this.#ask();
    }
    return message;
  }

  /** Sends a message. Has no effect after the end of the RPC, whose error `read` throws. */
  send(message: Buffer): void {
    if (!this.#end) {
      this.#call.sendMessageWithContext({}, message);
    }
  }

  /** Ends the stream of requests. */
  endRequests(): void {
    if (!this.#end) {
      this.#call.halfClose();
    }
  }

  /** Cancels the RPC, also on the server; `read` then throws the error. Has no effect after the end of the RPC. */
  cancel(error: unknown): void {
    this.#cancelled ??= { error };
    this.#call.cancelWithStatus(status.CANCELLED, "cancelled by the client");
  }

  #ask(): Promise<Buffer | undefined> {
    const next = new Promise<Buffer | undefined>((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    // Without this handler, Node reports an unhandled rejection if the RPC fails before the next read.
    next.catch(() => undefined);
    if (this.#end) {
      this.#settleEnd();
    } else {
      this.#call.startRead();
    }
    return next;
  }

  #finish(received: StatusObject): void {
    // At its deadline, a call can end without anything from the service. With every other status, the service has sent
    // something or the connection has ended.
    if (!this.#cancelled && received.code !== status.DEADLINE_EXCEEDED) {
      this.#events.heard();
    }
    this.#end = this.#cancelled ?? { error: received.code === status.OK ? undefined : this.#events.failed(received) };
    this.#settleEnd();
    this.#events.ended(this.#end.error, this.#code(received));
  }

  /** Returns the code with which the RPC ended; that of the error, if the client cancelled the RPC with an error. */
  #code(received: StatusObject): StatusCode {
    if (this.#cancelled?.error instanceof UserServiceError) {
      return this.#cancelled.error.code;
    }
    return this.#cancelled ? "CANCELLED" : codeName(received.code);
  }

  #settleEnd(): void {
    if (this.#end?.error === undefined) {
      this.#settle?.resolve(undefined);
    } else {
      this.#settle?.reject(this.#end.error);
    }
  }
}
