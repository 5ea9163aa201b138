/** `importUsers` with lost connections, restarts of the service, and rows that are invalid in the client. */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { promisify } from "node:util";

import { create, fromBinary, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { Server, ServerCredentials, type ServerDuplexStream } from "@grpc/grpc-js";
import {
  DeadlineExceededError,
  type ImportRow,
  type ImportStatus,
  ImportOffsetGapError,
  InvalidArgumentError,
  type User,
  UserManager,
} from "userservice";

import { ImportUsersRequestSchema, ImportUsersResponseSchema } from "../dist/gen/userservice/v1/user_import_pb.js";
import { Proxy } from "./harness/proxy.js";
import { Service } from "./harness/service.js";

const ROWS = 6000;

function* rows(prefix: string, count = ROWS): Generator<ImportRow> {
  for (let number = 0; number < count; number++) {
    yield { user_id: number % 100 === 50 ? "" : `${prefix}${number}`, metadata: { number } };
  }
}

describe("importUsers", () => {
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

  const all = async (): Promise<User[]> => {
    const users: User[] = [];
    for await (const chunk of manager.listChunked(1000)) {
      users.push(...chunk);
    }
    return users;
  };
  it("applies each row once, over lost connections and a restart of the service", async () => {
    await using proxy = await Proxy.start(service.address);
    await using users = new UserManager(proxy.address, { timeoutMs: 30_000 });
    let restarted = false as boolean;
    let cuts = 0;
    const status = await users.importUsers(rows("once"), {
      onProgress: async ({ offset }) => {
        if (offset > ROWS / 2 && !restarted) {
          restarted = true;
          await service.end("SIGKILL");
          await service.restart();
        } else if (cuts < 3) {
          cuts += 1;
          proxy.cut();
        }
      },
    });
    assert.deepEqual([status.offset, status.added, status.failed], [ROWS, ROWS * 0.99, ROWS / 100]);
    assert.deepEqual(
      status.row_errors.map(({ index }) => index),
      Array.from({ length: ROWS / 100 }, (_, number) => number * 100 + 50),
    );
    assert.ok(restarted && cuts === 3);
    const users_by_id = new Map((await all()).map((user) => [user.user_id, user.metadata["number"]]));
    assert.equal(users_by_id.size, ROWS * 0.99);
    assert.equal(users_by_id.get("once5999"), 5999);
  });

  it("is continued by another manager", async () => {
    const interrupted = new Error("interrupted");
    const first = manager.importUsers(rows("again"), {
      importId: "0f8fad5b-d9cb-469f-a165-70867728950e",
      onProgress: ({ offset }) => {
        if (offset >= 2000) {
          throw interrupted;
        }
      },
    });
    await assert.rejects(first, interrupted);
    await using other = new UserManager(service.address);
    const { offset } = await other.getImport("0f8fad5b-d9cb-469f-a165-70867728950e");
    assert.ok(offset >= 2000 && offset <= 4000, `${offset}`);
    const status = await other.importUsers(rows("again"), { importId: "0f8fad5b-d9cb-469f-a165-70867728950e" });
    assert.deepEqual([status.offset, status.added, status.row_errors.length], [ROWS, ROWS * 0.99, ROWS / 100]);
    const gap = other.importUsers([], { importId: "0f8fad5b-d9cb-469f-a165-70867728950e", offset: ROWS + 1 });
    await assert.rejects(gap, ImportOffsetGapError);
  });

  it("reports rows that are invalid in the client, and reads asynchronous rows", async () => {
    const reported: ImportStatus[] = [];
    const unread = new InvalidArgumentError("line 2 is not JSON");
    async function* source(): AsyncGenerator<ImportRow> {
      yield { user_id: "a" };
      await Promise.resolve();
      yield unread;
      yield { user_id: "b", metadata: { n: NaN } };
      yield { user_id: "c", metadata: { k: "x".repeat(2 ** 20) } };
    }
    const status = await manager.importUsers(source(), { onProgress: (one) => void reported.push(one) });
    assert.deepEqual([status.added, status.failed], [1, 3]);
    assert.deepEqual(
      status.row_errors.map(({ index }) => index),
      [1, 2, 3],
    );
    assert.equal(status.row_errors[0]?.error, unread);
    assert.deepEqual(
      reported.map(({ offset, row_errors }) => [offset, row_errors.length]),
      [
        [0, 0],
        [4, 3],
      ],
    );
    await assert.rejects(manager.importUsers([7 as unknown as ImportRow]), TypeError);
  });

  it("restores users with all fields", async () => {
    const exported = (await all()).slice(0, 20);
    await using target = await Service.start();
    await using users = new UserManager(target.address);
    const status = await users.importUsers(exported, { restore: true });
    assert.equal(status.added, exported.length);
    const page = await users.list(1000);
    assert.deepEqual(
      page.map((user) => user.toJSON()),
      exported.map((user) => user.toJSON()),
    );
  });
});

/** A server of ImportUsers that responds to the first requests with these offsets, and then to no further request. */
class Responder implements AsyncDisposable {
  /** The offsets of the batches so far. */
  readonly batches: number[] = [];
  readonly #server = new Server();
  #port = 0;

  static async start(offsets: readonly number[]): Promise<Responder> {
    const responder = new Responder();
    const left = [...offsets];
    const method = {
      path: "/userservice.v1.UserService/ImportUsers",
      requestStream: true,
      responseStream: true,
      requestSerialize: (message: Buffer) => message,
      requestDeserialize: (message: Buffer) => fromBinary(ImportUsersRequestSchema, message),
      responseSerialize: (offset: number) =>
        Buffer.from(
          toBinary(ImportUsersResponseSchema, create(ImportUsersResponseSchema, { ackedOffset: BigInt(offset) })),
        ),
      responseDeserialize: (message: Buffer) => message,
    };
    const handle = (call: ServerDuplexStream<MessageShape<typeof ImportUsersRequestSchema>, number>): void => {
      call.on("data", ({ content }: MessageShape<typeof ImportUsersRequestSchema>) => {
        if (content.case === "batch") {
          responder.batches.push(Number(content.value.offset));
        }
        const offset = left.shift();
        if (offset !== undefined) {
          call.write(offset);
        }
      });
      call.on("error", () => undefined);
    };
    responder.#server.addService({ ImportUsers: method }, { ImportUsers: handle });
    responder.#port = await promisify(responder.#server.bindAsync.bind(responder.#server))(
      "127.0.0.1:0",
      ServerCredentials.createInsecure(),
    );
    return responder;
  }

  get address(): string {
    return `127.0.0.1:${this.#port}`;
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#server.forceShutdown();
    return Promise.resolve();
  }
}

describe("the window of an import", () => {
  it("has at most 4 batches without a response", async () => {
    await using server = await Responder.start([0]);
    await using users = new UserManager(server.address, { timeoutMs: 500 });
    await assert.rejects(users.importUsers(rows("window")), DeadlineExceededError);
    assert.deepEqual(server.batches, [0, 500, 1000, 1500]);
  });

  it("does not continue an import whose applied rows were lost", async () => {
    await using server = await Responder.start([0, 500, 200]);
    await using users = new UserManager(server.address, { timeoutMs: 5000 });
    const reported: number[] = [];
    const lost = users.importUsers(rows("lost"), { onProgress: ({ offset }) => void reported.push(offset) });
    await assert.rejects(
      lost,
      (error: unknown) => error instanceof ImportOffsetGapError && error.message.includes("row 200"),
    );
    assert.deepEqual(reported, [0, 500]);
  });
});
