/** `withOptions` and `iter`, against a server that records the headers. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { ManagerClosedError, StoreUnavailableError, type User, UserManager, UserNotFoundError } from "userservice";

import {
  BatchGetUsersRequestSchema,
  BatchGetUsersResponseSchema,
  GetUserRequestSchema,
  GetUserResponseSchema,
  ListUsersChunkedRequestSchema,
  ListUsersChunkedResponseSchema,
  ListUsersRequestSchema,
  ListUsersResponseSchema,
} from "../dist/gen/userservice/v1/user_service_pb.js";
import { Service, until } from "./harness/service.js";
import { type Received, StandIn } from "./harness/stand_in.js";

const AWAY = { code: "UNAVAILABLE", reason: "STORE_UNAVAILABLE" } as const;

function userOf(id: number): { userId: string; id: bigint } {
  return { userId: `u${id}`, id: BigInt(id) };
}

/** A server with one user; its chunks and pages have one user each. It fails as many calls as a test sets. */
class Users implements AsyncDisposable {
  failures = 0;
  private constructor(readonly server: StandIn) {}

  static async start(ids: readonly number[] = []): Promise<Users> {
    const answers: Readonly<Record<string, (call: Received) => void>> = {
      GetUser: (call) => {
        if (!users.#fails(call)) {
          call.send(
            toBinary(GetUserResponseSchema, create(GetUserResponseSchema, { user: { userId: "ada", id: 1n } })),
          );
          call.end();
        }
      },
      ListUsersChunked: (call) => {
        const { cursor } = fromBinary(ListUsersChunkedRequestSchema, call.request);
        for (const id of ids.filter((each) => each > cursor)) {
          const nextCursor = id === ids.at(-1) ? 0n : BigInt(id);
          const chunk = create(ListUsersChunkedResponseSchema, { users: [userOf(id)], nextCursor });
          call.send(toBinary(ListUsersChunkedResponseSchema, chunk));
          if (users.#fails(call)) {
            return;
          }
        }
        call.end();
      },
      ListUsers: (call) => {
        const { cursor } = fromBinary(ListUsersRequestSchema, call.request);
        const left = ids.filter((id) => cursor === 0n || id < cursor).reverse();
        if (!users.#fails(call)) {
          const nextCursor = BigInt(left.length > 1 ? (left[0] ?? 0) : 0);
          const page = create(ListUsersResponseSchema, { users: [userOf(left[0] ?? 0)], nextCursor });
          call.send(toBinary(ListUsersResponseSchema, page));
          call.end();
        }
      },
    };
    const users = new Users(await StandIn.start((call) => answers[call.method]?.(call)));
    return users;
  }

  #fails(call: Received): boolean {
    if (this.failures === 0) {
      return false;
    }
    this.failures -= 1;
    call.fail(AWAY);
    return true;
  }

  /** Returns the values of some headers of each call. */
  headers(...names: string[]): (string | undefined)[][] {
    return this.server.received.map(({ metadata }) => names.map((name) => metadata.get(name).join(",") || undefined));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server[Symbol.asyncDispose]();
  }
}

async function collect(users: AsyncIterable<User>): Promise<number[]> {
  const ids: number[] = [];
  for await (const { id } of users) {
    ids.push(id);
  }
  return ids;
}

