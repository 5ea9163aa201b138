/** The connections of a manager to the service, and calls with retries. */

import { type ChannelOptions, Metadata } from "@grpc/grpc-js";

import { parseAddress } from "./address.js";
import { registerListResolver } from "./address_list.js";
import { type CallHeaders, addHeaders } from "./call_headers.js";
import type { StatusCode } from "./error_base.js";
import { DeadlineExceededError, InternalError, ManagerClosedError } from "./errors.js";
import type { OnCall } from "./hooks.js";
import { proxyVariable } from "./http_proxy.js";
import { Links } from "./links.js";
import { Attempts, checkRetries, checkTimeout } from "./retry.js";
import { Rpc } from "./rpc.js";
import { errorFromStatus, viaProxy } from "./status.js";
import { TlsFiles, type TlsOptions } from "./tls.js";
import { askToken, bearer, checkPlaintext, type TokenSource } from "./token.js";

/** Options of a manager: how it connects, and defaults for its calls. */
export interface ManagerOptions {
  /** TLS options. They also enable TLS for an address without `http://` or `https://`. */
  tls?: TlsOptions | undefined;
  /**
   * A token that is sent with every call as `authorization: Bearer …`, or a function that returns the token or a
   * promise of the token. A function is called for each attempt of a call, and should cache its token. If the service
   * rejects the token of a function, the call is repeated once with a new token.
   */
  token?: TokenSource | undefined;
  /** Allow sending the token without TLS to other machines. Anyone on the network can then read and use the token. */
  allowInsecureToken?: boolean | undefined;
  /** Timeout of a call in milliseconds, including retries; for a stream, the timeout of each chunk. Default: 10 000. */
  timeoutMs?: number | undefined;
  /**
   * Number of connections; default: 1. Each connection is opened at its first call. Calls use the connections in turn,
   * and a stream uses one connection. With several connections, a busy program can use several workers of a service.
   */
  connections?: number | undefined;
  /**
   * A function that is called before each attempt of a call. It can add headers, and can return a function that is called
   * at the end of the attempt with its status code and its duration in milliseconds. Both must be fast and must not throw.
   * `traceCalls()` of `userservice/opentelemetry` returns such a function, which creates spans.
   */
  onCall?: OnCall | undefined;
  /**
   * Headers to send with every call, by lower-case name. Values are printable ASCII, or bytes for names that end in
   * `-bin`; a list sends a header several times.
   */
  metadata?: CallHeaders | undefined;
  /**
   * The maximum number of retries of a call; for `listChunked`, of each chunk. 0: every call is sent at most once,
   * except a `get` whose shared call failed, which is then sent alone (`shareReads`). Default: any number before the
   * deadline.
   */
  retries?: number | undefined;
}

/** Options of `withOptions`. An absent option is not changed. */
export interface SharedOptions extends Pick<ManagerOptions, "timeoutMs" | "retries" | "token"> {
  /** Headers to send in addition. They replace the manager's headers that have the same names. */
  metadata?: CallHeaders | undefined;
}

/** Options of one call. */
export interface CallOptions {
  /** Timeout of the call in milliseconds, including retries; for a stream, the timeout of each chunk. */
  timeoutMs?: number | undefined;
  /** Ends the call when it is aborted; the call then throws the signal's reason. */
  signal?: AbortSignal | undefined;
}

const DEFAULT_TIMEOUT_MS = 10_000;
const MOST_CONNECTIONS = 100;
const KIB = 1024;

const CHANNEL_OPTIONS: ChannelOptions = {
  // gRPC's own retries ignore error reasons and request_ids, and would multiply with the retries of this client.
  "grpc.enable_retries": 0,
  // The largest batch: 1000 users, each with 64 KiB of metadata and less than 4 KiB of other fields. gRPC's default is
  // 4 MiB.
  "grpc.max_receive_message_length": 1000 * (64 + 4) * KIB,
  // The size of the largest chunk. With Node's default of 64 KiB, a round trip could transfer only 64 KiB.
  "grpc-node.flow_control_window": KIB * KIB,
  // With these delays, the client reconnects to a restarted server within about a second. gRPC's default delays grow to
  // two minutes.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1000,
  // The service accepts a ping every 5 s. While a call runs, a ping every 20 s keeps NAT gateways and load balancers
  // from dropping the connection. The timeout is 10 s, because the event loop of the program, which reads the response
  // to the ping, may be busy for some seconds.
  "grpc.keepalive_time_ms": 20_000,
  "grpc.keepalive_timeout_ms": 10_000,
  // Each manager has its own connections. If a connection is dead, the new channel must not reuse that connection.
  "grpc.use_local_subchannel_pool": 1,
  // A TXT record must not change how calls are balanced.
  "grpc.service_config_disable_resolution": 1,
};

const ROUND_ROBIN = JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] });

