/** Several servers, proxies, and several connections of one manager. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type Http2Server, type ServerHttp2Session } from "node:http2";
import type { AddressInfo } from "node:net";
import { after, afterEach, before, beforeEach, describe, it } from "node:test";
import { inspect } from "node:util";

import { create, toBinary } from "@bufbuild/protobuf";
import {
  DeadlineExceededError,
  UnavailableError,
  UserManager,
  UserNotFoundError,
  type UserServiceError,
} from "userservice";

import { GetUserResponseSchema, ListUsersChunkedResponseSchema } from "../dist/gen/userservice/v1/user_service_pb.js";
import { ConnectProxy } from "./harness/connect_proxy.js";
import { Proxy } from "./harness/proxy.js";
import { Service } from "./harness/service.js";
import { StandIn } from "./harness/stand_in.js";

const USER = toBinary(GetUserResponseSchema, create(GetUserResponseSchema, { user: { userId: "ada", id: 1n } }));

function startStandIn(): Promise<StandIn> {
  return StandIn.start(({ send, end }) => {
    send(USER);
    end();
  });
}

function portOf(server: StandIn): string {
  return server.address.split(":")[1] ?? "";
}

/** Makes calls until every server has received one; fails otherwise. */
async function assertReachesAll(address: string, servers: readonly StandIn[]): Promise<void> {
  await using manager = new UserManager(address);
  for (let call = 0; call < 200 && servers.some(({ received }) => received.length === 0); call++) {
    await manager.get("ada");
  }
  assert.ok(
    servers.every(({ received }) => received.length > 0),
    `${address}: ${servers.map(({ received }) => received.length).join(", ")} calls`,
  );
}

describe("several addresses", () => {
  for (const form of ["A,B", "ipv4:A,B", "http://A,http://B", "dns:///A,dns:///B", "localhost:a, B"]) {
    it(`are called in turn, as ${form}`, async () => {
      await using left = await startStandIn();
      await using right = await startStandIn();
      const address = form
        .replace("A", left.address)
        .replace("B", right.address)
        .replace(":a", `:${portOf(left)}`);
      await assertReachesAll(address, [left, right]);
    });
  }

  for (const form of ["A,B", "ipv4:A,B"]) {
    it(`lose no call if one is unavailable, as ${form}`, async () => {
      await using left = await startStandIn();
      await using right = await startStandIn();
      await using manager = new UserManager(form.replace("A", left.address).replace("B", right.address));
      await manager.get("ada");
      await left[Symbol.asyncDispose]();
      for (let call = 0; call < 20; call++) {
        await manager.get("ada");
      }
      assert.ok(right.received.length >= 19);
    });
  }

  it("can be a list with one address", async () => {
    await using server = await startStandIn();
    for (const form of ["dns:///localhost:P", "dns:127.0.0.1:P", "ipv4:127.0.0.1:P"]) {
      await using manager = new UserManager(form.replace("P", portOf(server)));
      await manager.get("ada");
    }
  });

  it("are rejected if their forms differ", () => {
    for (const address of [
      "http://a:1,https://b:2",
      "a:1,http://b:2",
      "a:1,",
      "ipv4:a:1",
      "ipv4:[::1]:1",
      "ipv6:127.0.0.1:1",
      "dns:///a",
      "unix:/a,unix:/b".replace("unix:/a", "a:1"),
    ]) {
      assert.throws(() => new UserManager(address), { name: "TypeError" }, address);
    }
  });
});

const VARIABLES = ["grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"] as const;

describe("proxies of the environment", () => {
  let service: Service;
  const saved = new Map<string, string | undefined>();
  before(async () => {
    service = await Service.start();
  });
  after(() => service[Symbol.asyncDispose]());
  beforeEach(() => {
    for (const name of VARIABLES) {
      saved.set(name, process.env[name]);
      Reflect.deleteProperty(process.env, name);
    }
  });
  afterEach(() => {
    for (const [name, value] of saved) {
      Reflect.deleteProperty(process.env, name);
      if (value !== undefined) {
        process.env[name] = value;
      }
    }
  });

  /** A host name that only the proxy can resolve. */
  const FAR = "users.example:50051";

  for (const name of ["grpc_proxy", "https_proxy", "http_proxy"]) {
    it(`do not apply to this machine (${name})`, async () => {
      await using proxy = await ConnectProxy.start("refuses", service.address);
      process.env[name] = `http://127.0.0.1:${proxy.port}`;
      process.env["no_proxy"] = "10.0.0.0/8,192.168.0.0/16";
      const port = service.address.split(":")[1] ?? "";
      for (const address of [
        `127.0.0.1:${port}`,
        `127.1:${port}`,
        `http://localhost:${port}`,
        `dns:///localhost:${port}`,
        `ipv4:127.0.0.1:${port}`,
        `[::ffff:127.0.0.1]:${port}`,
        `localhost.:${port},127.0.0.1:${port}`,
      ]) {
        await using manager = new UserManager(address);
        await assert.rejects(manager.get("nobody"), UserNotFoundError, address);
      }
      assert.deepEqual(proxy.asked, []);
    });
  }

  it("apply to other hosts", async () => {
    await using proxy = await ConnectProxy.start("opens", service.address);
    process.env["https_proxy"] = `http://127.0.0.1:${proxy.port}`;
    await using manager = new UserManager(FAR);
    await assert.rejects(manager.get("nobody"), UserNotFoundError);
    assert.deepEqual(proxy.asked, [FAR]);
  });

  for (const [conduct, kind] of [
    ["refuses", UnavailableError],
    ["hangs", DeadlineExceededError],
  ] as const) {
    it(`that ${conduct} are named in the error, without their address and password`, async () => {
      await using proxy = await ConnectProxy.start(conduct, service.address);
      process.env["https_proxy"] = `http://someone:secret@127.0.0.1:${proxy.port}`;
      await using manager = new UserManager(FAR, { timeoutMs: 600 });
      for (const call of [() => manager.get("nobody"), () => manager.listChunked().next()]) {
        await assert.rejects(call, (error: UserServiceError) => {
          assert.ok(error instanceof kind, String(error));
          assert.match(error.message, /through the proxy of the environment variable https_proxy/);
          assert.doesNotMatch(inspect(error), /someone|secret|Last error/);
          assert.ok(!error.message.includes(String(proxy.port)));
          return true;
        });
      }
      assert.ok(proxy.asked.length > 0);
    });
  }

  it("that do not exist are also named in the error", async () => {
    process.env["http_proxy"] = "http://someone:secret@127.0.0.1:1";
    await using manager = new UserManager(FAR, { timeoutMs: 300 });
    await assert.rejects(manager.get("nobody"), { name: "UnavailableError", message: /proxy of .* http_proxy$/ });
  });

  it("are not named if none is used", async () => {
    process.env["https_proxy"] = "http://127.0.0.1:1";
    process.env["no_proxy"] = "192.0.2.0/24";
    for (const address of ["127.0.0.1:1", "192.0.2.7:50051"]) {
      await using manager = new UserManager(address, { timeoutMs: 300 });
      await assert.rejects(manager.get("nobody"), (error: Error) => !error.message.includes("proxy"));
    }
  });
});

