/** The hook `onCall`, and the spans that the adapter for OpenTelemetry creates. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import { describe, it } from "node:test";

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { SpanKind, SpanStatusCode } from "@opentelemetry/api";
import { InMemorySpanExporter, NodeTracerProvider, SimpleSpanProcessor } from "@opentelemetry/sdk-trace-node";
import { type CallAttempt, type OnCall, UserManager, UserNotFoundError } from "userservice";
import { traceCalls } from "userservice/opentelemetry";

import {
  BatchGetUsersRequestSchema,
  BatchGetUsersResponseSchema,
  GetUserRequestSchema,
  GetUserResponseSchema,
  ListUsersChunkedResponseSchema,
} from "../dist/gen/userservice/v1/user_service_pb.js";
import { until } from "./harness/service.js";
import { type Received, StandIn } from "./harness/stand_in.js";

const GET = "userservice.v1.UserService/GetUser";
const STREAM = "userservice.v1.UserService/ListUsersChunked";

const exporter = new InMemorySpanExporter();
const provider = new NodeTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] });
provider.register(); // also the propagator and the context manager
const tracer = provider.getTracer("test");

/** Returns users, NOT_FOUND for the user_id `missing`, and UNAVAILABLE for `flaky` in the first call. */
function answer({ method, request, send, end, fail }: Received, number: number): void {
  if (method === "ListUsersChunked") {
    for (const id of [1n, 2n]) {
      const chunk = { users: [{ userId: `u${id}`, id }], nextCursor: id === 1n ? 1n : 0n, totalSize: 2n };
      send(toBinary(ListUsersChunkedResponseSchema, create(ListUsersChunkedResponseSchema, chunk)));
    }
    end();
    return;
  }
  if (method === "BatchGetUsers") {
    const { userIds } = fromBinary(BatchGetUsersRequestSchema, request);
    const users = userIds.map((userId, index) => ({ userId, id: BigInt(index + 1) }));
    send(toBinary(BatchGetUsersResponseSchema, create(BatchGetUsersResponseSchema, { users })));
    end();
    return;
  }
  const { userId } = fromBinary(GetUserRequestSchema, request);
  if (userId === "missing") {
    fail({ code: "NOT_FOUND", reason: "USER_NOT_FOUND" });
  } else if (userId === "flaky" && number === 1) {
    fail({ code: "UNAVAILABLE", reason: "STORE_UNAVAILABLE" });
  } else {
    send(toBinary(GetUserResponseSchema, create(GetUserResponseSchema, { user: { userId, id: 1n } })));
    end();
  }
}

function hook(): { onCall: OnCall; ended: [string, string][]; attempts: CallAttempt[]; times: number[] } {
  const ended: [string, string][] = [];
  const attempts: CallAttempt[] = [];
  const times: number[] = [];
  const onCall: OnCall = (attempt) => {
    attempts.push(attempt);
    attempt.headers["x-request-id"] = "from-the-hook";
    return (code, durationMs) => {
      ended.push([attempt.method, code]);
      times.push(durationMs);
    };
  };
  return { onCall, ended, attempts, times };
}

describe("the hook onCall", () => {
  it("observes each attempt, and adds headers", async () => {
    await using server = await StandIn.start(answer);
    const { onCall, ended, attempts, times } = hook();
    await using users = new UserManager(server.address, { onCall });
    await users.get("flaky");
    await assert.rejects(users.get("missing"), UserNotFoundError);
    assert.deepEqual(ended, [
      [GET, "UNAVAILABLE"],
      [GET, "OK"],
      [GET, "NOT_FOUND"],
    ]);
    assert.ok(times.every((time) => time > 0 && time < 10_000));
    assert.equal(attempts[0]?.address, server.address);
    for (const { metadata } of server.received) {
      assert.deepEqual(metadata.get("x-request-id"), ["from-the-hook"]);
    }
  });

  it("observes a stream until its end, also if it is abandoned", async () => {
    await using server = await StandIn.start(answer);
    const { onCall, ended } = hook();
    await using users = new UserManager(server.address, { onCall });
    let chunks = 0;
    for await (const chunk of users.listChunked(1)) {
      chunks += chunk.length;
    }
    assert.equal(chunks, 2);
    assert.deepEqual(ended, [[STREAM, "OK"]]);
    for await (const chunk of users.listChunked(1)) {
      assert.equal(chunk.length, 1);
      break;
    }
    await until(() => ended.length === 2, "the end of the stream");
    assert.deepEqual(ended[1], [STREAM, "CANCELLED"]);
  });

  it("must be a function", () => {
    assert.throws(() => new UserManager("localhost", { onCall: "hook" as unknown as OnCall }), TypeError);
  });
});