/** The name of an RPC and of its service, as in the generated descriptors. */
export interface Method {
  readonly name: string;
  readonly parent: { readonly typeName: string };
}

const NUMBERS = new WeakMap<object, number>();
let lastNumber = 0;

/** Returns a number that identifies an object. */
function numberOf(object: object): number {
  const number = NUMBERS.get(object) ?? (lastNumber += 1);
  NUMBERS.set(object, number);
  return number;
}

/** One or several connections to the service. Each connection is opened at its first call. */
export class Connection {
  readonly #metadata = new Metadata();
  /** Returns the token of a call; undefined if the token is constant or absent. */
  readonly #token: Exclude<TokenSource, string> | undefined;
  readonly #timeoutMs: number;
  readonly #retries: number;
  readonly #links: Links;
  readonly #ownsLinks: boolean;
  /** The options of this connection, for `withOptions`. */
  readonly #options: ManagerOptions;
  /** The environment variable that configures the proxy of the connection; undefined without a proxy. */
  readonly #proxy: string | undefined;
  readonly #address: string;
  readonly #onCall: OnCall | undefined;

  /**
   * @param address - The address of the service; see `parseAddress`.
   * @param options - The options of the manager.
   * @param shared - The connections of another manager with the same address; by default, new connections.
   * @throws TypeError if the address or an option is invalid; RangeError if a number is out of range.
   */
  constructor(address: string, options: ManagerOptions, shared?: Links) {
    const { tls, token, allowInsecureToken = false, timeoutMs = DEFAULT_TIMEOUT_MS, connections = 1, onCall } = options;
    const parsed = parseAddress(address);
    const isEncrypted = tls !== undefined || parsed.tls === true;
    if (tls && parsed.tls === false) {
      throw new TypeError(
        `the option tls requires an encrypted connection, but http:// in ${JSON.stringify(address)} disables encryption`,
      );
    }
    this.#timeoutMs = checkTimeout(timeoutMs);
    this.#retries = checkRetries(options.retries);
    if (onCall !== undefined && typeof onCall !== "function") {
      throw new TypeError("onCall must be a function");
    }
    this.#address = address;
    this.#options = options;
    this.#onCall = onCall;
    if (!Number.isInteger(connections) || connections < 1 || connections > MOST_CONNECTIONS) {
      throw new RangeError(`connections must be a whole number from 1 to ${MOST_CONNECTIONS}, not ${connections}`);
    }
    addHeaders(this.#metadata, options.metadata ?? {});
    if (token !== undefined && this.#metadata.get("authorization").length > 0) {
      throw new TypeError("token and the header 'authorization' in metadata exclude each other");
    }
    if (typeof token === "function") {
      this.#token = token;
    } else if (token !== undefined) {
      this.#metadata.set("authorization", bearer(token));
    }
    const hasToken = token !== undefined || this.#metadata.get("authorization").length > 0;
    if (hasToken && !isEncrypted && !allowInsecureToken) {
      checkPlaintext(parsed);
    }
    this.#proxy = proxyVariable(parsed);
    this.#ownsLinks = shared === undefined;
    if (shared !== undefined) {
      this.#links = shared;
      return;
    }
    registerListResolver();
    const channelOptions = {
      ...CHANNEL_OPTIONS,
      "grpc.enable_http_proxy": this.#proxy === undefined ? 0 : 1,
      ...(parsed.balanced && { "grpc.service_config": ROUND_ROBIN }),
    };
    const files = isEncrypted ? new TlsFiles(tls ?? {}) : undefined;
    this.#links = new Links(parsed.target, files, connections, channelOptions);
  }

  /**
   * Returns a connection that has other options for its calls and shares the links of this connection.
   *
   * @throws TypeError if an option is invalid; RangeError if a number is out of range.
   */
  withOptions({ timeoutMs, metadata, retries, token }: SharedOptions): Connection {
    const own = this.#options;
    const changed = {
      ...own,
      timeoutMs: timeoutMs ?? own.timeoutMs,
      retries: retries ?? own.retries,
      token: token ?? own.token,
      metadata: { ...own.metadata, ...metadata },
    };
    return new Connection(this.#address, changed, this.#links);
  }

  /** A text that is equal for connections with the same token and headers. Token functions are compared by identity. */
  get caller(): string {
    return JSON.stringify([this.#metadata.toJSON(), this.#token === undefined ? 0 : numberOf(this.#token)]);
  }

  /**
   * Returns the attempts of a call, whose deadline starts now.
   *
   * @throws RangeError if the timeout is out of range.
   */
  attempts({ timeoutMs = this.#timeoutMs, signal }: CallOptions): Attempts {
    return new Attempts(timeoutMs, signal, this.#token !== undefined, this.#retries);
  }

  /**
   * Makes a unary call, with retries, and returns the encoded response. Every attempt sends the same bytes.
   *
   * @throws UserServiceError if the call failed. If the last attempt failed because the deadline passed, and there was
   *   a previous attempt, the error of the previous attempt is thrown. If the signal of the attempts was aborted, the
   *   signal's reason is thrown.
   */
  async call(method: Method, request: Buffer, attempts: Attempts): Promise<Buffer> {
    for (;;) {
      try {
        return await this.callOnce(method, request, attempts.remaining, attempts.signal);
      } catch (error) {
        await attempts.pause(error);
      }
    }
  }

  /**
   * Makes a unary call without retries, and returns the encoded response.
   *
   * @throws UserServiceError if the call failed; the signal's reason, if the signal was aborted.
   */
  async callOnce(method: Method, request: Buffer, timeoutMs: number, signal: AbortSignal | undefined): Promise<Buffer> {
    const started = performance.now();
    const metadata = await this.headers(timeoutMs, signal);
    const remaining = Math.max(0, timeoutMs - (performance.now() - started));
    const rpc = this.open(method, request, metadata, remaining, signal);
    const answer = await rpc.read();
    if (answer === undefined || (await rpc.read()) !== undefined) {
      throw new InternalError(`the response of ${method.name} is not exactly one message`);
    }
    return answer;
  }

  /**
   * Checks that the connection is not closed.
   *
   * @throws ManagerClosedError if the connection is closed.
   */
  checkOpen(): void {
    if (this.#links.closed) {
      throw new ManagerClosedError("the manager is closed");
    }
  }

  /**
   * Returns the headers of a call. Asks for the token if it is a function.
   *
   * @param timeoutMs - Timeout of the function in milliseconds.
   * @param signal - Ends the wait when the signal is aborted.
   * @throws DeadlineExceededError if the function did not return in time; the signal's reason, if the signal is aborted.
   */
  async headers(timeoutMs: number, signal: AbortSignal | undefined): Promise<Metadata> {
    if (this.#token === undefined) {
      return this.#metadata;
    }
    const outOfTime = (): Error =>
      new DeadlineExceededError("the function token did not return before the deadline of the call");
    const token = await askToken(this.#token, timeoutMs, signal, outOfTime);
    const metadata = this.#metadata.clone();
    metadata.set("authorization", bearer(token, "the result of the function token"));
    return metadata;
  }

  /**
   * Starts an RPC. The caller must read the RPC to its end or cancel it; no other clean-up is necessary.
   *
   * @param request - The encoded request; undefined if the caller sends messages with `Rpc.send`.
   * @param metadata - The headers of the request, from `headers`.
   * @param timeoutMs - Timeout of the whole RPC in milliseconds; Infinity for none.
   * @param signal - Cancels the RPC when the signal is aborted.
   * @throws ManagerClosedError if the connection is closed; the signal's reason, if the signal is aborted.
   */
  open(
    method: Method,
    request: Buffer | undefined,
    metadata: Metadata,
    timeoutMs: number,
    signal: AbortSignal | undefined,
  ): Rpc {
    this.checkOpen();
    signal?.throwIfAborted();
    const abort = (): void => {
      rpc.cancel(signal?.reason);
    };
    signal?.addEventListener("abort", abort);
    const link = this.#links.next();
    const name = `${method.parent.typeName}/${method.name}`;
    const { headers, end } = this.#observe(name, metadata);
    const rpc = new Rpc(link.channel, `/${name}`, request, headers, timeoutMs, {
      heard: () => {
        link.heard();
      },
      failed: (failure) => errorFromStatus(failure, this.#proxy),
      ended: (error, code) => {
        end(code);
        this.#links.delete(rpc);
        signal?.removeEventListener("abort", abort);
        if (error !== undefined && !this.#links.closed) {
          link.replaceIfDead();
        }
      },
    });
    this.#links.add(rpc);
    link.asked();
    return rpc;
  }

  /** Calls the hook; returns the headers with those that the hook added, and a function for the end of the attempt. */
  #observe(method: string, metadata: Metadata): { headers: Metadata; end: (code: StatusCode) => void } {
    if (this.#onCall === undefined) {
      return { headers: metadata, end: () => undefined };
    }
    const added: Record<string, string> = {};
    const started = performance.now();
    const ended = this.#onCall({ method, address: this.#address, headers: added });
    const headers = metadata.clone();
    for (const [name, value] of Object.entries(added)) {
      headers.set(name, value);
    }
    return { headers, end: (code) => ended?.(code, performance.now() - started) };
  }

  /** Returns the error for a call whose deadline expired in the client. */
  outOfTime(message: string): DeadlineExceededError {
    return new DeadlineExceededError(message + viaProxy(this.#proxy));
  }

  /**
   * Closes the connections and ends their running calls with ManagerClosedError. Safe to call twice. Has no effect on a
   * connection from `withOptions`, because its links belong to another manager.
   */
  close(): void {
    if (this.#ownsLinks) {
      this.#links.close();
    }
  }
}
