/** Metadata that the client rejects, and metadata exchanged between Python and TypeScript. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { after, before, describe, it } from "node:test";

import { InvalidArgumentError, type MetadataInput, SessionManager, UserManager } from "userservice";

import { PACKAGE, PYTHON, Service } from "./harness/service.js";

function nested(levels: number): MetadataInput {
  return levels === 1 ? {} : { k: nested(levels - 1) };
}

const SAMPLES: Record<string, MetadataInput> = {
  empty: {},
  "empty inside": { object: {}, list: [], text: "", null: null },
  unicode: { "ключ 🔑": "naïve 你好 👩\u200d🚀 \u0000 \u2028 שלום \uFEFF \u{10FFFF}", "": "empty key", "e\u0301": "é" },
  numbers: {
    zero: 0,
    one: 1,
    tenth: 0.1,
    third: 1 / 3,
    tiny: 5e-324,
    most: 2 ** 53,
    least: -(2 ** 53),
    half: 4503599627370495.5,
  },
  kinds: { true: true, false: false, list: [null, true, 1, "1", [], {}, [[1]], { a: [{ b: null }] }] },
  keys: JSON.parse(
    '{"__proto__": {"polluted": true}, "constructor": 1, "toString": 2, "hasOwnProperty": 3}',
  ) as MetadataInput,
  deep: nested(16),
  "deep lists": { k: Array.from({ length: 14 }).reduce<MetadataInput[string]>((inner) => [inner], []) },
  large: { text: "é".repeat(20_000), list: Array.from({ length: 1500 }, (_, number) => number / 7) },
  many: Object.fromEntries(Array.from({ length: 2000 }, (_, number) => [`key ${number}`, number])),
};

describe("metadata between Python and TypeScript", () => {
  let service: Service;
  let manager: UserManager;
  before(async () => {
    service = await Service.start();
    manager = new UserManager(service.address);
  });
  after(async () => {
    await manager.close();
    await service[Symbol.asyncDispose]();
  });

  async function python(action: "write" | "read"): Promise<string> {
    const peer = spawn(PYTHON, [join(PACKAGE, "test/harness/metadata_peer.py"), action, service.address], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    peer.stdin.end(JSON.stringify(SAMPLES));
    const [output] = await Promise.all([text(peer.stdout), once(peer, "exit")]);
    assert.equal(peer.exitCode, 0);
    return output;
  }

  async function removeAll(): Promise<void> {
    await Promise.all((await manager.list(1000)).map(({ user_id }) => manager.delete(user_id)));
  }

  it("is the same when TypeScript writes and Python reads", async () => {
    for (const [user_id, metadata] of Object.entries(SAMPLES)) {
      assert.deepEqual((await manager.add({ user_id, metadata })).metadata, metadata, user_id);
    }
    assert.deepEqual(JSON.parse(await python("read")), SAMPLES);
    await removeAll();
  });

  it("is the same when Python writes and TypeScript reads", async () => {
    await python("write");
    for (const [user_id, metadata] of Object.entries(SAMPLES)) {
      assert.deepEqual((await manager.get(user_id)).metadata, metadata, user_id);
    }
    assert.equal(({} as Record<string, unknown>)["polluted"], undefined);
    await removeAll();
  });

  it("accepts a bigint within ±2^53, and returns a number", async () => {
    const user = await manager.add({ user_id: "big", metadata: { most: 2n ** 53n, least: -(2n ** 53n) } });
    assert.deepEqual(user.metadata, { most: 2 ** 53, least: -(2 ** 53) });
    await removeAll();
  });

  it("accepts objects without a prototype, and the same object several times", async () => {
    const shared = { a: 1 };
    const metadata = Object.assign(Object.create(null) as object, { left: shared, right: shared }) as MetadataInput;
    const user = await manager.add({ user_id: "shared", metadata });
    assert.deepEqual(user.metadata, { left: { a: 1 }, right: { a: 1 } });
    await removeAll();
  });
});

describe("invalid requests are rejected before they are sent", () => {
  // No server listens at this address, so a request that was sent would fail with another error.
  const users = new UserManager("127.0.0.1:1", { timeoutMs: 100 });
  const sessions = new SessionManager("127.0.0.1:1", { timeoutMs: 100 });
  const circle: unknown[] = [];
  circle.push({ circle });
  class Point {
    x = 1;
  }
  const sparse = [1, 2, 3];
  // eslint-disable-next-line @typescript-eslint/no-array-delete -- the hole is intended
  delete sparse[1];
  const hugePast = "a whole number must be within ±2^53, or it would be rounded; send it as a string";
  const noNumber = "must be a finite number: NaN and the infinities are not JSON";
  const kinds = "must be null, boolean, number, string, array or plain object, not";
  const surrogate = "has a lone surrogate, which UTF-8 cannot encode";

  const rows: readonly (readonly [unknown, string, string])[] = [
    [{ a: { b: [0, 1, 2, NaN] } }, "metadata.a.b[3]", noNumber],
    [{ a: Infinity }, "metadata.a", noNumber],
    [{ a: -Infinity }, "metadata.a", noNumber],
    [{ a: 2 ** 53 + 2 }, "metadata.a", hugePast],
    [{ a: -(2 ** 53) - 2 }, "metadata.a", hugePast],
    [{ a: 1e300 }, "metadata.a", hugePast],
    [{ a: 2n ** 53n + 1n }, "metadata.a", hugePast],
    [{ a: -(2n ** 53n) - 1n }, "metadata.a", hugePast],
    [{ a: undefined }, "metadata.a", "is undefined; omit the key or set it to null"],
    [{ a: sparse }, "metadata.a[1]", "is undefined; omit the key or set it to null"],
    [{ a: () => 1 }, "metadata.a", `${kinds} function`],
    [{ a: Symbol("s") }, "metadata.a", `${kinds} symbol`],
    [{ [Symbol("s")]: 1 }, "metadata", "keys must be strings, not symbols"],
    [{ a: new Date() }, "metadata.a", `${kinds} Date`],
    [{ a: new Map() }, "metadata.a", `${kinds} Map`],
    [{ a: Buffer.from("a") }, "metadata.a", `${kinds} Uint8Array`],
    [{ a: new Point() }, "metadata.a", `${kinds} an object of class Point`],
    [{ a: "\ud800" }, "metadata.a", surrogate],
    [{ "a\udc00": 1 }, "metadata.a\ufffd", "the key has a lone surrogate, which UTF-8 cannot encode"],
    [{ a: circle }, "metadata.a[0].circle", "must not contain itself"],
    [nested(31), `metadata${".k".repeat(30)}`, "must be at most 16 levels deep, where metadata itself is the first"],
    [[], "metadata", "must be a plain object, not Array"],
    ["text", "metadata", "must be a plain object, not string"],
    [new Date(), "metadata", "must be a plain object, not Date"],
  ];
  for (const [metadata, field, description] of rows) {
    it(`${field}: ${description}`, async () => {
      for (const call of [
        users.add({ user_id: "ada", metadata: metadata as never }),
        users.update({ user_id: "ada", metadata: metadata as never }),
        sessions.add({ user_id: "ada", session_id: "s", metadata: metadata as never }),
        sessions.update({ user_id: "ada", session_id: "s", metadata: metadata as never }),
      ]) {
        await assertRefused(call, [{ field, description }]);
      }
    });
  }

  async function assertRefused(call: Promise<unknown>, violations: object[]): Promise<void> {
    await assert.rejects(call, (error: unknown) => {
      assert.ok(error instanceof InvalidArgumentError, String(error));
      assert.deepEqual(error.violations, violations);
      assert.match(error.message, /^the request was not sent: /);
      return true;
    });
  }

  it("with all violations at once", async () => {
    const user = {
      user_id: 1,
      email: "\ud800",
      nickname: "x",
      metadata: { a: NaN, b: [undefined] },
      update_mask: ["a", 1],
    };
    await assertRefused(users.update(user as never), [
      { field: "user_id", description: "must be a string, not number" },
      { field: "email", description: surrogate },
      {
        field: "nickname",
        description:
          "is not a field; the fields are user_id, email, first_name, last_name, metadata, update_mask, etag, request_id, " +
          "allow_missing",
      },
      { field: "metadata.a", description: noNumber },
      { field: "metadata.b[0]", description: "is undefined; omit the key or set it to null" },
      { field: "update_mask[1]", description: "must be a string, not number" },
    ]);
  });

  it("arguments of the wrong type", async () => {
    await assertRefused(users.get(7 as never), [{ field: "user_id", description: "must be a string, not number" }]);
    await assertRefused(users.list(2 ** 31), [{ field: "limit", description: "must fit in 32 bits" }]);
    await assertRefused(users.list(1, 2 ** 53), [{ field: "cursor", description: "must fit in 53 bits" }]);
    await assertRefused(users.batchGet("ada"), [
      { field: "user_ids", description: "must be a list of strings, not string" },
    ]);
    await assertRefused(users.batchGet(["ada", {} as never]), [
      { field: "user_ids[1]", description: "must be a string, not an object of class Object" },
    ]);
    await assertRefused(users.delete("ada", { etag: 1 as never }), [
      { field: "etag", description: "must be a string, not number" },
    ]);
  });
});
