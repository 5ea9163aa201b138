/** Failed, delayed, retried and cancelled calls, with a server whose responses each test defines. */

import assert from "node:assert/strict";
import { getMaxListeners, setMaxListeners } from "node:events";
import { describe, it } from "node:test";
import { inspect } from "node:util";

import { create, toBinary } from "@bufbuild/protobuf";
import * as userservice from "userservice";
import {
  DeadlineExceededError,
  InternalError,
  InvalidArgumentError,
  ManagerClosedError,
  SessionManager,
  StoreUnavailableError,
  UnavailableError,
  UserManager,
  UserNotFoundError,
  UserServiceError,
} from "userservice";

import {
  AddUserRequestSchema,
  GetUserResponseSchema,
  ListUsersChunkedRequestSchema,
  ListUsersChunkedResponseSchema,
  UpdateUserRequestSchema,
} from "../dist/gen/userservice/v1/user_service_pb.js";
import { Proxy } from "./harness/proxy.js";
import { Service, until } from "./harness/service.js";
import { type Failure, type Received, StandIn } from "./harness/stand_in.js";

const USER = toBinary(GetUserResponseSchema, create(GetUserResponseSchema, { user: { userId: "ada", id: 1n } }));
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

function answering(...messages: Uint8Array[]): (call: Received) => void {
  return ({ send, end }) => {
    messages.forEach(send);
    end();
  };
}

const answerUser = answering(USER);

/** Fails one call for each of the failures, then returns a user. */
function failing(...failures: Failure[]): (call: Received, number: number) => void {
  return (call, number) => {
    const failure = failures[number - 1];
    if (failure) {
      call.fail(failure);
    } else {
      answerUser(call);
    }
  };
}

async function errorOf(promise: Promise<unknown>): Promise<UserServiceError> {
  const error = await promise.then(
    () => assert.fail("the call did not fail"),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof UserServiceError, inspect(error));
  return error;
}

