/** The token of a manager: its checks, its header, and the addresses to which the token is not sent. */

import { BlockList, isIP } from "node:net";

import type { Address } from "./address.js";

/** A token, or a function that returns the token or a promise of the token. */
export type TokenSource = string | (() => string | Promise<string>);

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet("127.0.0.0", 8);
LOOPBACK.addAddress("::1", "ipv6");

/**
 * Returns the value of the header `authorization`.
 *
 * @param source - Where the token comes from, for the error message.
 * @throws TypeError if the token is not a string, is empty or is invalid in a header. The message does not contain the
 *   token.
 */
export function bearer(token: unknown, source = "the token"): string {
  if (typeof token !== "string") {
    throw new TypeError(`${source} must be a string, not ${typeof token}`);
  }
  if (!/^[\x21-\x7e]+$/.test(token)) {
    throw new TypeError(`${source} is empty or contains characters that are invalid in a header, such as a line break`);
  }
  return `Bearer ${token}`;
}

/**
 * Rejects a token for a connection without encryption, unless the connection stays on this machine.
 *
 * @throws TypeError if a target is not a Unix socket, a literal loopback address or `localhost`.
 */
export function checkPlaintext({ hosts, target }: Address): void {
  // In `dns://server/localhost:1`, the named DNS server resolves `localhost`, possibly to another machine.
  const byServer = /dns:\/\/[^/]/.test(target);
  const host = hosts.find((name) => !isSurelyLoopback(name, byServer));
  if (host !== undefined) {
    throw new TypeError(
      `a token is not sent without TLS to ${JSON.stringify(host)}, which is not a loopback address: use https:// or ` +
        "the option tls, or set allowInsecureToken if the network is trusted",
    );
  }
}

/**
 * Returns whether a host is certainly on this machine. This check is stricter than the check that decides whether a
 * proxy is used: a DNS server may resolve names such as `a.localhost` and `127.1` to other machines.
 */
function isSurelyLoopback(host: string, byServer: boolean): boolean {
  const version = host.includes("%") ? 0 : isIP(host);
  if (version === 0) {
    return host.toLowerCase() === "localhost" && !byServer;
  }
  return LOOPBACK.check(host, version === 4 ? "ipv4" : "ipv6");
}

/**
 * Returns the token of a function.
 *
 * @param source - The function.
 * @param timeoutMs - Timeout in milliseconds.
 * @param signal - Ends the wait when the signal is aborted.
 * @param outOfTime - Returns the error for a function that does not return in time.
 */
export async function askToken(
  source: () => string | Promise<string>,
  timeoutMs: number,
  signal: AbortSignal | undefined,
  outOfTime: () => Error,
): Promise<unknown> {
  signal?.throwIfAborted();
  let timer: NodeJS.Timeout | undefined;
  let abort: (() => void) | undefined;
  const interruption = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(outOfTime());
    }, timeoutMs);
    abort = () => {
      // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- the reason belongs to the caller
      reject(signal?.reason);
    };
    signal?.addEventListener("abort", abort);
  });
  try {
    return await Promise.race([source(), interruption]);
  } finally {
    clearTimeout(timer);
    if (abort) {
      signal?.removeEventListener("abort", abort);
    }
  }
}
