/** Tokens and TLS files, with the real service. */

import assert from "node:assert/strict";
import { chmod, mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { inspect } from "node:util";

import {
  CredentialsInvalidError,
  CredentialsMissingError,
  DeadlineExceededError,
  type ManagerOptions,
  RateLimitedError,
  ScopeMissingError,
  SessionManager,
  type TlsOptions,
  UserManager,
  UserServiceError,
} from "userservice";

import { Authority, WITHOUT_OPENSSL } from "./harness/authority.js";
import { runPython, Service, until } from "./harness/service.js";
import { StandIn } from "./harness/stand_in.js";

/** Writes a private file in one step. */
async function write(path: string, content: string): Promise<string> {
  await writeFile(`${path}.new`, content, { mode: 0o600 });
  await chmod(`${path}.new`, 0o600);
  await rename(`${path}.new`, path);
  return path;
}

/** Waits for a condition that needs calls; fails after 15 seconds. */
async function eventually(condition: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 15_000;
  while (!(await condition())) {
    assert.ok(performance.now() < deadline);
    await sleep(50);
  }
}

/** Returns a function that returns the tokens in turn, and then the last one; it counts its calls. */
function inTurn(...tokens: string[]): (() => Promise<string>) & { calls: number } {
  const ask = Object.assign(
    () => {
      ask.calls += 1;
      return Promise.resolve(tokens[Math.min(ask.calls, tokens.length) - 1] ?? "");
    },
    { calls: 0 },
  );
  return ask;
}

/** Sets the variables of `fromEnv`, and returns a function that removes them. */
function setAll(variables: Readonly<Record<string, string>>): () => void {
  for (const [name, value] of Object.entries(variables)) {
    process.env[`USERSERVICE_${name}`] = value;
  }
  return () => {
    for (const name of Object.keys(variables)) {
      // eslint-disable-next-line @typescript-eslint/no-dynamic-delete -- a variable is removed in no other way
      delete process.env[`USERSERVICE_${name}`];
    }
  };
}

describe("credentials", { skip: WITHOUT_OPENSSL }, () => {
  let folder: string;
  let authority: Authority;
  let service: Service;
  let key: string;
  let tls: TlsOptions;
  let keysFile: string;

  async function newKey(scopes: string, ...options: string[]): Promise<string> {
    const command = ["keys", "new", "--keys-file", keysFile, "--name", "test", "--scopes", scopes, ...options];
    return (await runPython("-m", "userservice", ...command)).trim();
  }

  async function loadedKey(scopes: string, ...options: string[]): Promise<string> {
    const made = await newKey(scopes, ...options);
    await eventually(() => isAccepted(made));
    return made;
  }

  async function isAccepted(token: string): Promise<boolean> {
    await using manager = new UserManager(service.address, { token, tls });
    return await manager.get("ada").then(
      () => true,
      (error: unknown) => error instanceof ScopeMissingError || error instanceof RateLimitedError,
    );
  }

  async function revoke(token: string): Promise<void> {
    await runPython("-m", "userservice", "keys", "revoke", "--keys-file", keysFile, token.split("_")[1] ?? "");
    await eventually(async () => !(await isAccepted(token)));
  }

  function connect(options: ManagerOptions): UserManager {
    return new UserManager(service.address, { tls, ...options });
  }

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "credentials-"));
    keysFile = join(folder, "keys.toml");
    authority = await Authority.make();
    const server = await authority.identity("server");
    const [cert, certKey] = [join(folder, "tls.crt"), join(folder, "tls.key")];
    await write(cert, server.cert);
    await write(certKey, server.key);
    tls = { ca: await authority.certificate() };
    key = await newKey("*");
    const options = ["--tls-cert", cert, "--tls-key", certKey, "--auth", "keys", "--keys-file", keysFile];
    service = await Service.start(...options);
    await using manager = connect({ token: key });
    const filler = "x".repeat(60_000);
    await Promise.all(
      Array.from({ length: 250 }, (_, number) => manager.add({ user_id: `u${number}`, metadata: { filler } })),
    );
    await manager.add({ user_id: "ada" });
  });
  after(async () => {
    await service[Symbol.asyncDispose]();
    await authority[Symbol.asyncDispose]();
    await rm(folder, { recursive: true });
  });

  it("of each kind are sent with calls and streams", async () => {
    for (const token of [key, () => key, () => Promise.resolve(key)]) {
      await using manager = connect({ token });
      assert.equal((await manager.get("ada")).user_id, "ada");
      let count = 0;
      for await (const users of manager.listChunked(100)) {
        count += users.length;
      }
      assert.equal(count, 251);
      await using sessions = new SessionManager(service.address, { tls, token });
      assert.deepEqual([...(await sessions.list("ada"))], []);
    }
  });

  it("that are rejected have an error class for each reason", async () => {
    await using none = connect({});
    await assert.rejects(none.get("ada"), CredentialsMissingError);
    await using unknown = connect({ token: "usk_unknown" });
    await assert.rejects(
      unknown.get("ada"),
      (error: unknown) => error instanceof CredentialsInvalidError && !inspect(error).includes("usk_unknown"),
    );
    await using reader = connect({ token: await loadedKey("users.read") });
    await assert.rejects(reader.list(), (error: unknown) => {
      return error instanceof ScopeMissingError && error.message.includes("users.list");
    });
    await using slow = connect({ token: await loadedKey("*", "--calls-per-second", "20") });
    for (let count = 0; count < 30; count += 1) {
      await slow.get("ada");
    }
    // loadedKey has used the only call of these 10 seconds, and the suggested retry is after the deadline.
    await using slowest = connect({ token: await loadedKey("*", "--calls-per-second", "0.1") });
    await assert.rejects(
      slowest.get("ada", { timeoutMs: 5000 }),
      (error: unknown) => error instanceof RateLimitedError && (error.retryDelayMs ?? 0) > 0,
    );
  });

  it("are renewed once", async () => {
    const token = inTurn(key, "usk_revoked", key);
    await using manager = connect({ token });
    await manager.get("ada");
    assert.equal(token.calls, 1);
    await manager.get("ada");
    assert.equal(token.calls, 3);
    const rejected = inTurn("usk_revoked");
    await using other = connect({ token: rejected });
    for (const calls of [2, 4]) {
      await assert.rejects(other.get("ada"), CredentialsInvalidError);
      assert.equal(rejected.calls, calls);
    }
  });

  it("are renewed when a stream ends because its key is revoked", async () => {
    const first = await loadedKey("*");
    const token = inTurn(first, key);
    await using manager = connect({ token });
    const names: string[] = [];
    for await (const users of manager.listChunked(1)) {
      if (names.length === 0) {
        await revoke(first);
        await until(
          () => service.log.some((line) => line["credential_fault"] === "revoked key" && line["method"] !== "GetUser"),
          "the end of the stream",
        );
      }
      names.push(...users.map(({ user_id }) => user_id));
    }
    assert.equal(new Set(names).size, 251);
    assert.equal(names.length, 251);
    assert.equal(token.calls, 2);
  });

  it("that a proxy rejects are renewed, except strings", async () => {
    await using server = await StandIn.start((call) => {
      call.fail({ code: "UNAUTHENTICATED", message: "Jwt is expired" });
    });
    await using functional = new UserManager(server.address, { token: inTurn("a", "b") });
    const isUnnamed = (error: unknown): boolean =>
      error instanceof UserServiceError && error.code === "UNAUTHENTICATED" && error.reason === "";
    await assert.rejects(functional.get("ada"), isUnnamed);
    const tokens = server.received.map(({ metadata }) => metadata.get("authorization")[0]);
    assert.deepEqual(tokens, ["Bearer a", "Bearer b"]);
    await using constant = new UserManager(server.address, { token: "c" });
    await assert.rejects(constant.get("ada"), isUnnamed);
    assert.equal(server.received.length, 3);
  });

  it("from a function have the deadline and the signal of the call", async () => {
    await using manager = connect({ token: () => new Promise<string>(() => undefined) });
    await assert.rejects(manager.get("ada", { timeoutMs: 50 }), DeadlineExceededError);
    await assert.rejects(manager.get("ada", { signal: AbortSignal.timeout(50) }), { name: "TimeoutError" });
    await assert.rejects(manager.listChunked(1, 0, { timeoutMs: 50 }).next(), DeadlineExceededError);
    const failing = connect({ token: () => Promise.reject(new RangeError("no token")) });
    await assert.rejects(failing.get("ada"), RangeError);
    await failing.close();
    await using wrong = connect({ token: () => "sec\nret" });
    await assert.rejects(
      wrong.get("ada"),
      (error: unknown) => error instanceof TypeError && !error.message.includes("sec"),
    );
  });

  it("are not shown", () => {
    const manager = connect({ token: "secret" });
    assert.ok(!inspect(manager, { depth: 10, showHidden: true }).includes("secret"));
    assert.ok(!JSON.stringify(manager).includes("secret"));
    void manager.close();
  });

  it("are not sent in plain text to other machines", () => {
    for (const address of [
      "users.example:1",
      "http://10.0.0.1:1",
      "0.0.0.0:1",
      "[::]:1",
      "127.1:1",
      "127.0.0.1.nip.io:1",
      "a.localhost:1",
      "localhost.:1",
      "dns://10.0.0.1/localhost:1",
      "dns:///users.example:1",
      "ipv4:127.0.0.1:1,10.0.0.1:1",
      "ipv6:[2001:db8::1]:1",
      "[::ffff:10.0.0.1]:1",
      "localhost:1,users.example:1",
    ]) {
      for (const token of ["secret", () => "secret"]) {
        assert.throws(
          () => new UserManager(address, { token }),
          ({ message }: Error) => message.startsWith("a token is not sent without TLS") && !message.includes("secret"),
          address,
        );
        void new UserManager(address, { token, allowInsecureToken: true }).close();
      }
    }
    for (const address of [
      "localhost:1",
      "http://LOCALHOST:1",
      "127.255.0.9:1",
      "[::1]:1",
      "[::ffff:127.0.0.1]:1",
      "ipv4:127.0.0.1:1,127.0.0.2:1",
      "dns:///localhost:1",
      "unix:/tmp/socket",
      "https://users.example:1",
    ]) {
      void new UserManager(address, { token: "secret" }).close();
    }
    void new UserManager("users.example:1", { token: "secret", tls }).close();
  });

  it("come from environment variables with fromEnv only", async () => {
    const token = await write(join(folder, "token"), `${await loadedKey("*")}\n`);
    const ca = await write(join(folder, "ca.pem"), tls.ca as string);
    const remove = setAll({ ADDRESS: service.address, TOKEN_FILE: token, CA: ca, CERT: "" });
    try {
      await using manager: UserManager = UserManager.fromEnv({ timeoutMs: 9000 });
      await manager.get("ada");
      await write(token, "usk_revoked");
      await assert.rejects(manager.get("ada"), CredentialsInvalidError);
      await write(token, key);
      await manager.get("ada");
      await using sessions: SessionManager = SessionManager.fromEnv();
      assert.deepEqual([...(await sessions.list("ada"))], []);
      await rm(token);
      await manager.get("ada"); // with the last token
      assert.throws(() => UserManager.fromEnv(), /cannot read the token file .*: ENOENT/);
    } finally {
      remove();
    }
    for (const [variables, message] of [
      [{ TOKEN_FILE: "usk_secret" }, /^TypeError: cannot read the token file: ENOENT$/],
      [{ CERT: ca, KEY: "secret".repeat(30) }, /^TypeError: cannot read tls.key: its content .*: ENOENT$/],
      [{ TOKEN: "secret", TOKEN_FILE: token }, /TOKEN and USERSERVICE_TOKEN_FILE exclude each other/],
      [{ TOKEN: "sec ret" }, /USERSERVICE_TOKEN is empty or contains/],
      [{ TOKEN: "secret", ADDRESS: "users.example:1" }, /without TLS/],
      [{ CERT: ca }, /given together/],
    ] as const) {
      const removeAll = setAll(variables);
      assert.throws(() => UserManager.fromEnv(), message);
      removeAll();
    }
    const removeToken = setAll({ TOKEN: "secret" });
    await using other = connect({});
    await assert.rejects(other.get("ada"), CredentialsMissingError);
    removeToken();
  });
});

