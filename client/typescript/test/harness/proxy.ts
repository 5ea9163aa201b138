/** A TCP proxy in front of the service that counts, freezes and cuts connections, or adds TLS. */

import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { createServer as createTlsServer, type TlsOptions } from "node:tls";

/** Forwards connections to an address. */
export class Proxy implements AsyncDisposable {
  /** Number of bytes received from the service so far. */
  received = 0;
  /** Number of connections so far. */
  connections = 0;
  readonly #target: { readonly host: string; readonly port: number };
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(target: string, tls: TlsOptions | undefined) {
    const [host = "", port] = target.split(":");
    this.#target = { host, port: Number(port) };
    const accept = (client: Socket): void => {
      this.#accept(client);
    };
    this.#server = tls ? createTlsServer(tls, accept) : createServer(accept);
  }

  /** Starts a proxy on a free port. */
  static async start(target: string, tls?: TlsOptions): Promise<Proxy> {
    const proxy = new Proxy(target, tls);
    proxy.#server.listen(0, "127.0.0.1");
    await once(proxy.#server, "listening");
    return proxy;
  }

  /** The port of the proxy. */
  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** The address of the proxy, as host:port. */
  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  #accept(client: Socket): void {
    this.connections += 1;
    const service = connect(this.#target);
    service.on("data", (data) => (this.received += data.length));
    client.pipe(service).pipe(client);
    for (const socket of [client, service]) {
      this.#sockets.add(socket);
      socket.on("error", () => undefined);
      socket.on("close", () => {
        this.#sockets.delete(socket);
        client.destroy();
        service.destroy();
      });
    }
  }

  /** Stops forwarding on the current connections without closing them, as if the peer had lost its network. */
  freeze(): void {
    for (const socket of this.#sockets) {
      socket.unpipe();
      socket.removeAllListeners("data");
      socket.pause();
    }
  }

  /** Closes the current connections. */
  cut(): void {
    for (const socket of this.#sockets) {
      socket.destroy();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    this.cut();
    await once(this.#server, "close");
  }
}
