/** `shareReads`: concurrent gets share calls, and each has its own result, error, timeout and signal. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { inspect } from "node:util";

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  DeadlineExceededError,
  InvalidArgumentError,
  ManagerClosedError,
  StoreUnavailableError,
  UserManager,
  UserNotFoundError,
  UserServiceError,
} from "userservice";

import {
  BatchGetUsersRequestSchema,
  BatchGetUsersResponseSchema,
  GetUserRequestSchema,
  GetUserResponseSchema,
} from "../dist/gen/userservice/v1/user_service_pb.js";
import { Service, until } from "./harness/service.js";
import { type Failure, type Received, StandIn } from "./harness/stand_in.js";

/** A call that was received, with its user_ids. */
interface Asked {
  readonly user_ids: readonly string[];
  readonly call: Received;
  /** Sends the users as they were when the call arrived. */
  readonly answer: () => void;
}

/** A server, and a manager with `shareReads`. All users exist. */
class Users implements AsyncDisposable {
  readonly asked: Asked[] = [];
  /** The etag of all users. */
  etag = "1";
  /** Whether a call must wait for the test. */
  holds: (user_ids: readonly string[]) => boolean = () => false;
  /** The errors of the next batches. */
  readonly failures: Failure[] = [];
  readonly manager: UserManager;

  private constructor(readonly server: StandIn) {
    this.manager = new UserManager(server.address, { shareReads: true, timeoutMs: 60_000 });
  }

  static async start(): Promise<Users> {
    const server = await StandIn.start((call) => {
      users.#receive(call);
    });
    const users = new Users(server);
    return users;
  }

  #receive(call: Received): void {
    const isBatch = call.method === "BatchGetUsers";
    const user_ids = isBatch
      ? fromBinary(BatchGetUsersRequestSchema, call.request).userIds
      : [fromBinary(GetUserRequestSchema, call.request).userId];
    const users = user_ids.map((userId) => ({ userId, id: 1n, etag: this.etag }));
    const response = isBatch
      ? toBinary(BatchGetUsersResponseSchema, create(BatchGetUsersResponseSchema, { users }))
      : toBinary(GetUserResponseSchema, create(GetUserResponseSchema, users[0] ? { user: users[0] } : {}));
    const answer = (): void => {
      call.send(response);
      call.end();
    };
    this.asked.push({ user_ids, call, answer });
    const failure = isBatch ? this.failures.pop() : undefined;
    if (failure) {
      call.fail(failure);
    } else if (!this.holds(user_ids)) {
      answer();
    }
  }

  get sizes(): number[] {
    return this.asked.map(({ user_ids }) => user_ids.length);
  }

  get methods(): string[] {
    return this.asked.map(({ call }) => call.method);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.manager.close();
    await this.server[Symbol.asyncDispose]();
  }
}

function names(count: number): string[] {
  return Array.from({ length: count }, (_, number) => `u${number}`);
}

async function errorOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => assert.fail("the call did not fail"),
    (thrown: unknown) => thrown,
  );
}