describe("TLS files", { skip: WITHOUT_OPENSSL }, () => {
  it("that change are used by new connections", async () => {
    const folder = await mkdtemp(join(tmpdir(), "tls-"));
    await using old = await Authority.make();
    await using young = await Authority.make();
    const path = (name: string): string => join(folder, name);
    const install = async (authority: Authority, prefix: string): Promise<void> => {
      const identity = await authority.identity(prefix);
      await write(path(`${prefix}.crt`), identity.cert);
      await write(path(`${prefix}.key`), identity.key);
      await write(path(`${prefix}.ca`), await authority.certificate());
    };
    await install(old, "server");
    await install(old, "client");
    const files = ["--tls-cert", path("server.crt"), "--tls-key", path("server.key")];
    const asking = ["--tls-client-ca", path("server.ca"), "--tls-client-auth", "require"];
    await using service = await Service.start(...files, ...asking);
    const tls = { ca: path("client.ca"), cert: path("client.crt"), key: path("client.key") };
    await using manager = new UserManager(service.address, { tls });
    await manager.add({ user_id: "ada" });
    await install(young, "server");
    await install(young, "other");
    const other = { ca: path("other.ca"), cert: path("other.crt"), key: path("other.key") };
    await eventually(async () => {
      await using fresh = new UserManager(service.address, { tls: other, timeoutMs: 2000 });
      return await fresh.get("ada").then(
        () => true,
        () => false,
      );
    });
    await manager.get("ada"); // on the connection of before
    await write(path("client.crt"), (await young.identity("client")).cert);
    await sleep(1100); // the files are checked every second
    await manager.get("ada"); // the certificate does not fit to the key, so the last files remain in use
    await install(young, "client");
    await sleep(1100);
    await manager.get("ada", { timeoutMs: 20_000 });
    await service.end("SIGTERM");
    await service.restart();
    await manager.get("ada", { timeoutMs: 20_000 }); // on a new connection, which the last files would not allow
    await using stale = new UserManager(service.address, { tls: { ...tls, ca: await old.certificate() } });
    await assert.rejects(stale.get("ada", { timeoutMs: 500 }), UserServiceError);
    await rm(folder, { recursive: true });
  });

  it("that cannot work are rejected", async () => {
    await using authority = await Authority.make();
    const [one, other] = [await authority.identity("one"), await authority.identity("other")];
    for (const [tls, message] of [
      [{ cert: one.cert }, /tls\.cert needs tls\.key/],
      [{ key: one.key }, /tls\.key needs tls\.cert/],
      [{ ca: "/absent" }, /cannot read tls\.ca \/absent: ENOENT/],
      [{ ca: "/dev/null" }, /contains no certificate/],
      [{ ca: one.key }, /tls\.ca contains no certificate/],
      [{ cert: one.cert, key: other.key }, /cannot use tls\.ca, tls\.cert and tls\.key: ERR_/],
    ] as const) {
      assert.throws(
        () => new UserManager("https://localhost:1", { tls }),
        (error: Error) => error instanceof TypeError && message.test(error.message) && !error.message.includes("PRIV"),
      );
    }
  });
});
