/**
 * Determines which proxy gRPC uses for an address, if any.
 *
 * gRPC reads proxies from environment variables, but its errors do not mention a proxy. This module applies the rules
 * of grpc-js, so that an error names a proxy only if a proxy is used. There is one exception: no proxy is used for
 * addresses of this machine.
 */

import { BlockList, isIP, isIPv4 } from "node:net";

import type { Address } from "./address.js";

/** In order of precedence. */
const VARIABLES = ["grpc_proxy", "https_proxy", "http_proxy"] as const;

const LOCAL = new BlockList();
LOCAL.addSubnet("127.0.0.0", 8);
LOCAL.addAddress("0.0.0.0");
LOCAL.addAddress("::1", "ipv6");
LOCAL.addAddress("::", "ipv6");

/**
 * Returns the environment variable that names the proxy for an address; undefined if no proxy is used: for Unix
 * sockets, addresses of this machine, several addresses, and hosts in `no_grpc_proxy` or `no_proxy`.
 */
export function proxyVariable({ hosts }: Address): string | undefined {
  const [host] = hosts;
  if (host === undefined || hosts.length > 1 || isLocal(host) || isExcepted(host)) {
    return undefined;
  }
  const variable = VARIABLES.find((name) => process.env[name]);
  return variable !== undefined && isHttp(process.env[variable] ?? "") ? variable : undefined;
}

function isLocal(host: string): boolean {
  const name = host.toLowerCase().replace(/\.$/, "").replace(/%.*$/, "");
  const version = isIP(name);
  return version === 0
    ? // Node.js does not accept short forms such as 127.1 as IP addresses, but they resolve to this machine.
      /^(?:.*\.)?localhost$|^127(?:\.[0-9]+){0,3}$/.test(name)
    : LOCAL.check(name, version === 4 ? "ipv4" : "ipv6");
}

/** Returns whether gRPC can use the proxy. It supports only `http:` proxies, and connects directly otherwise. */
function isHttp(url: string): boolean {
  return URL.canParse(url) && new URL(url).protocol === "http:";
}

function isExcepted(host: string): boolean {
  const list = process.env["no_grpc_proxy"] ?? process.env["no_proxy"] ?? "";
  return list !== "" && list.split(",").some((entry) => host.endsWith(entry) || isInSubnet(host, entry));
}

function isInSubnet(host: string, entry: string): boolean {
  const [network = "", prefix = "", ...rest] = entry.split("/");
  if (rest.length > 0 || !isIPv4(network) || !isIPv4(host) || !/^\d+$/.test(prefix) || Number(prefix) > 32) {
    return false;
  }
  const subnet = new BlockList();
  subnet.addSubnet(network, Number(prefix));
  return subnet.check(host);
}