describe("the adapter for OpenTelemetry", () => {
  it("creates a client span for each attempt and sends its context", async () => {
    await using server = await StandIn.start(answer);
    await using users = new UserManager(server.address, { onCall: traceCalls() });
    exporter.reset();
    await tracer.startActiveSpan("work", async (span) => {
      await users.get("flaky");
      await assert.rejects(users.get("missing"), UserNotFoundError);
      span.end();
    });
    const spans = exporter.getFinishedSpans();
    const parent = spans.find(({ name }) => name === "work")?.spanContext();
    const calls = spans.filter(({ name }) => name === GET);
    const [host, port] = server.address.split(":");
    assert.deepEqual(
      calls.map(({ kind, attributes, status }) => [kind, attributes["rpc.status_code"], status.code]),
      [
        [SpanKind.CLIENT, "UNAVAILABLE", SpanStatusCode.ERROR],
        [SpanKind.CLIENT, "OK", SpanStatusCode.UNSET],
        [SpanKind.CLIENT, "NOT_FOUND", SpanStatusCode.UNSET],
      ],
    );
    for (const [index, span] of calls.entries()) {
      assert.equal(span.parentSpanContext?.spanId, parent?.spanId);
      const { traceId, spanId } = span.spanContext();
      assert.deepEqual(server.received[index]?.metadata.get("traceparent"), [`00-${traceId}-${spanId}-01`]);
      assert.equal(span.attributes["rpc.system.name"], "grpc");
      assert.equal(span.attributes["rpc.method"], GET);
      assert.equal(span.attributes["server.address"], host);
      assert.equal(span.attributes["server.port"], Number(port));
    }
  });

  it("assigns a shared call to the trace of one of its gets", async () => {
    await using server = await StandIn.start(answer);
    await using users = new UserManager(server.address, { onCall: traceCalls(), shareReads: true });
    exporter.reset();
    const get = (user_id: string): Promise<unknown> =>
      tracer.startActiveSpan("work", async (span) => {
        await users.get(user_id);
        span.end();
      });
    await Promise.all(Array.from({ length: 250 }, (_, number) => get(`u${number}`)));
    const spans = exporter.getFinishedSpans();
    const works = new Map(spans.map((span) => [span.spanContext().spanId, span]));
    const calls = spans.filter(({ name }) => name !== "work");
    assert.ok(calls.length > 1);
    for (const call of calls) {
      const work = works.get(call.parentSpanContext?.spanId ?? "");
      // Compares the order of the list and not the times, because each span measures its times from its own start.
      assert.ok(work !== undefined && spans.indexOf(work) > spans.indexOf(call));
    }
  });

  it("is loaded only by programs that import it, in both module systems", () => {
    const required = createRequire(import.meta.url)("userservice/opentelemetry") as { traceCalls: unknown };
    assert.equal(required.traceCalls, traceCalls);
    const program = 'require("userservice"); console.log(Object.keys(require.cache).join("\\n"))';
    const loaded = execFileSync(process.execPath, ["-e", program], { encoding: "utf8" });
    assert.match(loaded, /grpc-js/);
    assert.doesNotMatch(loaded, /opentelemetry/);
  });
});
