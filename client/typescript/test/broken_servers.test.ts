/** Servers that violate the contract: the client raises InternalError or ends at its deadline. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { inspect } from "node:util";

import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { DeadlineExceededError, InternalError, SessionManager, UnavailableError, UserManager } from "userservice";

import type { SessionSchema } from "../dist/gen/userservice/v1/session_pb.js";
import type { UserSchema } from "../dist/gen/userservice/v1/user_pb.js";
import {
  BatchGetUsersResponseSchema,
  GetUserSessionsResponseSchema,
  ListUsersResponseSchema,
  PlanUserScanResponseSchema,
} from "../dist/gen/userservice/v1/user_service_pb.js";
import { type Received, StandIn } from "./harness/stand_in.js";

type UserFields = MessageInitShape<typeof UserSchema>;
type SessionFields = MessageInitShape<typeof SessionSchema>;

/** A response with users. A response with a single user has the same encoding. */
function users(records: UserFields[], nextCursor = 0n): Uint8Array {
  return toBinary(ListUsersResponseSchema, create(ListUsersResponseSchema, { users: records, nextCursor }));
}

function sessions(records: SessionFields[], nextCursor = 0n): Uint8Array {
  return toBinary(
    GetUserSessionsResponseSchema,
    create(GetUserSessionsResponseSchema, { sessions: records, nextCursor }),
  );
}

function batch(names: string[], missingUserIds: string[]): Uint8Array {
  const records = names.map((userId) => ({ userId, id: 1n }));
  return toBinary(BatchGetUsersResponseSchema, create(BatchGetUsersResponseSchema, { users: records, missingUserIds }));
}

function plan(...parts: [partition: number, cursor: bigint, endCursor: bigint][]): Uint8Array {
  const fields = parts.map(([partition, cursor, endCursor]) => ({ partition, cursor, endCursor }));
  return toBinary(PlanUserScanResponseSchema, create(PlanUserScanResponseSchema, { parts: fields }));
}

interface Managers {
  readonly users: UserManager;
  readonly sessions: SessionManager;
}

async function withAnswer(
  answer: (call: Received) => void,
  use: (managers: Managers) => Promise<unknown>,
): Promise<unknown> {
  await using server = await StandIn.start(answer);
  await using userManager = new UserManager(server.address, { timeoutMs: 2000 });
  await using sessionManager = new SessionManager(server.address, { timeoutMs: 2000 });
  return await use({ users: userManager, sessions: sessionManager }).catch((error: unknown) => error);
}

function sending(message: Uint8Array): (call: Received) => void {
  return ({ send, end }) => {
    send(message);
    end();
  };
}

async function firstChunk(manager: UserManager, cursor = 0): Promise<unknown> {
  return (await manager.listChunked(10, cursor).next()).value;
}

const ada: UserFields = { userId: "ada", id: 5n };
const eve: UserFields = { userId: "eve", id: 6n };
const phone: SessionFields = { sessionId: "phone", userId: "ada", id: 7n };

function created(createdAt: { seconds: bigint; nanos: number }): Uint8Array {
  return users([{ userId: "ada", id: 5n, createdAt }]);
}

