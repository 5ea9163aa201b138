/** One connection to the service, which is replaced when it is dead. */

import { Channel, type ChannelCredentials, type ChannelOptions } from "@grpc/grpc-js";

/**
 * If a call fails and the service has sent nothing for this many milliseconds, the connection counts as dead. Pings
 * would detect a dead connection only after minutes, because servers limit how often a client may ping.
 */
const SILENCE_MS = 4000;

/** A channel to the service. It connects at the first call. */
export class Link {
  #channel: Channel;
  /** Start of the first call since the service last sent something; undefined if no call has started since. */
  #silentSince: number | undefined;

  /**
   * @param target - The target in gRPC's own syntax.
   * @param credentials - Returns the credentials of a new channel: TLS or none.
   * @param options - The options of the channel.
   */
  constructor(
    private readonly target: string,
    private readonly credentials: () => ChannelCredentials,
    private readonly options: ChannelOptions,
  ) {
    this.#channel = this.#newChannel();
  }

  #newChannel(): Channel {
    return new Channel(this.target, this.credentials(), this.options);
  }

  /** The channel for new calls. */
  get channel(): Channel {
    return this.#channel;
  }

  /** Records the start of a call. */
  asked(): void {
    this.#silentSince ??= performance.now();
  }

  /** Records that the service sent something. */
  heard(): void {
    this.#silentSince = undefined;
  }

  /** Opens a new channel for new calls if the service has sent nothing for too long. Running calls are not affected. */
  replaceIfDead(): void {
    if (this.#silentSince !== undefined && performance.now() - this.#silentSince > SILENCE_MS) {
      this.replace();
    }
  }

  /** Opens a new channel for new calls. Running calls are not affected. */
  replace(): void {
    this.#channel.close();
    this.#channel = this.#newChannel();
    this.#silentSince = undefined;
  }
}
