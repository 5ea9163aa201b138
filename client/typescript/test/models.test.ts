/** Models behave like ordinary objects: programs clone, send, list, show and create them. */

import assert from "node:assert/strict";
import { Console } from "node:console";
import { Writable } from "node:stream";
import { describe, it } from "node:test";
import { inspect } from "node:util";
import { MessageChannel, receiveMessageOnPort } from "node:worker_threads";

import { create, toBinary } from "@bufbuild/protobuf";
import { Session, SessionPage, User, UserBatch, UserManager, UserPage } from "userservice";

import { UserSchema } from "../dist/gen/userservice/v1/user_pb.js";
import { ListUsersResponseSchema } from "../dist/gen/userservice/v1/user_service_pb.js";
import { SessionSchema } from "../dist/gen/userservice/v1/session_pb.js";
import { StandIn } from "./harness/stand_in.js";

const TIME = { seconds: 1_700_000_000n, nanos: 123_456_789 };
const SENT = {
  userId: "ada",
  id: 5n,
  uuid: "01a209c4-7c7f-7378-a9ab-a1b07df0dd89",
  email: "ada@example.com",
  firstName: "Zo\u00eb",
  lastName: "L".repeat(250),
  metadata: { plan: "pro", tags: ["a", { b: null }], "10": 1, "9": 2 },
  createdAt: TIME,
  updatedAt: { seconds: 1_700_000_001n, nanos: 0 },
  etag: "F78s29RSX7hd",
};
const FIELDS = {
  user_id: "ada",
  id: 5,
  uuid: SENT.uuid,
  email: "ada@example.com",
  first_name: "Zo\u00eb",
  last_name: SENT.lastName,
  metadata: SENT.metadata,
  created_at: new Date(1_700_000_000_123),
  created_at_us: 1_700_000_000_123_456,
  updated_at: new Date(1_700_000_001_000),
  updated_at_us: 1_700_000_001_000_000,
  etag: "F78s29RSX7hd",
};

async function receivePage(...sent: object[]): Promise<UserPage> {
  const message = create(ListUsersResponseSchema, { users: sent, nextCursor: 9n, totalSize: 12n });
  const encoded = toBinary(ListUsersResponseSchema, message);
  await using server = await StandIn.start(({ send, end }) => {
    send(encoded);
    end();
  });
  await using manager = new UserManager(server.address);
  return await manager.list();
}

async function receive(): Promise<User> {
  const [user] = await receivePage(SENT);
  assert.ok(user);
  return user;
}

function sendToThread(value: unknown): unknown {
  const { port1, port2 } = new MessageChannel();
  port1.postMessage(value);
  const received = receiveMessageOnPort(port2);
  port1.close();
  return (received as { message: unknown }).message;
}

const COPIES: Readonly<Record<string, (user: User) => unknown>> = {
  structuredClone: (user) => structuredClone<unknown>(user),
  postMessage: sendToThread,
  "Object.entries": (user) => Object.fromEntries(Object.entries(user)),
  // eslint-disable-next-line @typescript-eslint/no-misused-spread -- programs do this
  spread: (user) => ({ ...user }),
  "Object.assign": (user) => Object.assign({}, user),
  toJSON: (user) => user.toJSON(),
};

describe("a user from the service", () => {
  for (const [name, copy] of Object.entries(COPIES)) {
    it(`keeps exactly its fields in ${name}`, async () => {
      // Before and after the first read of metadata.
      const user = await receive();
      assert.deepStrictEqual(copy(user), FIELDS);
      assert.deepStrictEqual(copy(user), FIELDS);
      assert.deepStrictEqual(Object.keys(copy(user) as object), Object.keys(FIELDS));
      assert.deepStrictEqual(Reflect.ownKeys(user), Object.keys(FIELDS));
    });
  }

  it("keeps all fields as JSON", async () => {
    assert.deepStrictEqual(JSON.parse(JSON.stringify(await receive())), JSON.parse(JSON.stringify(FIELDS)));
  });

  it("shows its fields in console.table, and no bytes", async () => {
    let printed = "";
    const stdout = new Writable({
      write(chunk, _, done): void {
        printed += String(chunk);
        done();
      },
    });
    new Console({ stdout }).table([await receive()]);
    for (const text of ["ada@example.com", "user_id", "created_at_us", "[Object]"]) {
      assert.ok(printed.includes(text), printed);
    }
    assert.doesNotMatch(printed, /Uint8Array|Buffer|Getter|encoded/);
  });

  it("shows only its name and id when it is inspected, as in logs", async () => {
    const page = await receivePage(SENT);
    for (const value of [page, page[0], { page }]) {
      assert.doesNotMatch(
        inspect(value, { depth: 9, showHidden: true }),
        /example\.com|Zo\u00eb|pro|Uint8Array|Buffer/,
      );
    }
    assert.equal(inspect(page[0]), "<User user_id='ada' id=5>");
  });

  it("keeps a value assigned to its metadata, before and after the first read", async () => {
    for (const readBefore of [false, true]) {
      const user = (await receive()) as { metadata: object };
      if (readBefore) {
        assert.ok(user.metadata);
      }
      user.metadata = { other: 1 };
      assert.deepStrictEqual(structuredClone(user).metadata, { other: 1 });
    }
  });

  it("has metadata keys sorted by code points at every level", async () => {
    // In UTF-16 the emoji would come before U+E000.
    const inner = { "\u{1F600}": 1, "\uE000": 2, b: 3, a: 4, ab: 5, "": 6, "\u00e9": 7 };
    const [user] = await receivePage({ ...SENT, metadata: { z: [inner], y: inner, "2": 0, "10": 0 } });
    const sorted = ["", "a", "ab", "b", "\u00e9", "\uE000", "\u{1F600}"];
    assert.deepEqual(Object.keys(user?.metadata["y"] as object), sorted);
    assert.deepEqual(Object.keys((user?.metadata["z"] as object[])[0] ?? {}), sorted);
    assert.deepEqual(Object.keys(user?.metadata ?? {}), ["2", "10", "y", "z"]);
  });

  it("has a metadata key __proto__ like any other key", async () => {
    const metadata = JSON.parse('{"zz": 1, "__proto__": {"polluted": 1}}') as object;
    const [user] = await receivePage({ ...SENT, metadata });
    assert.deepStrictEqual(user?.metadata, metadata);
    assert.equal(({} as { polluted?: unknown }).polluted, undefined);
  });

  it("is decoded with the field numbers of the protos", () => {
    const numbers = Object.fromEntries(UserSchema.fields.map(({ name, number }) => [name, number]));
    const names = [
      "user_id",
      "id",
      "uuid",
      "email",
      "first_name",
      "last_name",
      "metadata",
      "created_at",
      "updated_at",
      "etag",
    ];
    assert.deepEqual(numbers, Object.fromEntries(names.map((name, index) => [name, index + 1])));
    const ofSession = Object.fromEntries(SessionSchema.fields.map(({ name, number }) => [name, number]));
    const inSession = [
      "session_id",
      "id",
      "user_id",
      "uuid",
      "metadata",
      "created_at",
      "updated_at",
      "etag",
      "idle_ttl",
      "max_expire_time",
      "expire_time",
      "last_seen_at",
    ];
    assert.deepEqual(ofSession, Object.fromEntries(inSession.map((name, index) => [name, index + 1])));
  });
});