describe("connections", () => {
  it("belong to one manager, in the requested number", async () => {
    await using server = await startStandIn();
    await using proxy = await Proxy.start(server.address);
    await using one = new UserManager(proxy.address);
    await using other = new UserManager(proxy.address);
    await one.get("ada");
    await other.get("ada");
    assert.equal(proxy.connections, 2);
    await using three = new UserManager(proxy.address, { connections: 3 });
    for (let call = 0; call < 6; call++) {
      await three.get("ada");
    }
    assert.equal(proxy.connections, 5);
  });

  it("carry a whole stream on one of them", async () => {
    const chunk = (id: bigint): Uint8Array =>
      toBinary(
        ListUsersChunkedResponseSchema,
        create(ListUsersChunkedResponseSchema, { users: [{ userId: `u${id}`, id }], nextCursor: id < 50n ? id : 0n }),
      );
    await using server = await StandIn.start(({ send, end }) => {
      for (let id = 1n; id <= 50n; id++) {
        send(chunk(id));
      }
      end();
    });
    await using proxy = await Proxy.start(server.address);
    await using manager = new UserManager(proxy.address, { connections: 4 });
    let count = 0;
    for await (const users of manager.listChunked(1)) {
      count += users.length;
    }
    assert.deepEqual([count, proxy.connections, server.received.length], [50, 1, 1]);
  });

  it("are rejected in invalid numbers", () => {
    for (const connections of [0, -1, 1.5, NaN, 101, "2" as never]) {
      assert.throws(() => new UserManager("127.0.0.1:1", { connections }), RangeError);
    }
  });

  it("that the server ends with GOAWAY, as at their maximum age, fail no call", async () => {
    await using server = await AgingServer.start();
    await using manager = new UserManager(server.address, { connections: 2 });
    const call = async (): Promise<void> => {
      for (let count = 0; count < 50; count++) {
        assert.equal((await manager.get("ada")).id, 1);
      }
    };
    await Promise.all(Array.from({ length: 8 }, call));
    assert.ok(server.sessions > 10, `${server.sessions} connections`);
  });
});

/** A gRPC server that ends each connection with GOAWAY after its tenth call, and rejects later calls. */
class AgingServer implements AsyncDisposable {
  sessions = 0;
  readonly #server: Http2Server = createServer();
  readonly #open = new Set<ServerHttp2Session>();

  static async start(): Promise<AgingServer> {
    const aging = new AgingServer();
    aging.#server.on("session", (session) => {
      aging.#accept(session);
    });
    aging.#server.listen(0, "127.0.0.1");
    await once(aging.#server, "listening");
    return aging;
  }

  get address(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  #accept(session: ServerHttp2Session): void {
    this.sessions += 1;
    this.#open.add(session);
    session.on("error", () => undefined);
    let calls = 0;
    let last = 0;
    session.on("stream", (stream) => {
      stream.on("error", () => undefined);
      calls += 1;
      if (calls > 10) {
        stream.close(7); // REFUSED_STREAM: the server did nothing
        return;
      }
      last = stream.id ?? last;
      stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
      stream.on("wantTrailers", () => {
        stream.sendTrailers({ "grpc-status": "0" });
      });
      const frame = Buffer.alloc(5);
      frame.writeUInt32BE(USER.length, 1);
      stream.end(Buffer.concat([frame, USER]));
      if (calls === 10) {
        session.goaway(0, last);
        setTimeout(() => {
          session.close();
        }, 20);
      }
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    for (const session of this.#open) {
      session.destroy();
    }
    this.#server.close();
    return Promise.resolve();
  }
}