describe("withOptions", () => {
  it("applies to the calls of the new manager only", async () => {
    await using users = await Users.start();
    await using manager = new UserManager(users.server.address, {
      token: "one",
      metadata: { tenant: ["a", "b"], zone: "z", "data-bin": new Uint8Array([255, 0]) },
    });
    const other = manager.withOptions({ token: "two", metadata: { tenant: "c", "x-request-id": "call-7" } });
    const third = other.withOptions({ token: () => "three", metadata: { zone: "y" } });
    assert.ok(other instanceof UserManager);
    for (const each of [manager, other, third, manager]) {
      await each.get("ada");
    }
    assert.deepEqual(users.headers("authorization", "tenant", "zone", "x-request-id"), [
      ["Bearer one", "a, b", "z", undefined],
      ["Bearer two", "c", "z", "call-7"],
      ["Bearer three", "c", "y", "call-7"],
      ["Bearer one", "a, b", "z", undefined],
    ]);
    assert.deepEqual(users.server.received[0]?.metadata.get("data-bin"), [Buffer.from([255, 0])]);
  });

  it("shares the connections, which only the first manager closes", async () => {
    await using users = await Users.start();
    await using manager = new UserManager(users.server.address);
    const other = manager.withOptions({ timeoutMs: 5000 });
    await other.get("ada");
    await other.close();
    await other.get("ada");
    await manager.get("ada");
    await manager.close();
    await assert.rejects(other.get("ada"), ManagerClosedError);
  });

  it("limits the retries of a call, and of each chunk", async () => {
    await using users = await Users.start([1, 2, 3]);
    await using manager = new UserManager(users.server.address, { retries: 2 });
    const { received } = users.server;
    for (const [retries, failures] of [
      [undefined, 2],
      [5, 5],
      [0, 0],
    ] as const) {
      received.length = 0;
      users.failures = failures;
      await manager.withOptions({ retries }).get("ada");
      assert.equal(received.length, failures + 1);
    }
    for (const retries of [0, 1, 2]) {
      received.length = 0;
      users.failures = 9;
      await assert.rejects(manager.withOptions({ retries }).get("ada"), StoreUnavailableError);
      assert.equal(received.length, retries + 1);
    }
    users.failures = 2;
    assert.deepEqual(await collect(manager.withOptions({ retries: 1 }).iter()), [1, 2, 3]);
    users.failures = 1;
    await assert.rejects(collect(manager.withOptions({ retries: 0 }).iter()), StoreUnavailableError);
  });

  it("rejects invalid options", () => {
    const manager = new UserManager("users.example:1");
    for (const retries of [-1, 0.5, "1" as never]) {
      assert.throws(() => manager.withOptions({ retries }), { name: "RangeError", message: /retries must be a whole/ });
    }
    for (const [metadata, message] of [
      [{ "Bad Key": "x" }, /the names in metadata must consist/],
      [{ tenant: "a\nb" }, /the value of 'tenant' in metadata must be printable ASCII/],
      [{ "tenant-bin": "a" }, /the value of 'tenant-bin' in metadata must be a Uint8Array/],
      [{ authorization: "Bearer x" }, /a token is not sent without TLS/],
    ] as const) {
      assert.throws(() => manager.withOptions({ metadata }), { name: "TypeError", message });
    }
    assert.throws(() => manager.withOptions({ token: "secret" }), /a token is not sent without TLS/);
    const local = new UserManager("localhost:1", { token: "secret" });
    assert.throws(() => local.withOptions({ metadata: { authorization: "Bearer x" } }), /exclude each other/);
  });

  it("shares gets only with the same token and metadata", async () => {
    const asked: { names: string[]; caller: string }[] = [];
    await using server = await StandIn.start((call) => {
      const isBatch = call.method === "BatchGetUsers";
      const names = isBatch
        ? fromBinary(BatchGetUsersRequestSchema, call.request).userIds
        : [fromBinary(GetUserRequestSchema, call.request).userId];
      asked.push({
        names,
        caller: [...call.metadata.get("authorization"), ...call.metadata.get("tenant")].join(" "),
      });
      const found = names.map((userId) => ({ userId, id: 1n }));
      call.send(
        isBatch
          ? toBinary(BatchGetUsersResponseSchema, create(BatchGetUsersResponseSchema, { users: found }))
          : toBinary(GetUserResponseSchema, create(GetUserResponseSchema, found[0] ? { user: found[0] } : {})),
      );
      call.end();
    });
    await using manager = new UserManager(server.address, { shareReads: true, token: "one" });
    const two = { token: "two", metadata: { tenant: "a" } };
    await Promise.all([
      manager.get("a"),
      manager.withOptions({ timeoutMs: 60_000, retries: 1 }).get("b"),
      manager.withOptions({ token: "two" }).get("c"),
      manager.withOptions(two).get("d"),
      manager.withOptions(two).withOptions({ timeoutMs: 9000 }).get("e"),
    ]);
    assert.deepEqual(asked, [
      { names: ["a", "b"], caller: "Bearer one" },
      { names: ["c"], caller: "Bearer two" },
      { names: ["d", "e"], caller: "Bearer two a" },
    ]);
  });
});

describe("iter", () => {
  for (const orderBy of [undefined, "id", "id desc"] as const) {
    it(`yields users across chunks and failures with all options, ordered by ${orderBy ?? "default"}`, async () => {
      await using users = await Users.start([3, 5, 8, 9]);
      await using root = new UserManager(users.server.address);
      const manager = root.withOptions({ token: "token", metadata: { tenant: "a" } });
      users.failures = 2;
      const isDescending = orderBy === "id desc";
      const options = { chunkSize: 7, orderBy, view: "BASIC", timeoutMs: 30_000 } as const;
      assert.deepEqual(
        await collect(manager.iter(isDescending ? 9 : 3, options)),
        isDescending ? [8, 5, 3] : [5, 8, 9],
      );
      assert.ok(users.server.received.length >= 3);
      for (const { request } of users.server.received) {
        const { limit, view } = isDescending
          ? fromBinary(ListUsersRequestSchema, request)
          : { ...fromBinary(ListUsersChunkedRequestSchema, request), limit: 7 };
        assert.deepEqual([limit, view], [7, 2]);
      }
      assert.deepEqual(new Set(users.headers("authorization", "tenant").map(String)), new Set(["Bearer token,a"]));
    });
  }

  it("cancels the call when the loop is left", async () => {
    await using server = await StandIn.start(({ send }) => {
      const chunk = create(ListUsersChunkedResponseSchema, { users: [userOf(1), userOf(2)], nextCursor: 2n });
      send(toBinary(ListUsersChunkedResponseSchema, chunk));
    });
    await using manager = new UserManager(server.address);
    for await (const { id } of manager.iter()) {
      assert.equal(id, 1);
      break;
    }
    await until(() => server.received[0]?.isCancelled() === true, "the cancellation");
  });
});

describe("the call id of a caller", () => {
  it("is that of the service", async () => {
    await using service = await Service.start();
    await using manager = new UserManager(service.address);
    await assert.rejects(manager.withOptions({ metadata: { "x-request-id": "checkout-7" } }).get("nobody"), (error) => {
      assert.ok(error instanceof UserNotFoundError);
      assert.equal(error.requestId, "checkout-7");
      return true;
    });
  });
});