describe("a response that violates the contract is an InternalError:", () => {
  const rows: readonly (readonly [string, Uint8Array, (managers: Managers) => Promise<unknown>])[] = [
    ["get: another user", users([eve]), ({ users }) => users.get("ada")],
    ["get: two users", users([ada, eve]), ({ users }) => users.get("ada")],
    ["add: another user", users([eve]), ({ users }) => users.add({ user_id: "ada" })],
    ["update: another user", users([eve]), ({ users }) => users.update({ user_id: "ada" })],
    ["session of another user", sessions([phone]), ({ sessions }) => sessions.get("eve", "phone")],
    ["another session", sessions([phone]), ({ sessions }) => sessions.get("ada", "laptop")],
    ["add: another session", sessions([phone]), (all) => all.sessions.add({ user_id: "ada", session_id: "laptop" })],
    [
      "update: session of another user",
      sessions([phone]),
      (all) => all.sessions.update({ user_id: "eve", session_id: "phone" }),
    ],
    ["getSessions: another user's", sessions([phone]), ({ users }) => users.getSessions("eve")],
    ["sessions.list: another user's", sessions([phone]), ({ sessions }) => sessions.list("eve")],
    ["sessions.list: twice", sessions([phone, phone]), ({ sessions }) => sessions.list("ada")],
    [
      "getSessions: a cursor that stays",
      sessions([], 0n + 3n),
      ({ users }) => users.getSessions("ada", { timeoutMs: 500 }),
    ],
    ["batchGet: another user", batch(["eve"], []), ({ users }) => users.batchGet(["ada"])],
    ["batchGet: another order", batch(["eve", "ada"], []), ({ users }) => users.batchGet(["ada", "eve"])],
    ["batchGet: one left out", batch(["ada"], []), ({ users }) => users.batchGet(["ada", "eve"])],
    ["batchGet: one too many", batch(["ada", "eve"], []), ({ users }) => users.batchGet(["ada"])],
    ["batchGet: another missing", batch(["ada"], ["eve", "bob"]), ({ users }) => users.batchGet(["ada", "eve"])],
    ["list: out of order", users([eve, ada]), ({ users }) => users.list()],
    ["list: twice", users([ada, ada]), ({ users }) => users.list()],
    ["list: before the cursor", users([ada]), ({ users }) => users.list(10, 5)],
    ["list: a cursor before the last user", users([ada, eve], 5n), ({ users }) => users.list()],
    ["list: a cursor that stays", users([], 9n), ({ users }) => users.list(10, 9)],
    ["list: a cursor below 0", users([ada], -1n), ({ users }) => users.list()],
    ["list descending: twice", users([ada, ada]), ({ users }) => users.list(10, 0, { orderBy: "id desc" })],
    ["list descending: ascending", users([ada, eve]), ({ users }) => users.list(10, 0, { orderBy: "id desc" })],
    ["list descending: after the cursor", users([eve]), ({ users }) => users.list(10, 6, { orderBy: "id desc" })],
    ["list descending: a cursor", users([eve, ada], 6n), ({ users }) => users.list(10, 0, { orderBy: "id desc" })],
    ["list descending: a cursor that stays", users([], 6n), ({ users }) => users.list(10, 6, { orderBy: "id desc" })],
    ["list: an id of more than 53 bits", users([{ ...ada, id: 2n ** 53n }]), ({ users }) => users.list()],
    ["list: an id below 0", users([{ ...ada, id: -5n }]), ({ users }) => users.list()],
    ["list: a user without a name", users([{ id: 1n }]), ({ users }) => users.list()],
    [
      "listChunked: out of order inside a chunk",
      users([{ ...ada, id: 1n }, eve, ada], 6n),
      ({ users }) => firstChunk(users),
    ],
    ["listChunked: twice inside a chunk", users([ada, ada, eve], 6n), ({ users }) => firstChunk(users)],
    ["planUserScan: no partition", plan([0, 0n, 9n]), ({ users }) => users.planUserScan()],
    ["planUserScan: an empty part", plan([1, 9n, 9n]), ({ users }) => users.planUserScan()],
    ["planUserScan: overlapping parts", plan([1, 8n, 12n], [1, 0n, 9n]), ({ users }) => users.planUserScan()],
    ["planUserScan: a part that is cut off", Buffer.from([10, 4, 8, 1, 24]), ({ users }) => users.planUserScan()],
    [
      "listChunked: a user beyond the end of the part",
      users([ada, eve]),
      ({ users }) => users.listChunked(10, 0, { parts: [{ partition: 1, cursor: 0, end_cursor: 5 }] }).next(),
    ],
    ["listChunked: before the cursor", users([ada]), ({ users }) => firstChunk(users, 5)],
    ["a time before the year 1", created({ seconds: -62_135_596_801n, nanos: 0 }), ({ users }) => users.get("ada")],
    ["a time after the year 9999", created({ seconds: 253_402_300_800n, nanos: 0 }), ({ users }) => users.list()],
    ["a time of 2^62 s", created({ seconds: 2n ** 62n, nanos: 0 }), ({ users }) => firstChunk(users)],
    ["a time of -1 ns", created({ seconds: 0n, nanos: -1 }), ({ users }) => users.get("ada")],
    ["a name that is not UTF-8", Buffer.from([10, 5, 10, 1, 0xff, 16, 1]), ({ users }) => users.list()],
    ["a user that is cut off", Buffer.from([10, 4, 10, 9, 65, 16]), ({ users }) => users.list()],
    ["a number that does not end", Buffer.from([16, ...Array<number>(12).fill(0xff)]), ({ users }) => users.list()],
  ];
  for (const [name, message, call] of rows) {
    it(name, async () => {
      const error = await withAnswer(sending(message), call);
      assert.ok(error instanceof InternalError, inspect(error));
    });
  }

  it("metadata that is nested too deeply, when it is read", async () => {
    const nested = (levels: number): object => (levels === 0 ? {} : { nested: nested(levels - 1) });
    const message = users([{ ...ada, metadata: nested(120) as never }]);
    const result = await withAnswer(sending(message), async ({ users }) => (await users.get("ada")).metadata);
    assert.ok(result instanceof InternalError, inspect(result));
  });
});

