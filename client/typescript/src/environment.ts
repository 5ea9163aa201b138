/** The settings of a manager in environment variables, for `fromEnv`. */

import { readFileSync } from "node:fs";

import type { ManagerOptions } from "./connection.js";
import { bearer } from "./token.js";

/** The options of `fromEnv`: all options of a manager except `tls` and `token`, which environment variables set. */
export type EnvironmentOptions<Options extends ManagerOptions = ManagerOptions> = Omit<Options, "tls" | "token">;

const DEFAULT_ADDRESS = "localhost:50051";
/** The beginning of a key or a JWT, which a mistaken setting may contain instead of the path of a file. */
const LIKE_TOKEN = /^(usk_|eyJ)/;

/**
 * Returns the address and options that are set by environment variables. An empty variable is treated as absent.
 *
 * @throws TypeError if both USERSERVICE_TOKEN and USERSERVICE_TOKEN_FILE are set, or the token is invalid.
 */
export function settingsFromEnvironment(): { address: string; options: ManagerOptions } {
  const setting = (name: string): string | undefined => {
    const value = process.env[`USERSERVICE_${name}`];
    return value === "" ? undefined : value;
  };
  const [ca, cert, key] = [setting("CA"), setting("CERT"), setting("KEY")];
  const [token, file] = [setting("TOKEN"), setting("TOKEN_FILE")];
  if (token !== undefined && file !== undefined) {
    throw new TypeError("USERSERVICE_TOKEN and USERSERVICE_TOKEN_FILE exclude each other");
  }
  if (token !== undefined) {
    bearer(token, "USERSERVICE_TOKEN");
  }
  return {
    address: setting("ADDRESS") ?? DEFAULT_ADDRESS,
    options: {
      token: file === undefined ? token : tokenFile(file),
      tls: ca === undefined && cert === undefined && key === undefined ? undefined : { ca, cert, key },
    },
  };
}

/**
 * Returns a function that returns the token in a file. The function reads the file each time, so that it returns a
 * changed token. It returns the last token while the file is absent or invalid because it is being replaced.
 *
 * @throws TypeError if the file cannot be read, or contains no token.
 */
function tokenFile(path: string): () => string {
  let last = readToken(path);
  return () => {
    try {
      last = readToken(path);
    } catch {
      // The file may be absent or invalid while it is being replaced.
    }
    return last;
  };
}

function readToken(path: string): string {
  let text: string;
  try {
    text = readFileSync(path, "utf8").trim();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "unknown error";
    if (LIKE_TOKEN.test(path)) {
      // eslint-disable-next-line preserve-caught-error -- the text of the error contains the path
      throw new TypeError(`cannot read the token file: ${code}`);
    }
    throw new TypeError(`cannot read the token file ${path}: ${code}`, { cause: error });
  }
  bearer(text, `the token in ${path}`);
  return text;
}
