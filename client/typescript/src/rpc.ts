/** One running RPC, read a message at a time. */

import { type Channel, type Metadata, status, type StatusObject } from "@grpc/grpc-js";

import { errorFromStatus } from "./status.js";

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
  readonly #onEnd: () => void;
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
   * @param onEnd - Called once, when the RPC is over for whatever reason.
   */
  constructor(
    channel: Channel,
    path: string,
    request: Buffer,
    metadata: Metadata,
    timeoutMs: number,
    onEnd: () => void,
  ) {
    this.#onEnd = onEnd;
    const deadline = timeoutMs === Infinity ? Infinity : Date.now() + timeoutMs;
    this.#call = channel.createCall(path, deadline, null, null, null);
    this.#call.start(metadata, {
      onReceiveMetadata: () => undefined,
      onReceiveMessage: (message: Buffer) => this.#settle?.resolve(message),
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
    this.#end = this.#cancelled ?? { error: received.code === status.OK ? undefined : errorFromStatus(received) };
    this.#settleEnd();
    this.#onEnd();
  }

  #settleEnd(): void {
    if (this.#end?.error === undefined) {
      this.#settle?.resolve(undefined);
    } else {
      this.#settle?.reject(this.#end.error);
    }
  }
}
