/** One running RPC, read a message at a time. */

import { type Channel, type Metadata, status, type StatusObject } from "@grpc/grpc-js";

/** What an RPC tells of itself. */
export interface RpcEvents {
  /** The service sent something, or the connection to it ended. */
  readonly heard: () => void;
  /** Makes the error for a status other than OK. */
  readonly failed: (failure: StatusObject) => unknown;
  /** The RPC is over, for whatever reason; the error is undefined if it went well. Told once. */
  readonly ended: (error: unknown) => void;
}

interface Settle {
  readonly resolve: (message: Buffer | undefined) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * An RPC that sends one message and receives any number.
 *
 * It stands on the channel rather than on grpc-js's Client, for the streams that Client makes read 16 messages ahead
 * of a slow reader: up to 16 MiB. This one asks for a message when the one before it is taken.
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
   * @param channel - The channel to call on.
   * @param path - The full name of the method, such as `/package.Service/Method`.
   * @param request - The encoded request.
   * @param metadata - What to send with it.
   * @param timeoutMs - Milliseconds for the whole RPC, told to the service too; Infinity for none.
   * @param events - Called when they happen, and never before the constructor is done.
   */
  constructor(
    channel: Channel,
    path: string,
    request: Buffer,
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
    this.#call.sendMessageWithContext({}, request);
    this.#call.halfClose();
    this.#next = this.#ask();
  }

  /**
   * Returns the next message, or undefined at the end of a call that went well. Asks for the one after it too, so that
   * it is on its way while this one is worked on.
   *
   * @throws UserServiceError if the call failed; the error that was given to `cancel`, if it was cancelled.
   */
  async read(): Promise<Buffer | undefined> {
    const message = await this.#next;
    if (message !== undefined) {
      this.#next = this.#ask();
    }
    return message;
  }

  /** Ends the call at once, here and at the service; `read` then throws the error. Does nothing if it is over. */
  cancel(error: unknown): void {
    this.#cancelled ??= { error };
    this.#call.cancelWithStatus(status.CANCELLED, "cancelled by the client");
  }

  #ask(): Promise<Buffer | undefined> {
    const next = new Promise<Buffer | undefined>((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    // A failure that nobody waits for yet is kept for the next read.
    next.catch(() => undefined);
    if (this.#end) {
      this.#settleEnd();
    } else {
      this.#call.startRead();
    }
    return next;
  }

  #finish(received: StatusObject): void {
    // Running out of time, unlike all else that ends a call, may have been noticed here alone.
    if (!this.#cancelled && received.code !== status.DEADLINE_EXCEEDED) {
      this.#events.heard();
    }
    this.#end = this.#cancelled ?? { error: received.code === status.OK ? undefined : this.#events.failed(received) };
    this.#settleEnd();
    this.#events.ended(this.#end.error);
  }

  #settleEnd(): void {
    if (this.#end?.error === undefined) {
      this.#settle?.resolve(undefined);
    } else {
      this.#settle?.reject(this.#end.error);
    }
  }
}
