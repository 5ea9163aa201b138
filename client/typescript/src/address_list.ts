/** Resolves a list of several `host:port`. gRPC itself supports only lists of IP addresses. */

import { type ChannelOptions, experimental } from "@grpc/grpc-js";

/** The scheme of a target that consists of several `host:port`, separated by commas. */
export const LIST_SCHEME = "userservice-list";

type Result = experimental.StatusOr<experimental.Endpoint[]>;

/** Resolves each name with gRPC's own DNS resolver, and reports all endpoints together. */
class ListResolver implements experimental.Resolver {
  readonly #children: readonly experimental.Resolver[];
  /** For each name, the last successful result, or the last error if no resolution has succeeded. */
  readonly #results: (Result | undefined)[];

  constructor(
    target: experimental.GrpcUri,
    private readonly listener: experimental.ResolverListener,
    options: ChannelOptions,
  ) {
    const names = target.path.split(",");
    this.#results = names.map(() => undefined);
    this.#children = names.map((name, index) =>
      experimental.createResolver(dnsUri(name), (result) => this.#take(index, result), options),
    );
  }

  static getDefaultAuthority(target: experimental.GrpcUri): string {
    return dnsUri(target.path.split(",")[0] ?? "").path;
  }

  #take(index: number, result: Result): boolean {
    if (result.ok || !this.#results[index]?.ok) {
      this.#results[index] = result;
    }
    const results = this.#results.filter((one) => one !== undefined);
    if (results.length < this.#results.length) {
      return true;
    }
    const endpoints = results.flatMap((one) => (one.ok ? one.value : []));
    const all = endpoints.length > 0 ? experimental.statusOrFromValue(endpoints) : result;
    return this.listener(all, {}, null, "");
  }

  updateResolution(): void {
    for (const child of this.#children) {
      child.updateResolution();
    }
  }

  destroy(): void {
    for (const child of this.#children) {
      child.destroy();
    }
  }
}

/** Converts `host:port` or `dns://server/host:port` to a URI of gRPC. */
function dnsUri(name: string): experimental.GrpcUri {
  const [, authority, path = name] = /^dns:\/\/([^/]*)\/(.*)$/.exec(name) ?? [];
  return authority === undefined ? { scheme: "dns", path } : { scheme: "dns", authority, path };
}

/** Registers the resolver of targets with `LIST_SCHEME` in gRPC. */
export function registerListResolver(): void {
  experimental.registerResolver(LIST_SCHEME, ListResolver);
}