describe("a response within the contract is accepted:", () => {
  it("times at the limits of their range", async () => {
    for (const [seconds, text] of [
      [-62_135_596_800n, "0001-01-01T00:00:00.000Z"],
      [253_402_300_799n, "9999-12-31T23:59:59.000Z"],
      [-1n, "1969-12-31T23:59:59.000Z"],
    ] as const) {
      const time = await withAnswer(
        sending(created({ seconds, nanos: 0 })),
        async (all) => (await all.users.get("ada")).created_at,
      );
      assert.equal((time as Date).toISOString(), text);
    }
  });

  it("a batch with a name that was requested twice", async () => {
    const answer = sending(batch(["ada", "ada"], ["bob", "bob"]));
    const found = await withAnswer(answer, ({ users }) =>
      users.batchGet(new Set(["ada"]).values()).catch(() => users.batchGet(["ada", "bob", "bob", "ada"])),
    );
    assert.ok(Array.isArray(found), inspect(found));
    assert.equal(found.length, 2);
  });
});

describe("an endless response", () => {
  it("of empty chunks whose cursor increases ends at the deadline", async () => {
    const pump = ({ send, isCancelled }: Received): void => {
      let cursor = 0n;
      const some = (): void => {
        for (let count = 0; count < 100 && !isCancelled(); count++) {
          send(users([], ++cursor));
        }
        if (!isCancelled()) {
          setImmediate(some);
        }
      };
      some();
    };
    const start = performance.now();
    const error = await withAnswer(pump, ({ users }) => users.listChunked(10, 0, { timeoutMs: 300 }).next());
    assert.ok(error instanceof DeadlineExceededError, inspect(error));
    assert.ok(performance.now() - start < 10_000);
  });

  it("of empty chunks for a filter does not end at the deadline, because the service examines many users", async () => {
    const slowly = ({ send, end }: Received): void => {
      let cursor = 0n;
      const timer = setInterval(() => {
        send(users([], cursor < 6n ? ++cursor : 0n));
        if (cursor === 6n) {
          cursor = 7n;
        } else if (cursor === 7n) {
          clearInterval(timer);
          end();
        }
      }, 250);
    };
    const found = await withAnswer(slowly, ({ users }) =>
      users.listChunked(10, 0, { filter: "email = 'x'", timeoutMs: 1200 }).next(),
    );
    assert.deepEqual(found, { value: undefined, done: true });
  });

  it("of pages of sessions ends at the deadline", async () => {
    await using server = await StandIn.start((call) => {
      sending(sessions([], BigInt(server.received.length)))(call);
    });
    await using manager = new UserManager(server.address);
    await assert.rejects(manager.getSessions("ada", { timeoutMs: 300 }), DeadlineExceededError);
  });
});

describe("a suggested delay", () => {
  it("below 0 does not cause retries without a pause", async () => {
    await using server = await StandIn.start(({ fail }) => {
      fail({ code: "UNAVAILABLE", retryDelay: { seconds: -100n, nanos: 0 } });
    });
    await using manager = new UserManager(server.address, { timeoutMs: 1000 });
    await assert.rejects(
      manager.get("ada"),
      (error: unknown) => error instanceof UnavailableError && error.retryDelayMs === 0,
    );
    assert.ok(server.received.length < 40, `${server.received.length} attempts`);
  });

  it("of many years counts as a day, and the call fails immediately", async () => {
    await using server = await StandIn.start(({ fail }) => {
      fail({ code: "UNAVAILABLE", retryDelay: { seconds: 315_576_000_000n, nanos: 0 } });
    });
    await using manager = new UserManager(server.address);
    await assert.rejects(
      manager.get("ada"),
      (error: unknown) => error instanceof UnavailableError && error.retryDelayMs === 86_400_000,
    );
    assert.equal(server.received.length, 1);
  });
});
