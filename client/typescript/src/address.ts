/** Addresses of the service, as a user writes them. */

const HOST_PORT = /^(?<host>\[[0-9A-Fa-f:.%\w]+\]|[^\s:/?#@[\]]+):(?<port>[0-9]{1,5})\/?$/;
const MAX_PORT = 65535;
const FORMS = "host:port, http://host:port, https://host:port or unix:/path";

/** A parsed address. */
export interface Address {
  /** What gRPC connects to. */
  readonly target: string;
  /** Whether the connection is encrypted; undefined if the address does not say. */
  readonly tls: boolean | undefined;
}

/**
 * Parses an address of the service.
 *
 * @param address - `host:port` (an IPv6 address in brackets), `http://host:port` for plain text, `https://host:port`
 *   for TLS, or `unix:/path`.
 * @throws TypeError if the address is of none of these forms; says which there are.
 */
export function parseAddress(address: string): Address {
  if (/^unix:\/[^/]/.test(address)) {
    return { target: address, tls: undefined };
  }
  const [, scheme, rest] = /^(?:(\w+):\/\/)?(.*)$/s.exec(address) ?? [];
  if (scheme !== undefined && scheme !== "http" && scheme !== "https") {
    throw new TypeError(`unknown scheme in the address ${JSON.stringify(address)}; expected ${FORMS}`);
  }
  const { host, port } = HOST_PORT.exec(rest ?? "")?.groups ?? {};
  if (host === undefined || Number(port) < 1 || Number(port) > MAX_PORT) {
    throw new TypeError(`cannot read the address ${JSON.stringify(address)}; expected ${FORMS}`);
  }
  return { target: `${host}:${Number(port)}`, tls: scheme === undefined ? undefined : scheme === "https" };
}
