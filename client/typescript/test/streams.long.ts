/** `listChunked` with many users, lost connections, slow loops, and loops that end early. */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import {
  DeadlineExceededError,
  InvalidArgumentError,
  ManagerClosedError,
  UserManager,
  type UserScanPart,
} from "userservice";

import { Proxy } from "./harness/proxy.js";
import { type LogRecord, Service, until } from "./harness/service.js";

const USERS = 50_000;
const MIB = 2 ** 20;

/** Records which of the users user-0, user-1, … a loop has received; their ids have the order of their names. */
class Tally {
  readonly #seen = new Set<string>();
  #lastId = 0;

  add(users: Iterable<{ readonly user_id: string; readonly id: number }>): void {
    for (const { user_id, id } of users) {
      assert.ok(!this.#seen.has(user_id), `${user_id} came twice`);
      assert.ok(id > this.#lastId, `${user_id} came out of order`);
      this.#seen.add(user_id);
      this.#lastId = id;
    }
  }

  get size(): number {
    return this.#seen.size;
  }

  assertComplete(): void {
    assert.equal(this.#seen.size, USERS);
    for (let number = 0; number < USERS; number++) {
      assert.ok(this.#seen.has(`user-${number}`), `user-${number} never came`);
    }
  }
}

describe("listChunked over 50 000 users", () => {
  let service: Service;
  let manager: UserManager;
  before(async () => {
    service = await Service.start();
    // Set before the users are added, so that `after` closes the service even if adding fails.
    manager = new UserManager(service.address);
    await service.seed(USERS);
  });
  after(async () => {
    await manager.close();
    await service[Symbol.asyncDispose]();
  });

  const streamsCancelled = (): LogRecord[] =>
    service.log.filter(({ method, code }) => method === "ListUsersChunked" && code === "CANCELLED");
  /** Returns the number of logged streams; waits, because the service writes its log twenty times per second. */
  const streamsCancelledBefore = async (): Promise<number> => {
    await sleep(250);
    return streamsCancelled().length;
  };

  it("returns every user once, in order", async () => {
    const tally = new Tally();
    let cursor = -1;
    for await (const users of manager.listChunked(1000)) {
      tally.add(users);
      assert.equal(users.total_size, USERS);
      assert.ok(users.next_cursor === 0 || users.next_cursor >= (users.at(-1)?.id ?? 0));
      cursor = users.next_cursor;
    }
    tally.assertComplete();
    assert.equal(cursor, 0);
  });

  it("decodes metadata when it is read", async () => {
    let sum = 0;
    for await (const users of manager.listChunked(10_000)) {
      for (const user of users) {
        sum += user.metadata["number"] as number;
      }
    }
    assert.equal(sum, (USERS * (USERS - 1)) / 2);
  });

  it("resumes from the cursor of any chunk", async () => {
    const tally = new Tally();
    let cursor = 0;
    for await (const users of manager.listChunked(30_000)) {
      tally.add(users);
      cursor = users.next_cursor;
      break;
    }
    for await (const users of manager.listChunked(10_000, cursor)) {
      tally.add(users);
    }
    tally.assertComplete();
  });

  for (const signal of ["SIGKILL", "SIGTERM"] as const) {
    it(`returns every user once if the server gets ${signal} during the stream and restarts`, async () => {
      const tally = new Tally();
      let restarted: Promise<void> | undefined;
      for await (const users of manager.listChunked(1000, 0, { timeoutMs: 30_000 })) {
        tally.add(users);
        if (tally.size >= 20_000 && !restarted) {
          restarted = service.end(signal).then(() => service.restart());
        }
      }
      await restarted;
      tally.assertComplete();
    });
  }

  it("returns every user once if the connection is cut repeatedly", async () => {
    await using proxy = await Proxy.start(service.address);
    await using cutManager = new UserManager(proxy.address);
    const tally = new Tally();
    let cuts = 0;
    for await (const users of cutManager.listChunked(1000)) {
      tally.add(users);
      if (tally.size > cuts * 15_000) {
        proxy.cut();
        cuts += 1;
      }
    }
    tally.assertComplete();
    assert.ok(proxy.connections > 3, `${proxy.connections} connections`);
  });

  it("returns every user of parallel parts once, across cuts and readers that keep only the remaining parts", async () => {
    await using proxy = await Proxy.start(service.address);
    const seen = new Set<string>();
    let [total, cuts, chunks] = [0, 0, 0];
    let kept = JSON.stringify(await manager.planUserScan(12));
    for (let reading = true; reading;) {
      await using cutManager = new UserManager(proxy.address);
      const parts = JSON.parse(kept) as UserScanPart[];
      reading = false;
      for await (const users of cutManager.listChunked(500, 0, { parallel: 5, parts })) {
        assert.ok(users.part && users.every(({ id }) => id <= (users.part?.end_cursor ?? 0)));
        users.forEach(({ user_id }) => seen.add(user_id));
        total += users.length;
        kept = JSON.stringify(users.remaining);
        if (total > (cuts + 1) * 9_000) {
          proxy.cut();
          cuts += 1;
        }
        chunks += 1;
        if (chunks % 40 === 0) {
          reading = true;
          break;
        }
      }
    }
    assert.deepEqual([total, seen.size, kept, cuts > 3], [USERS, USERS, "[]", true]);
  });

  it("cancels the streams of all parts when the loop is left", async () => {
    const before = await streamsCancelledBefore();
    const parts = new Set<number | undefined>();
    for await (const users of manager.listChunked(100, 0, { parallel: 4 })) {
      parts.add(users.part?.end_cursor);
      if (parts.size === 4) {
        break;
      }
    }
    await until(() => streamsCancelled().length === before + 4, "the service sees the streams cancelled");
  });

  it("reads the status of complete streams, so that the service does not log them as cancelled", async () => {
    const streams = 60;
    let cursor = 0;
    for await (const users of manager.listChunked(10_000)) {
      cursor = users.next_cursor || cursor; // the cursor of the last chunk but one, because that of the last chunk is 0
    }
    const before = await streamsCancelledBefore();
    const succeeded = (): number =>
      service.log.filter(({ method, code }) => method === "ListUsersChunked" && code === "OK").length;
    const okBefore = succeeded();
    for (let stream = 0; stream < streams; stream++) {
      for await (const users of manager.listChunked(10_000, cursor)) {
        assert.ok(users.length > 0);
      }
    }
    await until(
      () => succeeded() - okBefore + streamsCancelled().length - before === streams,
      "all streams are logged",
    );
    assert.equal(streamsCancelled().length, before);
  });

  it("cancels the RPC on the server when the loop is left", async () => {
    const before = await streamsCancelledBefore();
    for await (const users of manager.listChunked(100)) {
      assert.equal(users.length, 100);
      break;
    }
    await until(() => streamsCancelled().length === before + 1, "the service sees the stream cancelled");
  });

  it("cancels the RPC when the loop's body throws", async () => {
    const before = await streamsCancelledBefore();
    const loop = async (): Promise<void> => {
      for await (const users of manager.listChunked(100)) {
        throw new Error(`enough of ${users.length}`);
      }
    };
    await assert.rejects(loop(), /enough of 100/);
    await until(() => streamsCancelled().length === before + 1, "the service sees the stream cancelled");
  });

  it("ends with the reason of an aborted signal, and cancels the RPC while the loop is still busy", async () => {
    const before = await streamsCancelledBefore();
    const controller = new AbortController();
    const reason = new Error("no longer wanted");
    let chunks = 0;
    const loop = async (): Promise<void> => {
      for await (const users of manager.listChunked(100, 0, { signal: controller.signal })) {
        chunks += users.length / 100;
        controller.abort(reason);
        await until(() => streamsCancelled().length === before + 1, "the service sees the stream cancelled");
      }
    };
    await assert.rejects(loop(), reason);
    assert.equal(chunks, 1);
  });

  it("does not start with a signal that is already aborted", async () => {
    const users = manager.listChunked(100, 0, { signal: AbortSignal.abort() });
    await assert.rejects(users.next(), { name: "AbortError" });
  });

  it("ends with ManagerClosedError when the manager is closed", async () => {
    const closing = new UserManager(service.address);
    const users = closing.listChunked(100);
    await users.next();
    await closing.close();
    await assert.rejects(async () => {
      for await (const chunk of users) {
        assert.ok(chunk.length);
      }
    }, ManagerClosedError);
  });

  it("does not buffer all users for a slow loop, and does not delay other calls", async () => {
    await using proxy = await Proxy.start(service.address);
    await using slowManager = new UserManager(proxy.address);
    const users = slowManager.listChunked(1000);
    const tally = new Tally();
    for (let chunk = 0; chunk < 3; chunk++) {
      tally.add((await users.next()).value ?? []);
    }
    await sleep(500);
    // All users take about 20 MiB. One chunk ahead takes 0.25 MiB, a flow-control window 1 MiB, and kernels buffer more.
    const { received } = proxy;
    assert.ok(received < 5 * MIB, `${received} bytes for a loop that took 3 chunks`);
    assert.equal((await slowManager.get("user-77")).user_id, "user-77");
    await sleep(200);
    assert.ok(proxy.received - received < 64 * 1024, `${proxy.received - received} bytes more while nobody read`);
    for await (const chunk of users) {
      tally.add(chunk);
    }
    tally.assertComplete();
    assert.ok(proxy.received > 10 * MIB);
  });

  it("applies the timeout to each chunk, and not to the loop", async () => {
    await using proxy = await Proxy.start(service.address);
    await using frozenManager = new UserManager(proxy.address);
    const users = frozenManager.listChunked(100, 0, { timeoutMs: 300 });
    await users.next();
    await sleep(400);
    await users.next();
    proxy.freeze();
    await assert.rejects(async () => {
      for await (const chunk of users) {
        assert.ok(chunk.length);
      }
    }, DeadlineExceededError);
  });

  it("rejects sizes and cursors that are not integers, and names the field", async () => {
    const violations = [
      { field: "chunk_size", description: "must be a whole number, not 1.5" },
      { field: "cursor", description: "must be a whole number, not string" },
    ];
    const users = manager.listChunked(1.5, "1" as never);
    await assert.rejects(users.next(), (error: unknown) => {
      assert.ok(error instanceof InvalidArgumentError);
      assert.deepEqual(error.violations, violations);
      return true;
    });
  });
});