describe("shared reads", () => {
  it("send a get without others as GetUser", async () => {
    await using users = await Users.start();
    for (const name of names(3)) {
      assert.equal((await users.manager.get(name)).user_id, name);
    }
    assert.deepEqual(users.methods, ["GetUser", "GetUser", "GetUser"]);
  });

  it("send concurrent gets in batches of at most 100", async () => {
    await using users = await Users.start();
    const found = await Promise.all(names(250).map((name) => users.manager.get(name)));
    assert.deepEqual(
      found.map(({ user_id }) => user_id),
      names(250),
    );
    assert.deepEqual(users.sizes, [100, 100, 50]);
  });

  it("never join a call that was sent", async () => {
    await using users = await Users.start();
    users.holds = (user_ids) => users.asked.length === 1 && user_ids.includes("ada");
    const first = users.manager.get("ada");
    await until(() => users.asked.length === 1, "the first call");
    users.etag = "2";
    // An answer with the first etag would be older than the write before the get.
    const later = users.manager.get("ada");
    setTimeout(() => users.asked[0]?.answer(), 5);
    assert.deepEqual([(await first).etag, (await later).etag], ["1", "2"]);
  });

  it("ask for equal user_ids once, and return a user to each caller", async () => {
    await using users = await Users.start();
    const [one, other] = await Promise.all(["ada", "ada", "ada"].map((name) => users.manager.get(name)));
    assert.deepEqual(users.asked[0]?.user_ids, ["ada"]);
    assert.ok(one && other);
    one.metadata["changed"] = true;
    assert.deepEqual(other.metadata, {});
  });

  it("have a timeout of their own", async () => {
    await using users = await Users.start();
    users.holds = ({ length }) => length === 2;
    const short = users.manager.get("short", { timeoutMs: 100 });
    const long = users.manager.get("long");
    assert.ok((await errorOf(short)) instanceof DeadlineExceededError);
    users.asked[0]?.answer();
    assert.equal((await long).user_id, "long");
    assert.deepEqual(users.sizes, [2]);
  });

  it("have a signal of their own", async () => {
    await using users = await Users.start();
    users.holds = ({ length }) => length === 2;
    const [ada, bob] = [new AbortController(), new AbortController()];
    const calls = [
      users.manager.get("ada", { signal: ada.signal }),
      users.manager.get("bob", { signal: bob.signal }),
    ] as const;
    await until(() => users.asked.length === 1, "the call");
    ada.abort("no longer needed");
    assert.equal(await errorOf(calls[0]), "no longer needed");
    assert.equal(users.asked[0]?.call.isCancelled(), false);
    // A call without callers is cancelled.
    bob.abort("nor this");
    assert.equal(await errorOf(calls[1]), "nor this");
    await until(() => users.asked[0]?.call.isCancelled() ?? false, "the cancellation");
  });

  it("leave the call when one signal is aborted", async () => {
    await using users = await Users.start();
    users.holds = ({ length }) => length === 2;
    const ada = new AbortController();
    const calls = [users.manager.get("ada", { signal: ada.signal }), users.manager.get("bob")] as const;
    await until(() => users.asked.length === 1, "the call");
    ada.abort("no longer needed");
    assert.equal(await errorOf(calls[0]), "no longer needed");
    users.asked[0]?.answer();
    assert.equal((await calls[1]).user_id, "bob");
    // If the call had been cancelled, the other get would have made a call of its own.
    assert.deepEqual(users.sizes, [2]);
  });

  it("do not wait for a call that hangs", async () => {
    await using users = await Users.start();
    users.holds = (user_ids) => user_ids.includes("ada");
    const hanging = users.manager.get("ada");
    await until(() => users.asked.length === 1, "the first call");
    assert.equal((await users.manager.get("bob", { timeoutMs: 3000 })).user_id, "bob");
    users.asked[0]?.answer();
    await hanging;
  });

  it("are retried", async () => {
    await using users = await Users.start();
    const failure = { code: "UNAVAILABLE", reason: "STORE_UNAVAILABLE" } as const;
    users.failures.push(failure, failure);
    const found = await Promise.all(names(20).map((name) => users.manager.get(name)));
    assert.equal(found.length, 20);
  });

  it("throw the error of the last attempt", async () => {
    await using users = await Users.start();
    const retryDelay = { seconds: 120n, nanos: 0 };
    users.failures.push({ code: "UNAVAILABLE", reason: "STORE_UNAVAILABLE", retryDelay });
    const errors = await Promise.all(names(3).map((name) => errorOf(users.manager.get(name))));
    assert.ok(errors.every((error) => error instanceof StoreUnavailableError));
  });

  it("make calls of their own after another error", async () => {
    await using users = await Users.start();
    users.failures.push({ code: "PERMISSION_DENIED" });
    const found = await Promise.all(names(3).map((name) => users.manager.get(name)));
    assert.equal(found.length, 3);
    assert.deepEqual(users.sizes, [3, 1, 1, 1]);
  });

  it("end when the manager is closed", async () => {
    await using users = await Users.start();
    users.holds = () => true;
    const gets = ["ada", "bob"].map((name) => errorOf(users.manager.get(name)));
    await until(() => users.asked.length === 1, "the call");
    gets.push(errorOf(users.manager.get("eve")));
    await users.manager.close();
    for (const error of await Promise.all(gets)) {
      assert.ok(error instanceof ManagerClosedError, inspect(error));
    }
  });

  it("share no call with gets of another view", async () => {
    await using service = await Service.start();
    await service.seed(3);
    await using manager = new UserManager(service.address, { shareReads: true });
    const views = [undefined, "FULL", "BASIC", "ID"] as const;
    const gets = views.flatMap((view) => ["user-0", "user-1"].map((name) => manager.get(name, { view })));
    const full = (await manager.get("user-0")).metadata;
    assert.notDeepEqual(full, {});
    for (const [index, user] of (await Promise.all(gets)).entries()) {
      assert.equal(user.user_id, `user-${index % 2}`);
      assert.equal(Object.keys(user.metadata).length > 0, index < 4, inspect(user.toJSON()));
      assert.equal(user.etag === "", index >= 6, inspect(user.toJSON()));
    }
  });

  it("have the results and errors of single gets, and continue after a restart", async () => {
    await using service = await Service.start();
    await service.seed(50);
    await using manager = new UserManager(service.address, { shareReads: true, timeoutMs: 30_000 });
    await using single = new UserManager(service.address);
    const existing = Array.from({ length: 50 }, (_, number) => `user-${number}`);
    const others = ["none", " x", ""];
    const found = await Promise.allSettled([...existing, ...others].map((name) => manager.get(name)));
    for (const [index, name] of existing.entries()) {
      assert.equal((found[index] as PromiseFulfilledResult<{ user_id: string }>).value.user_id, name);
    }
    for (const [index, name] of others.entries()) {
      const got = (found[existing.length + index] as PromiseRejectedResult).reason as unknown;
      const wanted = await errorOf(single.get(name));
      assert.ok(got instanceof UserServiceError && wanted instanceof UserServiceError);
      assert.equal(got.constructor, name === "none" ? UserNotFoundError : InvalidArgumentError);
      assert.deepEqual([got.code, got.reason, got.message], [wanted.code, wanted.reason, wanted.message]);
      if (got instanceof InvalidArgumentError && wanted instanceof InvalidArgumentError) {
        assert.deepEqual(got.violations, wanted.violations);
      }
    }
    let isOver = false;
    const callers = existing.slice(0, 8).map(async (name) => {
      for (let last = false; !last;) {
        last = isOver;
        assert.equal((await manager.get(name)).user_id, name);
      }
    });
    await service.end("SIGKILL");
    await service.restart();
    isOver = true;
    await Promise.all(callers);
  });
});