describe("errors", () => {
  const rows: readonly (readonly [keyof typeof userservice, userservice.StatusCode, string])[] = [
    ["InvalidArgumentError", "INVALID_ARGUMENT", "INVALID_FIELD"],
    ["UserNotFoundError", "NOT_FOUND", "USER_NOT_FOUND"],
    ["SessionNotFoundError", "NOT_FOUND", "SESSION_NOT_FOUND"],
    ["UserAlreadyExistsError", "ALREADY_EXISTS", "USER_ALREADY_EXISTS"],
    ["SessionAlreadyExistsError", "ALREADY_EXISTS", "SESSION_ALREADY_EXISTS"],
    ["EtagMismatchError", "ABORTED", "ETAG_MISMATCH"],
    ["UpdateConflictError", "ABORTED", "UPDATE_CONFLICT"],
    ["RequestIdReusedError", "FAILED_PRECONDITION", "REQUEST_ID_REUSED"],
    ["StoreUnavailableError", "UNAVAILABLE", "STORE_UNAVAILABLE"],
    ["StoreFullError", "RESOURCE_EXHAUSTED", "STORE_FULL"],
    ["ServerShuttingDownError", "UNAVAILABLE", "SERVER_SHUTTING_DOWN"],
    ["ReaderStalledError", "UNAVAILABLE", "READER_STALLED"],
    ["OverloadedError", "RESOURCE_EXHAUSTED", "OVERLOADED"],
    ["CredentialsMissingError", "UNAUTHENTICATED", "CREDENTIALS_MISSING"],
    ["CredentialsInvalidError", "UNAUTHENTICATED", "CREDENTIALS_INVALID"],
    ["ScopeMissingError", "PERMISSION_DENIED", "SCOPE_MISSING"],
    ["RateLimitedError", "RESOURCE_EXHAUSTED", "RATE_LIMITED"],
    ["AuthenticationUnavailableError", "UNAVAILABLE", "AUTHENTICATION_UNAVAILABLE"],
    ["InternalError", "INTERNAL", "INTERNAL"],
    // Errors that gRPC itself or a proxy creates.
    ["UnavailableError", "UNAVAILABLE", ""],
    ["DeadlineExceededError", "DEADLINE_EXCEEDED", ""],
    ["InternalError", "INTERNAL", ""],
    ["UserServiceError", "PERMISSION_DENIED", ""],
    ["UserServiceError", "ABORTED", "A_REASON_OF_TOMORROW"],
  ];
  for (const [name, code, reason] of rows) {
    it(`${code} / ${reason || "no reason"} is thrown as ${name}`, async () => {
      await using server = await StandIn.start(({ fail }) => {
        fail({ code, reason, message: "so it is", requestId: "r-1" });
      });
      await using manager = new UserManager(server.address, { timeoutMs: 500 });
      const error = await errorOf(manager.get("ada"));
      assert.equal(error.constructor, userservice[name]);
      assert.equal(error.name, name);
      assert.deepEqual([error.code, error.reason, error.message, error.requestId], [code, reason, "so it is", "r-1"]);
    });
  }

  it("have the violations and the delay that the service sent", async () => {
    const violations = [
      { field: "email", description: "too long" },
      { field: "user_id", description: "missing" },
    ];
    const retryDelay = { seconds: 2n, nanos: 500_000_000 };
    await using server = await StandIn.start(({ fail }) => {
      fail({ code: "INVALID_ARGUMENT", reason: "INVALID_FIELD", violations, retryDelay });
    });
    await using manager = new UserManager(server.address);
    const error = await errorOf(manager.get("ada"));
    assert.ok(error instanceof InvalidArgumentError);
    assert.deepEqual(error.violations, violations);
    assert.equal(error.retryDelayMs, 2500);
  });

  it("ignore a reason from another domain", async () => {
    await using server = await StandIn.start(({ fail }) => {
      fail({ code: "NOT_FOUND", reason: "USER_NOT_FOUND", domain: "elsewhere.example" });
    });
    await using manager = new UserManager(server.address);
    assert.equal((await errorOf(manager.get("ada"))).constructor, UserServiceError);
  });

  it("report a response that cannot be decoded", async () => {
    const answers: readonly (readonly [string, (call: Received) => void])[] = [
      ["0 records instead of one", answering(new Uint8Array())],
      ["cannot decode", answering(Buffer.from([10, 200, 1]))],
      ["one message", answering()],
      ["one message", answering(USER, USER)],
    ];
    for (const [message, answer] of answers) {
      await using server = await StandIn.start(answer);
      await using manager = new UserManager(server.address);
      const error = await errorOf(manager.get("ada"));
      assert.ok(error instanceof InternalError && error.message.includes(message), inspect(error));
      assert.equal(server.received.length, 1);
    }
  });
});

