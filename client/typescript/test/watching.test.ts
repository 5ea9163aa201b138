/** `watch` with lost connections, restarts of the service, and tokens that have expired. */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import {
  type Changes,
  InvalidArgumentError,
  SessionManager,
  UserManager,
  type WatchOptions,
  WatchTokenExpiredError,
} from "userservice";

import { Proxy } from "./harness/proxy.js";
import { runPython, Service } from "./harness/service.js";

describe("watch", () => {
  let service: Service;
  let manager: UserManager;
  const feed = async (command: string): Promise<string> =>
    await runPython("-m", "userservice", "feed", command, "--redis-url", service.storeUrl);
  before(async () => {
    service = await Service.start();
    manager = new UserManager(service.address);
    assert.equal(await feed("on"), "the feed is on\n");
  });
  after(async () => {
    await manager.close();
    await service[Symbol.asyncDispose]();
  });

  /** Returns the messages of a watch up to the first one for which the condition holds. */
  const watched = async (
    users: UserManager,
    options: WatchOptions,
    isLast: (message: Changes) => boolean | Promise<boolean>,
  ): Promise<Changes[]> => {
    const messages: Changes[] = [];
    for await (const message of users.watch({ heartbeatSeconds: 1, ...options })) {
      messages.push(message);
      if (await isLast(message)) {
        break;
      }
    }
    return messages;
  };
  const has = (message: Changes, user_id: string): boolean =>
    message.changes.some((change) => change.user_id === user_id);

  it("yields a snapshot and then changes, over lost connections and a restart of the service", async () => {
    await using proxy = await Proxy.start(service.address);
    await using users = new UserManager(proxy.address, { timeoutMs: 30_000 });
    await using sessions = new SessionManager(service.address);
    await manager.add({ user_id: "ada", email: "old" });
    await sessions.add({ user_id: "ada", session_id: "s" });
    let step = 0;
    const messages = await watched(users, { start: "snapshot", kinds: ["USERS", "SESSIONS"] }, async (message) => {
      if (message.snapshot_complete && step === 0) {
        step = 1;
        proxy.cut();
        await manager.update({ user_id: "ada", email: "new" });
      } else if (step === 1 && has(message, "ada")) {
        step = 2;
        await service.end("SIGKILL");
        await service.restart();
        await manager.delete("ada");
        await manager.add({ user_id: "last" });
      }
      return has(message, "last");
    });
    const changes = messages.flatMap((message) => message.changes);
    assert.deepEqual(
      changes.map(({ kind, user_id, session_id }) => [kind, user_id, session_id]),
      [
        ["USER_EXISTS", "ada", undefined],
        ["SESSION_EXISTS", "ada", "s"],
        ["USER_UPDATED", "ada", undefined],
        ["USER_DELETED", "ada", undefined],
        ["USER_ADDED", "last", undefined],
      ],
    );
    assert.deepEqual(
      [changes[2]?.user?.email, changes[3]?.user, changes[1]?.session?.session_id],
      ["new", undefined, "s"],
    );
    assert.ok((changes[3]?.revision ?? 0) > (changes[2]?.revision ?? 0));
  });

  it("starts again with a snapshot if the token has expired, or throws", async () => {
    const [first] = await watched(manager, {}, () => true);
    const resumeToken = first?.resume_token;
    await feed("off");
    await feed("on");
    await assert.rejects(
      watched(manager, { resumeToken }, () => true),
      WatchTokenExpiredError,
    );
    const [again] = await watched(manager, { resumeToken, onExpired: "snapshot" }, () => true);
    assert.ok(again?.restarted);
  });

  it("rejects options before a call", async () => {
    for (const [field, options] of [
      ["start", { start: "later" as never }],
      ["kinds[0]", { kinds: ["GROUPS" as never] }],
      ["onExpired", { onExpired: "ignore" as never }],
    ] as const) {
      await assert.rejects(
        watched(manager, options, () => true),
        (error) => error instanceof InvalidArgumentError && error.violations[0]?.field === field,
      );
    }
  });
});
