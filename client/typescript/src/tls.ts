/** The TLS settings of a manager: certificates and keys from files or from memory. */

import { readFileSync } from "node:fs";

import { ChannelCredentials } from "@grpc/grpc-js";

/**
 * The path of a file in PEM form, or its content as bytes. A string that contains `-----BEGIN` is the content.
 */
export type PemSource = string | Uint8Array;

/**
 * Options of the TLS connection. Files are checked at most once per second; after a change, new calls use new
 * connections with the new content.
 */
export interface TlsOptions {
  /** Certificates of trusted certificate authorities; default: those of Node.js. */
  ca?: PemSource | undefined;
  /** The client's certificate chain, for services that require client certificates. Requires `key`. */
  cert?: PemSource | undefined;
  /** The client's private key. Requires `cert`. */
  key?: PemSource | undefined;
}

const BEGIN = "-----BEGIN";
/** Base64, such as that of a private key. */
const LIKE_CONTENT = /^[A-Za-z0-9+/=\s]{120,}$/;
const MILLISECONDS_BETWEEN_CHECKS = 1000;

type Name = "ca" | "cert" | "key";

/** Loads the credentials of TLS connections. Loads them again when a file has changed. */
export class TlsFiles {
  readonly #options: TlsOptions;
  readonly #canChange: boolean;
  #contents: readonly (Buffer | null)[];
  #credentials: ChannelCredentials;
  #checkedAt = performance.now();

  /**
   * @throws TypeError if a file cannot be read or is not in PEM form, if only one of `cert` and `key` is given, or if
   *   the key does not belong to the certificate. The message does not contain the private key.
   */
  constructor(options: TlsOptions) {
    if (options.cert !== undefined && options.key === undefined) {
      throw new TypeError("tls.cert needs tls.key: the two must be given together");
    }
    if (options.key !== undefined && options.cert === undefined) {
      throw new TypeError("tls.key needs tls.cert: the two must be given together");
    }
    this.#options = { ...options };
    this.#canChange = Object.values(this.#options).some(isPath);
    this.#contents = this.#read();
    this.#credentials = create(this.#contents);
  }

  /** The credentials for new connections. */
  get credentials(): ChannelCredentials {
    return this.#credentials;
  }

  /**
   * Checks at most once per second whether the files have new content, and loads the new content. If it is invalid, the
   * last credentials remain in use.
   */
  hasChanged(): boolean {
    if (!this.#canChange || performance.now() - this.#checkedAt < MILLISECONDS_BETWEEN_CHECKS) {
      return false;
    }
    this.#checkedAt = performance.now();
    try {
      const contents = this.#read();
      if (contents.every((content, index) => isEqual(content, this.#contents[index]))) {
        return false;
      }
      this.#credentials = create(contents);
      this.#contents = contents;
      return true;
    } catch {
      // While the files are being replaced, they may be invalid or not belong together.
      return false;
    }
  }

  #read(): (Buffer | null)[] {
    const { ca, cert, key } = this.#options;
    return [
      read("ca", ca, "-----BEGIN CERTIFICATE-----"),
      read("cert", cert, "-----BEGIN CERTIFICATE-----"),
      read("key", key, "PRIVATE KEY-----"),
    ];
  }
}

function isPath(source: unknown): source is string {
  return typeof source === "string" && !source.includes(BEGIN);
}

function isEqual(one: Buffer | null, other: Buffer | null | undefined): boolean {
  return one === null || other == null ? one === other : one.equals(other);
}

function read(name: Name, source: PemSource | undefined, marker: string): Buffer | null {
  if (source === undefined) {
    return null;
  }
  if (typeof source !== "string" && !(source instanceof Uint8Array)) {
    throw new TypeError(`tls.${name} must be a path or bytes in PEM form, not ${typeof source}`);
  }
  const content = isPath(source) ? readFile(name, source) : Buffer.from(source);
  if (!content.includes(marker)) {
    const kind = name === "key" ? "private key" : "certificate";
    throw new TypeError(`tls.${name}${isPath(source) ? ` ${source}` : ""} contains no ${kind} in PEM form`);
  }
  return content;
}

function readFile(name: Name, path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "unknown error";
    if (LIKE_CONTENT.test(path)) {
      // eslint-disable-next-line preserve-caught-error -- the text of the error contains the content
      throw new TypeError(`cannot read tls.${name}: its content needs the line ${BEGIN}; as a path: ${code}`);
    }
    throw new TypeError(`cannot read tls.${name} ${path}: ${code}`, { cause: error });
  }
}

function create([ca = null, cert = null, key = null]: readonly (Buffer | null)[]): ChannelCredentials {
  try {
    return ChannelCredentials.createSsl(ca, key, cert);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "invalid PEM";
    throw new TypeError(`cannot use tls.ca, tls.cert and tls.key: ${code}`, { cause: error });
  }
}
