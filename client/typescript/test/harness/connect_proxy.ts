/** An HTTP proxy that opens tunnels with CONNECT, rejects CONNECT, or never responds. */

import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";

/** The reaction of the proxy to a CONNECT. */
export type Conduct = "opens" | "refuses" | "hangs";

/** A proxy on loopback. */
export class ConnectProxy implements AsyncDisposable {
  /** The requested hosts and ports. */
  readonly asked: string[] = [];
  readonly #server: Server = createServer();
  readonly #sockets = new Set<Socket>();

  /**
   * Starts a proxy.
   *
   * @param conduct - The reaction of the proxy to a CONNECT.
   * @param target - The host:port to which all tunnels lead, regardless of the request.
   */
  static async start(conduct: Conduct, target: string): Promise<ConnectProxy> {
    const proxy = new ConnectProxy();
    proxy.#server.on("connect", (request, client: Socket) => {
      proxy.asked.push(request.url ?? "");
      proxy.#keep(client);
      if (conduct === "refuses") {
        client.end("HTTP/1.1 403 Forbidden\r\n\r\n");
      } else if (conduct === "opens") {
        const [host = "", port] = target.split(":");
        const service = connect({ host, port: Number(port) });
        proxy.#keep(service);
        client.write("HTTP/1.1 200 Connection established\r\n\r\n");
        client.pipe(service).pipe(client);
      }
    });
    proxy.#server.listen(0, "127.0.0.1");
    await once(proxy.#server, "listening");
    return proxy;
  }

  #keep(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on("error", () => undefined);
    socket.on("close", () => this.#sockets.delete(socket));
  }

  /** The port of the proxy. */
  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    for (const socket of this.#sockets) {
      socket.destroy();
    }
    await once(this.#server, "close");
  }
}
