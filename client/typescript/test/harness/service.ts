/** The real service as a child process, started with the public command. */

import assert from "node:assert/strict";
import { type ChildProcessByStdio, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";

/** The folder of the whole project. Tests run compiled, from client/typescript/.build. */
export const ROOT = resolve(import.meta.dirname, "../../../..");

/** The folder of this package. */
export const PACKAGE = join(ROOT, "client/typescript");

/** The Python interpreter in whose environment the service is installed. */
export const PYTHON = process.env["USERSERVICE_PYTHON"] ?? join(ROOT, ".venv/bin/python");

/** Runs a Python program to its end and returns what it printed. */
export async function runPython(...args: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(PYTHON, args, { maxBuffer: 2 ** 27 });
  return stdout;
}

/** Waits until the condition holds; fails after 10 seconds. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!condition()) {
    assert.ok(performance.now() < deadline, `waited 10 s in vain: ${what}`);
    await sleep(5);
  }
}

/** One line of the service's log: a call or another event. */
export type LogRecord = Readonly<Record<string, unknown>>;

/** `python -m userservice serve`, with its own store. */
export class Service implements AsyncDisposable {
  /** The log so far. */
  readonly log: LogRecord[] = [];
  /** The address of the service, as host:port. */
  address = "127.0.0.1:0";
  #process: ChildProcessByStdio<null, Readable, Readable> | undefined;

  private constructor(
    readonly dataDir: string,
    private readonly options: readonly string[],
  ) {}

  /** Starts a service on a free port, on an empty store. */
  static async start(...options: string[]): Promise<Service> {
    assert.ok(existsSync(PYTHON), `there is no ${PYTHON}; name a Python with the service in USERSERVICE_PYTHON`);
    const service = new Service(await mkdtemp(join(tmpdir(), "userservice-")), options);
    await service.restart();
    return service;
  }

  /** The store of the service, as a Redis URL. */
  get storeUrl(): string {
    return `unix://${this.dataDir}/store.sock`;
  }

  /** Starts the service again, at the same address and with the same data. */
  async restart(): Promise<void> {
    const args = ["-m", "userservice", "serve", "--listen", this.address, "--data-dir", this.dataDir, ...this.options];
    const child = spawn(PYTHON, args, { stdio: ["ignore", "pipe", "pipe"] });
    this.#process = child;
    createInterface(child.stderr).on("line", (line) => this.log.push(JSON.parse(line) as LogRecord));
    for await (const line of createInterface(child.stdout)) {
      const address = /^userservice listening on (\S+)$/.exec(line)?.[1];
      assert.ok(address, line);
      this.address = address;
      return;
    }
    assert.fail(`the service did not start: ${JSON.stringify(this.log)}`);
  }

  /** Ends the service with a signal. Its store then ends too. */
  async end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#process;
    if (child?.exitCode === null && child.signalCode === null) {
      child.kill(signal);
      await once(child, "exit");
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end("SIGTERM");
    await rm(this.dataDir, { recursive: true });
  }

  /** Writes users named user-0, user-1, … directly into the store, which is faster than RPCs. */
  async seed(count: number): Promise<void> {
    await runPython(join(PACKAGE, "test/harness/seed.py"), this.storeUrl, String(count));
  }
}
