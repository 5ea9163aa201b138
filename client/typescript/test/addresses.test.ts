/** The forms of an address, and TLS with the real service behind a proxy that unwraps it. */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { type ManagerOptions, UnavailableError, UserManager, UserNotFoundError } from "userservice";

import { Authority, WITHOUT_OPENSSL } from "./harness/authority.js";
import { Proxy } from "./harness/proxy.js";
import { Service } from "./harness/service.js";

describe("addresses", () => {
  let service: Service;
  before(async () => {
    service = await Service.start();
  });
  after(() => service[Symbol.asyncDispose]());

  async function assertReaches(address: string, options?: ManagerOptions): Promise<void> {
    await using manager = new UserManager(address, options);
    await assert.rejects(manager.get("nobody"), UserNotFoundError);
  }

  async function assertDoesNotReach(address: string, options?: ManagerOptions): Promise<void> {
    await using manager = new UserManager(address, { timeoutMs: 500, ...options });
    await assert.rejects(manager.get("nobody"), UnavailableError);
  }

  it("can be host:port or http://host:port", async () => {
    const port = service.address.split(":")[1] ?? "";
    for (const host of ["127.0.0.1", "localhost"]) {
      await assertReaches(`${host}:${port}`);
      await assertReaches(`http://${host}:${port}`);
      await assertReaches(`http://${host}:${port}/`);
    }
  });

  it("of other forms are rejected", () => {
    for (const address of [
      "",
      "localhost",
      "localhost:0",
      "localhost:65536",
      "ftp://a:1",
      "http://a:1/path",
      "http://u:p@a:1",
      "unix:",
      "a b:1",
      ":1",
      "::1:1",
    ]) {
      assert.throws(
        () => new UserManager(address),
        { name: "TypeError", message: /expected host:port, http:/ },
        address,
      );
    }
    for (const address of ["[::1]:1", "unix:/tmp/socket", "https://a.example:443"]) {
      void new UserManager(address).close();
    }
  });

  it("that are invalid are shown without a password", () => {
    for (const address of ["http://ada:secret@h:1", "ada:secret@h:1", "http://ada:se/cret@h:1", "a:1,b:secret@h:1"]) {
      assert.throws(
        () => new UserManager(address),
        ({ message }: Error) => message.includes("***@h:1") && !message.includes("cret"),
      );
    }
  });

  it("and options that contradict each other are rejected", () => {
    const tls = { ca: "x" };
    assert.throws(() => new UserManager("http://a:1", { tls }), {
      name: "TypeError",
      message: /http:\/\/ in "http:\/\/a:1"/,
    });
    assert.throws(() => new UserManager("https://a:1", { tls: { cert: "x" } }), { message: /given together/ });
  });

  it("with TLS connect only to a service with a trusted certificate", { skip: WITHOUT_OPENSSL }, async () => {
    await using authority = await Authority.make();
    const ca = await authority.certificate();
    const server = await authority.identity("server");
    await using proxy = await Proxy.start(service.address, { ...server, ALPNProtocols: ["h2"] });
    await assertReaches(`https://localhost:${proxy.port}`, { tls: { ca } });
    await assertReaches(`https://localhost:${proxy.port}`, { tls: { ca: Buffer.from(ca) } });
    await assertReaches(proxy.address, { tls: { ca } });
    await using stranger = await Authority.make();
    await assertDoesNotReach(`https://localhost:${proxy.port}`, { tls: { ca: await stranger.certificate() } });
    await assertDoesNotReach(`https://localhost:${proxy.port}`);
    await assertDoesNotReach(`http://localhost:${proxy.port}`);
  });

  it("with TLS send the client's certificate if the service requires one", { skip: WITHOUT_OPENSSL }, async () => {
    await using authority = await Authority.make();
    const ca = await authority.certificate();
    const [server, client] = [await authority.identity("server"), await authority.identity("client")];
    const asking = { ...server, ca, requestCert: true, rejectUnauthorized: true, ALPNProtocols: ["h2"] };
    await using proxy = await Proxy.start(service.address, asking);
    await assertReaches(`https://localhost:${proxy.port}`, { tls: { ca, ...client } });
    await assertDoesNotReach(`https://localhost:${proxy.port}`, { tls: { ca } });
  });
});
