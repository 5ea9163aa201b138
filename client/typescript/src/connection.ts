/** The connections of a manager to the service, and calls on them with their retries. */

import { ChannelCredentials, type ChannelOptions, Metadata } from "@grpc/grpc-js";

import { parseAddress } from "./address.js";
import { registerListResolver } from "./address_list.js";
import { DeadlineExceededError, InternalError, ManagerClosedError } from "./errors.js";
import { proxyVariable } from "./http_proxy.js";
import { Link } from "./link.js";
import { Attempts, checkTimeout } from "./retry.js";
import { Rpc } from "./rpc.js";
import { errorFromStatus, viaProxy } from "./status.js";

/** How to encrypt the connection. All parts are in PEM form. */
export interface TlsOptions {
  /** Certificates of the authorities that may vouch for the service; Node's own if absent. */
  ca?: string | Uint8Array | undefined;
  /** The client's certificate chain, where the service asks for one. Needs `key`. */
  cert?: string | Uint8Array | undefined;
  /** The client's private key. Needs `cert`. */
  key?: string | Uint8Array | undefined;
}

/** How a manager connects, and what holds for all its calls. */
export interface ManagerOptions {
  /** How to encrypt; encrypts an address without `http://` or `https://` too. */
  tls?: TlsOptions | undefined;
  /** Sent with every call as `authorization: Bearer …`. Without TLS anybody on the way can read it. */
  token?: string | undefined;
  /** Milliseconds that a call may take, retries included; for a stream, to the next chunk. 10 000 if absent. */
  timeoutMs?: number | undefined;
  /**
   * How many connections to make, each at its first call; 1 if absent. Calls go over them in turn, and a stream stays on
   * one. More than one lets a busy program use more than one worker of a service.
   */
  connections?: number | undefined;
}

/** What holds for one call. */
export interface CallOptions {
  /** Milliseconds that the call may take, retries included; for a stream, to the next chunk. */
  timeoutMs?: number | undefined;
  /** Ends the call when it is aborted; the call then throws the signal's reason. */
  signal?: AbortSignal | undefined;
}

const DEFAULT_TIMEOUT_MS = 10_000;
const MOST_CONNECTIONS = 100;
const KIB = 1024;

const CHANNEL_OPTIONS: ChannelOptions = {
  // gRPC's own retries know neither the reason of a failure nor request_ids, and would multiply with the ones here.
  "grpc.enable_retries": 0,
  // A full batch: 1000 users of 64 KiB of metadata and less than 4 KiB for the rest. gRPC's default is 4 MiB.
  "grpc.max_receive_message_length": 1000 * (64 + 4) * KIB,
  // The size of the largest chunk. Node's default of 64 KiB would allow no more than that a round trip.
  "grpc-node.flow_control_window": KIB * KIB,
  // A restarted server is found within about a second. gRPC's default waits grow to two minutes.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1000,
  // The service accepts a ping every 5 s. While a call runs, a ping every 20 s keeps NAT gateways and load balancers from
  // dropping its connection. The answer is read by the event loop of the program, which may be busy for some seconds.
  "grpc.keepalive_time_ms": 20_000,
  "grpc.keepalive_timeout_ms": 10_000,
  // Each manager has connections of its own, and so has a channel that replaces another.
  "grpc.use_local_subchannel_pool": 1,
  // A TXT record must not change how calls are balanced.
  "grpc.service_config_disable_resolution": 1,
};

const ROUND_ROBIN = JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] });

/** What stands in for the description of a method: where it is, and what it is sent. */
export interface Method {
  readonly name: string;
  readonly parent: { readonly typeName: string };
}

/** What a manager has of the service: one connection or several, made at the first calls. */
export class Connection {
  readonly #metadata = new Metadata();
  readonly #timeoutMs: number;
  readonly #running = new Set<Rpc>();
  readonly #links: readonly Link[];
  /** The environment variable that names the proxy on the way, if there is one. */
  readonly #proxy: string | undefined;
  #turn = 0;
  #closed = false;

