/** One connection to the service, which is made anew when it is found dead. */

import { Channel, type ChannelCredentials, type ChannelOptions } from "@grpc/grpc-js";

/**
 * Milliseconds without a word from the service after which a call that gives up takes the connection for dead.
 * Pings, so rare as they have to be, would find that out after minutes.
 */
const SILENCE_MS = 4000;

/** A channel to the service. It connects at the first call. */
export class Link {
  #channel: Channel;
  /** Since when calls have been waiting for the service without a word from it; undefined if none do. */
  #silentSince: number | undefined;

  /**
   * @param target - What gRPC connects to.
   * @param credentials - How to encrypt.
   * @param options - Options of the channel.
   */
  constructor(
    private readonly target: string,
    private readonly credentials: ChannelCredentials,
    private readonly options: ChannelOptions,
  ) {
    this.#channel = this.#newChannel();
  }

  #newChannel(): Channel {
    return new Channel(this.target, this.credentials, this.options);
  }

  /** The channel for calls to come. */
  get channel(): Channel {
    return this.#channel;
  }

  /** Notes that a call waits for the service. */
  asked(): void {
    this.#silentSince ??= performance.now();
  }

  /** Notes that the service said something. */
  heard(): void {
    this.#silentSince = undefined;
  }

  /** Connects anew for the calls to come if the service has not been heard for long. Running calls stay as they are. */
  replaceIfDead(): void {
    if (this.#silentSince !== undefined && performance.now() - this.#silentSince > SILENCE_MS) {
      this.#channel.close();
      this.#channel = this.#newChannel();
      this.#silentSince = undefined;
    }
  }
}
