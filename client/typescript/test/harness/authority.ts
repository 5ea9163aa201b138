/** Certificates for tests, made with openssl. */

import { execFile, spawnSync } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

/** Why the tests that need certificates are skipped, if they are; in CI they fail instead. */
export const WITHOUT_OPENSSL =
  spawnSync("openssl", ["version"]).error !== undefined && !process.env["CI"] ? "openssl is not installed" : false;

/** A key and a certificate, in PEM form. */
export interface Identity {
  readonly key: string;
  readonly cert: string;
}

/** Creates a certificate authority, and certificates that it signs, valid for one day. */
export class Authority implements AsyncDisposable {
  private constructor(private readonly folder: string) {}

  static async make(): Promise<Authority> {
    const authority = new Authority(await mkdtemp(join(tmpdir(), "authority-")));
    await authority.#openssl(
      "req",
      "-x509",
      "-days",
      "1",
      "-subj",
      "/CN=authority",
      ...NEW_KEY("ca"),
      "-out",
      "ca.pem",
    );
    return authority;
  }

  async #openssl(...args: string[]): Promise<void> {
    await run("openssl", args, { cwd: this.folder });
  }

  async identity(name: string): Promise<Identity> {
    await writeFile(join(this.folder, `${name}.ext`), "subjectAltName=DNS:localhost,IP:127.0.0.1\n");
    await this.#openssl("req", "-subj", `/CN=${name}`, ...NEW_KEY(name), "-out", `${name}.csr`);
    const signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", `${name}.ext`];
    await this.#openssl("x509", "-req", "-in", `${name}.csr`, ...signing, "-out", `${name}.pem`);
    return { key: await this.#read(`${name}.key`), cert: await this.#read(`${name}.pem`) };
  }

  certificate(): Promise<string> {
    return this.#read("ca.pem");
  }

  #read(file: string): Promise<string> {
    return readFile(join(this.folder, file), "utf8");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.folder, { recursive: true });
  }
}

function NEW_KEY(name: string): string[] {
  return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", `${name}.key`];
}