  /**
   * @param address - Where the service is; see `parseAddress`.
   * @param options - How to connect.
   * @throws TypeError if the address or an option cannot be used; RangeError if a number is out of range.
   */
  constructor(address: string, { tls, token, timeoutMs = DEFAULT_TIMEOUT_MS, connections = 1 }: ManagerOptions) {
    const parsed = parseAddress(address);
    if (tls && parsed.tls === false) {
      throw new TypeError(`tls needs an encrypted connection, and ${JSON.stringify(address)} asks for a plain one`);
    }
    this.#timeoutMs = checkTimeout(timeoutMs);
    if (!Number.isInteger(connections) || connections < 1 || connections > MOST_CONNECTIONS) {
      throw new RangeError(`connections must be a whole number from 1 to ${MOST_CONNECTIONS}, not ${connections}`);
    }
    if (token !== undefined) {
      if (typeof token !== "string" || !/^[\x21-\x7e]+$/.test(token)) {
        throw new TypeError("the token is empty or has characters that a header cannot hold");
      }
      this.#metadata.set("authorization", `Bearer ${token}`);
    }
    this.#proxy = proxyVariable(parsed);
    registerListResolver();
    const credentials = (tls ?? parsed.tls) ? tlsCredentials(tls ?? {}) : ChannelCredentials.createInsecure();
    const options = {
      ...CHANNEL_OPTIONS,
      "grpc.enable_http_proxy": this.#proxy === undefined ? 0 : 1,
      ...(parsed.balanced && { "grpc.service_config": ROUND_ROBIN }),
    };
    this.#links = Array.from({ length: connections }, () => new Link(parsed.target, credentials, options));
  }

  /**
   * Starts the clock of a call.
   *
   * @throws RangeError if the timeout cannot be used.
   */
  attempts({ timeoutMs = this.#timeoutMs, signal }: CallOptions): Attempts {
    return new Attempts(timeoutMs, signal);
  }

  /**
   * Makes a unary call, with retries, and returns the encoded response. Every attempt sends the same bytes.
   *
   * @throws UserServiceError if the call failed, as its last attempt did; the reason of the attempts' signal, if it was
   *   aborted.
   */
  async call(method: Method, request: Buffer, attempts: Attempts): Promise<Buffer> {
    for (;;) {
      try {
        const rpc = this.open(method, request, attempts.remaining, attempts.signal);
        const answer = await rpc.read();
        if (answer === undefined || (await rpc.read()) !== undefined) {
          throw new InternalError(`${method.name} was not answered with one message`);
        }
        return answer;
      } catch (error) {
        await attempts.pause(error);
      }
    }
  }

  /**
   * Starts an RPC. Whoever reads it to its end or cancels it is done with it.
   *
   * @param timeoutMs - Milliseconds for the whole RPC; Infinity for none.
   * @param signal - Cancels the RPC when it is aborted.
   * @throws ManagerClosedError if the connection was closed; the signal's reason, if it is aborted.
   */
  open(method: Method, request: Buffer, timeoutMs: number, signal: AbortSignal | undefined): Rpc {
    if (this.#closed) {
      throw new ManagerClosedError("the manager is closed");
    }
    signal?.throwIfAborted();
    const abort = (): void => {
      rpc.cancel(signal?.reason);
    };
    signal?.addEventListener("abort", abort);
    const link = this.#nextLink();
    const path = `/${method.parent.typeName}/${method.name}`;
    const rpc = new Rpc(link.channel, path, request, this.#metadata, timeoutMs, {
      heard: () => {
        link.heard();
      },
      failed: (failure) => errorFromStatus(failure, this.#proxy),
      ended: (error) => {
        this.#running.delete(rpc);
        signal?.removeEventListener("abort", abort);
        if (error !== undefined && !this.#closed) {
          link.replaceIfDead();
        }
      },
    });
    this.#running.add(rpc);
    link.asked();
    return rpc;
  }

  #nextLink(): Link {
    // eslint-disable-next-line @typescript-eslint/no-non-null-assertion -- the turn is below the length
    const link = this.#links[this.#turn]!;
    this.#turn = (this.#turn + 1) % this.#links.length;
    return link;
  }

  /** Makes the error of a call whose time ran out here. */
  outOfTime(message: string): DeadlineExceededError {
    return new DeadlineExceededError(message + viaProxy(this.#proxy));
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

function tlsCredentials({ ca, cert, key }: TlsOptions): ChannelCredentials {
  if ((cert === undefined) !== (key === undefined)) {
    throw new TypeError("tls.cert and tls.key are of use only together");
  }
  return ChannelCredentials.createSsl(pem(ca), pem(key), pem(cert));
}

function pem(text: string | Uint8Array | undefined): Buffer | null {
  return text === undefined ? null : Buffer.from(text);
}