describe("a page", () => {
  it("keeps its users and its own fields when it is cloned or sent to a thread", async () => {
    for (const copy of [structuredClone, sendToThread]) {
      const clone = copy(await receivePage(SENT)) as UserPage;
      assert.deepStrictEqual([...clone], [FIELDS]);
      assert.deepEqual([clone.next_cursor, clone.total_size], [9, 12]);
    }
  });

  it("is an object with all its fields as JSON", async () => {
    const page = JSON.parse(JSON.stringify(await receivePage(SENT))) as object;
    assert.deepStrictEqual(page, { users: [JSON.parse(JSON.stringify(FIELDS))], next_cursor: 9, total_size: 12 });
    const session = new Session({ user_id: "ada", session_id: "phone" });
    const sessions = JSON.parse(JSON.stringify(new SessionPage([session], { total_size: 1 }))) as object;
    assert.deepStrictEqual(Object.keys(sessions), ["sessions", "next_cursor", "total_size"]);
    const batch = JSON.stringify(new UserBatch([], { missing_user_ids: ["bob"] }));
    assert.equal(batch, '{"users":[],"missing_user_ids":["bob"]}');
  });

  it("has methods that return ordinary arrays", async () => {
    const page = await receivePage(SENT);
    assert.ok(Array.isArray(page) && page instanceof UserPage);
    for (const array of [page.map(({ id }) => id), page.filter(Boolean), page.slice(), page.concat([])]) {
      assert.equal(Object.getPrototypeOf(array), Array.prototype);
    }
  });
});

describe("models that programs create", () => {
  it("have the given fields, and empty values for all others", () => {
    const user = new User({ user_id: "ada", created_at: new Date(5) });
    assert.deepStrictEqual(user.toJSON(), {
      ...{ user_id: "ada", id: 0, uuid: "", email: "", first_name: "", last_name: "", metadata: {} },
      ...{ created_at: new Date(5), created_at_us: 5000, updated_at: new Date(0), updated_at_us: 0, etag: "" },
    });
    assert.deepStrictEqual(new User(FIELDS), new User(structuredClone(FIELDS)));
    assert.equal(new Session({ user_id: "ada", session_id: "phone" }).session_id, "phone");
  });

  it("reject unknown fields and missing required fields", () => {
    assert.throws(() => new User({ user_id: "ada", userid: "b" } as never), {
      name: "TypeError",
      message: /userid is not a field/,
    });
    assert.throws(() => new User({} as never), { name: "TypeError", message: /user_id is required/ });
    assert.throws(() => new Session({ user_id: "ada" } as never), {
      name: "TypeError",
      message: /session_id is required/,
    });
  });

  it("can be copied with changes, and share nothing with the copy", async () => {
    const user = await receive();
    const copy = user.copy({ email: "new", created_at: new Date(7) });
    assert.ok(copy instanceof User);
    assert.deepStrictEqual(copy.toJSON(), { ...FIELDS, email: "new", created_at: new Date(7), created_at_us: 7000 });
    assert.deepStrictEqual(user.copy().toJSON(), FIELDS);
    (copy.metadata["tags"] as unknown[]).push("c");
    assert.deepStrictEqual(user.toJSON(), FIELDS);
    const session = new Session({ user_id: "ada", session_id: "phone", updated_at_us: 3_000_000 });
    assert.equal(session.copy({ session_id: "laptop" }).updated_at.getTime(), 3000);
  });
});
