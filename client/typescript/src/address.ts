/** Parses the addresses of the service. */

import { isIPv4, isIPv6 } from "node:net";

import { LIST_SCHEME } from "./address_list.js";

const HOST_PORT = /^(?<host>\[[0-9A-Fa-f:.%\w]+\]|[^\s:/?#@,[\]]+):(?<port>[0-9]{1,5})\/?$/;
const DNS = /^dns:(?<server>\/\/[^\s/?#@,]*\/)?(?<name>[^/].*)$/;
const MAX_PORT = 65535;
const FORMS =
  "host:port, http://host:port, https://host:port, dns:///host:port, ipv4:address:port, ipv6:[address]:port or " +
  "unix:/path; several addresses are separated by commas";

/** A parsed address. */
export interface Address {
  /** The target in gRPC's own syntax. */
  readonly target: string;
  /** Whether the connection is encrypted; undefined if the address has no `http://` or `https://`. */
  readonly tls: boolean | undefined;
  /** The hosts that the address names, without brackets; empty for a Unix socket. */
  readonly hosts: readonly string[];
  /** Whether calls go to all addresses in turn. If not, they go to the first address that can be reached. */
  readonly balanced: boolean;
}

/** One address of a list. */
interface Part {
  readonly host: string;
  /** The target for gRPC's DNS resolver: `host:port`; for `dns:`, with the scheme and the name server before it. */
  readonly target: string;
  readonly tls: boolean | undefined;
}

/**
 * Parses an address of the service.
 *
 * @param address - `host:port` (an IPv6 address in brackets), `http://host:port` for plain text, `https://host:port`
 *   for TLS, `dns:///host:port` for all addresses of a name, `ipv4:address:port` or `ipv6:[address]:port` (more
 *   addresses with ports can follow after commas), or `unix:/path`. An address may contain several of the forms with a
 *   host, separated by commas.
 * @throws TypeError if the address has none of these forms; the message lists the forms.
 */
export function parseAddress(address: string): Address {
  const parsed = typeof address === "string" ? parse(address) : undefined;
  if (parsed === undefined) {
    throw new TypeError(`cannot parse the address ${shown(address)}; expected ${FORMS}`);
  }
  return parsed;
}

/** Formats an address for an error message. The part before an `@` is hidden, because it can contain a password. */
function shown(address: unknown): string {
  const text = typeof address === "string" ? JSON.stringify(address) : String(address);
  return text.replace(/^("(?:[a-z]+:\/\/)?).*@/i, "$1***@");
}

function parse(address: string): Address | undefined {
  const [, family, rest = ""] = /^(ipv4|ipv6|unix):(.*)$/s.exec(address) ?? [];
  if (family === "unix") {
    return /^(?:\/\/)?\/[^/]|^[^/]/.test(rest)
      ? { target: address, tls: undefined, hosts: [], balanced: false }
      : undefined;
  }
  if (family !== undefined) {
    const isAddress = family === "ipv4" ? isIPv4 : isIPv6;
    const parts = parseAll(rest, parseHostPort);
    return parts?.every(({ host }) => isAddress(host)) ? together(`${family}:`, parts) : undefined;
  }
  const parts = parseAll(address, parseOne);
  const [first] = parts ?? [];
  if (parts === undefined || first === undefined || parts.some(({ tls }) => tls !== first.tls)) {
    return undefined;
  }
  if (parts.length > 1) {
    return together(`${LIST_SCHEME}:`, parts);
  }
  return { target: first.target, tls: first.tls, hosts: [first.host], balanced: first.target.startsWith("dns:") };
}

function together(prefix: string, parts: readonly Part[]): Address {
  return {
    target: prefix + parts.map(({ target }) => target).join(","),
    tls: parts[0]?.tls,
    hosts: parts.map(({ host }) => host),
    balanced: true,
  };
}

function parseAll(text: string, parseItem: (text: string) => Part | undefined): Part[] | undefined {
  const parts = text.split(",").map((item) => parseItem(item.trim()));
  return parts.every((part) => part !== undefined) ? parts : undefined;
}

function parseOne(text: string): Part | undefined {
  const { server = "///", name } = DNS.exec(text)?.groups ?? {};
  if (name !== undefined) {
    const part = parseHostPort(name);
    return part && { ...part, target: `dns:${server}${part.target}` };
  }
  const [, scheme, rest = ""] = /^(?:(https?):\/\/)?(.*)$/s.exec(text) ?? [];
  const part = parseHostPort(rest);
  return part && { ...part, tls: scheme === undefined ? undefined : scheme === "https" };
}

function parseHostPort(text: string): Part | undefined {
  const { host, port } = HOST_PORT.exec(text)?.groups ?? {};
  if (host === undefined || Number(port) < 1 || Number(port) > MAX_PORT) {
    return undefined;
  }
  return { host: host.replace(/^\[(.*)\]$/, "$1"), target: `${host}:${Number(port)}`, tls: undefined };
}