describe("retries", () => {
  it("repeat a read while the service is unavailable", async () => {
    const reasons = ["STORE_UNAVAILABLE", "SERVER_SHUTTING_DOWN", ""];
    await using server = await StandIn.start(
      failing(...reasons.map((reason): Failure => ({ code: "UNAVAILABLE", reason }))),
    );
    await using manager = new UserManager(server.address);
    assert.equal((await manager.get("ada")).user_id, "ada");
    assert.equal(server.received.length, 4);
  });

  it("repeat a write with the same request_id, which is new for each write", async () => {
    await using server = await StandIn.start(
      failing({ code: "UNAVAILABLE" }, { code: "ABORTED", reason: "UPDATE_CONFLICT" }),
    );
    await using manager = new UserManager(server.address);
    await manager.add({ user_id: "ada" });
    await manager.add({ user_id: "ada" });
    const ids = server.requests(AddUserRequestSchema).map(({ requestId }) => requestId);
    assert.equal(ids.length, 4);
    assert.equal(new Set(ids.slice(0, 3)).size, 1);
    assert.notEqual(ids[0], ids[3]);
    assert.ok(ids.every((id) => UUID.test(id)));
  });

  it("send the given request_id and etag; those of the request override the options", async () => {
    await using server = await StandIn.start(answerUser);
    await using manager = new UserManager(server.address);
    await manager.update({ user_id: "ada" }, { requestId: "r", etag: "e" });
    await manager.update({ user_id: "ada", request_id: "own", etag: "" }, { requestId: "r", etag: "e" });
    const sent = server.requests(UpdateUserRequestSchema).map(({ requestId, etag }) => [requestId, etag]);
    assert.deepEqual(sent, [
      ["r", "e"],
      ["own", ""],
    ]);
  });

  it("wait at least as long as the service suggests", async () => {
    await using server = await StandIn.start(
      failing({ code: "UNAVAILABLE", retryDelay: { seconds: 0n, nanos: 300_000_000 } }),
    );
    await using manager = new UserManager(server.address);
    const start = performance.now();
    await manager.get("ada");
    assert.ok(performance.now() - start >= 300);
  });

  it("are not made for errors that a retry cannot resolve", async () => {
    const hopeless: readonly Failure[] = [
      { code: "INVALID_ARGUMENT", reason: "INVALID_FIELD" },
      { code: "NOT_FOUND", reason: "USER_NOT_FOUND" },
      { code: "ABORTED", reason: "ETAG_MISMATCH" },
      { code: "RESOURCE_EXHAUSTED", reason: "STORE_FULL" },
      { code: "INTERNAL", reason: "INTERNAL" },
      { code: "PERMISSION_DENIED" },
      { code: "UNKNOWN" },
    ];
    for (const failure of hopeless) {
      await using server = await StandIn.start(({ fail }) => {
        fail(failure);
      });
      await using manager = new UserManager(server.address);
      await errorOf(manager.update({ user_id: "ada" }));
      assert.equal(server.received.length, 1, inspect(failure));
    }
  });

  it("end at the deadline with the error of the last attempt", async () => {
    await using server = await StandIn.start(({ fail }, number) => {
      // Later attempts hang until the deadline.
      if (number <= 2) {
        fail({ code: "UNAVAILABLE", reason: "STORE_UNAVAILABLE" });
      }
    });
    await using manager = new UserManager(server.address);
    const start = performance.now();
    assert.ok((await errorOf(manager.get("ada", { timeoutMs: 500 }))) instanceof StoreUnavailableError);
    assert.ok(performance.now() - start < 5000);
    assert.equal(server.received.length, 3);
  });

  it("are not started if the suggested delay exceeds the deadline", async () => {
    await using server = await StandIn.start(failing({ code: "UNAVAILABLE", retryDelay: { seconds: 60n, nanos: 0 } }));
    await using manager = new UserManager(server.address);
    assert.ok((await errorOf(manager.get("ada"))) instanceof UnavailableError);
    assert.equal(server.received.length, 1);
  });
});

describe("deadlines", () => {
  it("end a call without a response, and are sent to the service", async () => {
    await using server = await StandIn.start(() => undefined);
    await using manager = new UserManager(server.address, { timeoutMs: 200 });
    const error = await errorOf(manager.get("ada"));
    assert.equal(error.constructor, DeadlineExceededError);
    assert.ok(Number(server.received[0]?.deadline) <= Date.now() + 200);
    await until(() => server.received[0]?.isCancelled() === true, "the call is cancelled");
  });

  it("end a call to an unreachable service with UnavailableError", async () => {
    await using manager = new UserManager("127.0.0.1:1", { timeoutMs: 300 });
    assert.equal((await errorOf(manager.get("ada"))).constructor, UnavailableError);
  });

  it("are rejected if they are out of range", async () => {
    await using manager = new UserManager("127.0.0.1:1");
    for (const timeoutMs of [0, -1, NaN, Infinity, 2 ** 31, "1" as never]) {
      assert.throws(() => new UserManager("127.0.0.1:1", { timeoutMs }), RangeError);
      await assert.rejects(manager.get("ada", { timeoutMs }), RangeError);
    }
  });

  it("cause a new connection if the old one has received nothing for 4 s", async () => {
    await using service = await Service.start();
    await using proxy = await Proxy.start(service.address);
    await using manager = new UserManager(proxy.address);
    await assert.rejects(manager.get("ada"), UserNotFoundError);
    proxy.freeze();
    await assert.rejects(manager.get("ada", { timeoutMs: 4500 }), DeadlineExceededError);
    await assert.rejects(manager.get("ada"), UserNotFoundError);
    assert.equal(proxy.connections, 2);
  });
});

