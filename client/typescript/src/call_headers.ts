/** The option `metadata` of the managers: headers of calls. */

import type { Metadata } from "@grpc/grpc-js";

/** Headers by lower-case name; a list sends a header several times. */
export type CallHeaders = Readonly<Record<string, HeaderValue | readonly HeaderValue[]>>;

/** The value of a header: printable ASCII, or bytes if the name ends in `-bin`. */
export type HeaderValue = string | Uint8Array;

const NAME = /^[0-9a-z_.-]+$/;
const TEXT = /^[\x20-\x7e]*$/;

/**
 * Checks headers, and adds them to the metadata of a call.
 *
 * @throws TypeError if a name or value is invalid. The message contains no value, because a value can be a token.
 */
export function addHeaders(metadata: Metadata, headers: CallHeaders): void {
  for (const [name, values] of Object.entries(headers)) {
    if (!NAME.test(name)) {
      throw new TypeError("the names in metadata must consist of a-z, 0-9, '_', '-' and '.'");
    }
    const isBinary = name.endsWith("-bin");
    const list = (Array.isArray(values) ? values : [values]) as readonly unknown[];
    for (const value of list) {
      if (isBinary ? !(value instanceof Uint8Array) : typeof value !== "string" || !TEXT.test(value)) {
        const kind = isBinary ? "a Uint8Array" : "printable ASCII, without line breaks";
        throw new TypeError(`the value of '${name}' in metadata must be ${kind}`);
      }
      metadata.add(name, typeof value === "string" ? value : Buffer.from(value as Uint8Array));
    }
  }
}
