/** The connections of a manager, and its running calls. Managers that `withOptions` returns share them. */

import { ChannelCredentials, type ChannelOptions } from "@grpc/grpc-js";

import { ManagerClosedError } from "./errors.js";
import { Link } from "./link.js";
import type { Rpc } from "./rpc.js";
import type { TlsFiles } from "./tls.js";

/** One or several connections, which calls use in turn. */
export class Links {
  readonly #tls: TlsFiles | undefined;
  readonly #links: readonly Link[];
  readonly #running = new Set<Rpc>();
  #turn = 0;
  #closed = false;

  /**
   * @param target - The target in gRPC's own syntax.
   * @param tls - The TLS files; undefined for plain text.
   * @param connections - The number of connections.
   * @param options - The options of the channels.
   */
  constructor(target: string, tls: TlsFiles | undefined, connections: number, options: ChannelOptions) {
    this.#tls = tls;
    const insecure = ChannelCredentials.createInsecure();
    const credentials = (): ChannelCredentials => tls?.credentials ?? insecure;
    this.#links = Array.from({ length: connections }, () => new Link(target, credentials, options));
  }

  /** Whether `close` was called. */
  get closed(): boolean {
    return this.#closed;
  }

  /** Returns the connection for the next call. If a TLS file has changed, all connections are replaced. */
  next(): Link {
    if (this.#tls?.hasChanged()) {
      for (const link of this.#links) {
        link.replace();
      }
    }
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- the turn is below the length
    const link = this.#links[this.#turn]!;
    this.#turn = (this.#turn + 1) % this.#links.length;
    return link;
  }

  /** Adds a running call, which `close` ends. */
  add(rpc: Rpc): void {
    this.#running.add(rpc);
  }

  /** Removes a call that has ended. */
  delete(rpc: Rpc): void {
    this.#running.delete(rpc);
  }

  /** Closes the connections and ends their running calls with ManagerClosedError. Safe to call twice. */
  close(): void {
    this.#closed = true;
    for (const rpc of this.#running) {
      rpc.cancel(new ManagerClosedError("the manager was closed during the call"));
    }
    for (const link of this.#links) {
      link.channel.close();
    }
  }
}