describe("signals", () => {
  it("end a call with their reason, and cancel it on the server", async () => {
    await using server = await StandIn.start(() => undefined);
    await using manager = new UserManager(server.address);
    const controller = new AbortController();
    const reason = new Error("no longer wanted");
    const call = assert.rejects(manager.get("ada", { signal: controller.signal }), reason);
    await until(() => server.received.length === 1, "the call arrives");
    controller.abort(reason);
    await call;
    await until(() => server.received[0]?.isCancelled() === true, "the call is cancelled");
  });

  it("end a pause between two attempts", async () => {
    await using server = await StandIn.start(failing({ code: "UNAVAILABLE", retryDelay: { seconds: 5n, nanos: 0 } }));
    await using manager = new UserManager(server.address);
    const signal = AbortSignal.timeout(300);
    await assert.rejects(manager.get("ada", { signal }), { name: "TimeoutError" });
    assert.equal(server.received.length, 1);
  });

  it("are shared by many calls without a warning", async () => {
    const warnings: string[] = [];
    const note = ({ name }: Error): void => {
      warnings.push(name);
    };
    process.on("warning", note);
    await using server = await StandIn.start(answering(USER));
    await using manager = new UserManager(server.address);
    const { signal } = new AbortController();
    await Promise.all(Array.from({ length: 30 }, () => manager.get("ada", { signal })));
    await new Promise(setImmediate);
    process.off("warning", note);
    assert.deepEqual(warnings, []);
  });

  it("keep a limit of listeners that the caller has set", async () => {
    await using server = await StandIn.start(answering(USER));
    await using manager = new UserManager(server.address);
    const { signal } = new AbortController();
    setMaxListeners(20, signal);
    await manager.get("ada", { signal });
    assert.equal(getMaxListeners(signal), 20);
  });

  it("prevent a call if they are already aborted", async () => {
    await using server = await StandIn.start(answerUser);
    await using manager = new UserManager(server.address);
    await assert.rejects(manager.get("ada", { signal: AbortSignal.abort() }), { name: "AbortError" });
    assert.equal(server.received.length, 0);
  });
});

describe("the caller's objects", () => {
  it("can be changed and reused while a call runs", async () => {
    await using server = await StandIn.start(answering(USER));
    await using users = new UserManager(server.address);
    for (const call of [users.add.bind(users), users.update.bind(users)]) {
      const request = { user_id: "ada" };
      const running = call(request);
      request.user_id = "eve";
      assert.equal((await running).user_id, "ada");
    }
  });

  it("that are not a list or not an object are rejected like other invalid fields", async () => {
    await using server = await StandIn.start(({ fail }) => {
      fail({ code: "INVALID_ARGUMENT", reason: "INVALID_FIELD" });
    });
    await using users = new UserManager(server.address);
    await using sessions = new SessionManager(server.address);
    for (const wrong of [undefined, null, 5, "ada", {}] as never[]) {
      for (const call of [
        users.batchGet.bind(users),
        users.add.bind(users),
        users.update.bind(users),
        sessions.add.bind(sessions),
        sessions.update.bind(sessions),
      ]) {
        assert.ok((await errorOf(call(wrong))) instanceof InvalidArgumentError);
      }
    }
  });
});

describe("close", () => {
  it("ends running calls, and rejects later calls", async () => {
    await using server = await StandIn.start(() => undefined);
    const manager = new UserManager(server.address);
    const call = assert.rejects(manager.get("ada"), ManagerClosedError);
    await until(() => server.received.length === 1, "the call arrives");
    await manager.close();
    await call;
    await assert.rejects(manager.get("ada"), ManagerClosedError);
    await manager.close();
  });

  it("is called at the end of await using", async () => {
    let kept: SessionManager;
    {
      await using manager = new SessionManager("127.0.0.1:1");
      kept = manager;
    }
    await assert.rejects(kept.get("ada", "s"), ManagerClosedError);
  });
});

describe("a token", () => {
  it("is sent with every call", async () => {
    await using server = await StandIn.start(answerUser);
    await using manager = new UserManager(server.address, { token: "secret" });
    await manager.get("ada");
    await manager.delete("ada");
    const tokens = server.received.map(({ metadata }) => metadata.get("authorization"));
    assert.deepEqual(tokens, [["Bearer secret"], ["Bearer secret"]]);
  });

  it("that is invalid in a header is rejected and not shown", () => {
    for (const token of ["", "sec ret", "sec\nret", "sécret"]) {
      assert.throws(
        () => new UserManager("127.0.0.1:1", { token }),
        (error: Error) => error instanceof TypeError && !(token && error.message.includes(token)),
      );
    }
  });
});

describe("listChunked", () => {
  const chunk = (ids: readonly number[], nextCursor: number): Uint8Array =>
    toBinary(
      ListUsersChunkedResponseSchema,
      create(ListUsersChunkedResponseSchema, {
        users: ids.map((id) => ({ userId: `user-${id}`, id: BigInt(id) })),
        nextCursor: BigInt(nextCursor),
      }),
    );
  const read = async (manager: UserManager): Promise<number[]> => {
    const ids: number[] = [];
    for await (const users of manager.listChunked(2, 0, { timeoutMs: 2000 })) {
      ids.push(...users.map(({ id }) => id));
    }
    return ids;
  };

  it("resumes a stream that ends without its last chunk", async () => {
    await using server = await StandIn.start(({ send, end, fail }, number) => {
      if (number === 1) {
        send(chunk([1, 2], 2));
        end();
      } else if (number === 2) {
        fail({ code: "INTERNAL", message: "Received RST_STREAM with code 2" });
      } else if (number === 3) {
        send(chunk([3], 3));
        fail({ code: "UNAVAILABLE", reason: "SERVER_SHUTTING_DOWN" });
      } else {
        send(chunk([], 0));
        end();
      }
    });
    await using manager = new UserManager(server.address);
    assert.deepEqual(await read(manager), [1, 2, 3]);
    const asked = server.requests(ListUsersChunkedRequestSchema).map(({ chunkSize, cursor }) => [chunkSize, cursor]);
    assert.deepEqual(asked.slice(0, 2), [
      [2, 0n],
      [2, 2n],
    ]);
    assert.deepEqual(asked.at(-1)?.[1], 3n);
  });

  it("rejects chunks that repeat users or go back", async () => {
    for (const wrong of [chunk([1], 0), chunk([2], 3), chunk([4, 3], 5), chunk([3, 4], 3), chunk([], 2)]) {
      await using server = await StandIn.start(({ send }) => {
        send(chunk([1, 2], 2));
        send(wrong);
      });
      await using manager = new UserManager(server.address);
      assert.ok((await errorOf(read(manager))) instanceof InternalError);
    }
  });

  it("ends with an error if the service stays unavailable", async () => {
    await using server = await StandIn.start(({ send, end, fail }, number) => {
      if (number === 1) {
        send(chunk([1], 1));
        end();
      } else {
        fail({ code: "UNAVAILABLE" });
      }
    });
    await using manager = new UserManager(server.address);
    const users = manager.listChunked(2, 0, { timeoutMs: 400 });
    assert.equal((await users.next()).value?.length, 1);
    assert.ok((await errorOf(users.next())) instanceof UnavailableError);
    assert.ok(server.received.length > 2);
  });
});
