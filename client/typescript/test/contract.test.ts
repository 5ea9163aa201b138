/** Runs every case of tests/contract/cases/*.json with the TypeScript client. */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { setTimeout } from "node:timers/promises";
import { inspect } from "node:util";

import {
  type ImportRow,
  type ImportStatus,
  InvalidArgumentError,
  type OnDuplicate,
  type OrderBy,
  type Session,
  SessionManager,
  type SessionPage,
  type User,
  UserManager,
  type UserPage,
  type UserScanPart,
  UserServiceError,
  type View,
} from "userservice";

import { loadCases, match, matchError, Scope, type Step } from "./harness/case_language.js";
import { Service } from "./harness/service.js";

/** The arguments of a call. Many cases contain invalid arguments on purpose. */
interface Args {
  user_id: string;
  session_id: string;
  etag?: string;
  request_id?: string;
  limit?: number;
  cursor?: number;
  chunk_size?: number;
  parts?: UserScanPart[] & number;
  parallel?: number;
  user_ids: string[];
  emails: string[];
  view?: View;
  order_by?: OrderBy;
  filter?: string;
  rows: ImportRow[];
  import_id: string;
  on_duplicate?: OnDuplicate;
  validate_only?: boolean;
  restore?: boolean;
  digest?: string;
  include_expired?: boolean;
  except_session_id?: string;
  start?: "now" | "snapshot";
  resume_token?: string;
  heartbeat?: number;
}

/** Formats a time in ISO 8601 with microseconds, as in the cases. */
function isoTime(time: Date, microseconds: number): string {
  return time.toISOString().replace("Z", `${String(microseconds % 1000).padStart(3, "0")}+00:00`);
}

const TIMES = ["created_at", "updated_at", "max_expire_time", "expire_time", "last_seen_at"] as const;

function readRecord(record: User | Session): object {
  const fields = { ...record.toJSON() } as Record<string, unknown>;
  for (const name of TIMES) {
    const [time, microseconds] = [fields[name], fields[`${name}_us`]];
    if (time instanceof Date && typeof microseconds === "number") {
      assert.equal(Math.floor(microseconds / 1e3), time.getTime());
      fields[name] = isoTime(time, microseconds);
    }
  }
  return Object.fromEntries(Object.entries(fields).filter(([name]) => !name.endsWith("_us")));
}

function readUsers(page: UserPage): { users: object[]; next_cursor: number; total_size: number } {
  const { next_cursor, total_size } = page;
  return { users: page.map(readRecord), next_cursor, total_size };
}

function readSessions(page: SessionPage): object {
  const { next_cursor, total_size } = page;
  return { sessions: page.map(readRecord), next_cursor, total_size };
}

function readStatus({ row_errors, ...status }: ImportStatus): object {
  const errors = row_errors.map(({ index, error }) => ({
    index,
    class: error.constructor.name,
    code: error.code,
    reason: error.reason,
    fields:
      error instanceof InvalidArgumentError ? error.violations.map(({ field }) => field.replace(/[.[].*/, "")) : [],
  }));
  return { ...status, row_errors: errors };
}

/** The calls of the cases, on the managers. */
class Driver {
  readonly users: UserManager;
  readonly sessions: SessionManager;

  constructor(address: string) {
    this.users = new UserManager(address);
    this.sessions = new SessionManager(address);
  }

  readonly calls: Readonly<Record<string, (args: Args) => Promise<unknown>>> = {
    "users.add": async (args) => readRecord(await this.users.add(args)),
    "users.get": async (args) => readRecord(await this.users.get(args.user_id, { view: args.view })),
    "users.update": async (args) => readRecord(await this.users.update(args)),
    "users.delete": async ({ user_id, etag, request_id: requestId, ...others }) => {
      assert.deepEqual(others, {});
      await this.users.delete(user_id, { etag, requestId });
      return {};
    },
    "users.list": async ({ limit, cursor, view, order_by: orderBy, filter }) =>
      readUsers(await this.users.list(limit, cursor, { view, orderBy, filter })),
    "users.plan_user_scan": async ({ parts }) => ({ parts: await this.users.planUserScan(parts) }),
    "users.list_chunked": async ({ chunk_size, cursor, view, filter, parts, parallel }) => {
      const chunks = [];
      for await (const chunk of this.users.listChunked(chunk_size, cursor, { view, filter, parts, parallel })) {
        chunks.push(readUsers(chunk));
      }
      return { chunks, users: chunks.flatMap(({ users }) => users) };
    },
    "users.count": async ({ filter }) => ({ count: await this.users.count(filter) }),
    "users.find": async ({ emails, limit, cursor, view }) =>
      readUsers(await this.users.find(emails, limit, cursor, { view })),
    "users.batch_get": async ({ user_ids, view }) => {
      const batch = await this.users.batchGet(user_ids, { view });
      return { users: batch.map(readRecord), missing_user_ids: batch.missing_user_ids };
    },
    "users.import": async (args) => {
      const {
        rows,
        import_id: importId,
        on_duplicate: onDuplicate,
        validate_only: validateOnly,
        restore,
        digest,
      } = args;
      return readStatus(await this.users.importUsers(rows, { importId, onDuplicate, validateOnly, restore, digest }));
    },
    "users.get_import": async ({ import_id }) => readStatus(await this.users.getImport(import_id)),
    "users.watch": async ({ start, resume_token: resumeToken, heartbeat: heartbeatSeconds }) => {
      for await (const { changes } of this.users.watch({ start, resumeToken, heartbeatSeconds })) {
        return { kinds: changes.map(({ kind }) => kind) };
      }
      return undefined;
    },
    "users.get_sessions": async ({ user_id, view, include_expired: includeExpired }) => ({
      sessions: (await this.users.getSessions(user_id, { view, includeExpired })).map(readRecord),
    }),
    "users.list_sessions": async ({ user_id, limit, cursor, view, include_expired: includeExpired }) =>
      readSessions(await this.sessions.list(user_id, limit, cursor, { view, includeExpired })),
    "sessions.add": async (args) => readRecord(await this.sessions.add(args)),
    "sessions.get": async (args) =>
      readRecord(await this.sessions.get(args.user_id, args.session_id, { view: args.view })),
    "sessions.update": async (args) => readRecord(await this.sessions.update(args)),
    "sessions.delete": async ({ user_id, session_id, etag, request_id: requestId, ...others }) => {
      assert.deepEqual(others, {});
      await this.sessions.delete(user_id, session_id, { etag, requestId });
      return {};
    },
    "sessions.touch": async ({ user_id, session_id, request_id: requestId }) =>
      readRecord(await this.sessions.touch(user_id, session_id, { requestId })),
    "sessions.revoke": async ({ user_id, except_session_id: exceptSessionId, request_id: requestId }) => ({
      revoked_count: await this.sessions.revoke(user_id, { exceptSessionId, requestId }),
    }),
    wait: async (args) => {
      await setTimeout((args as unknown as { seconds: number }).seconds * 1e3);
    },
  };

  async call(name: string, args: unknown): Promise<unknown> {
    const method = this.calls[name];
    assert.ok(method, `the case calls ${name}, which nobody knows`);
    return await method(args as Args);
  }

  async empty(): Promise<void> {
    for await (const users of this.users.listChunked(1000)) {
      await Promise.all(users.map((user) => this.users.delete(user.user_id)));
    }
  }

  async close(): Promise<void> {
    await Promise.all([this.users.close(), this.sessions.close()]);
  }
}

async function take(step: Step, driver: Driver, scope: Scope): Promise<void> {
  const args = scope.evaluate(step.args ?? {});
  if (step.error !== undefined) {
    const error = await driver.call(step.call, args).catch((thrown: unknown) => thrown);
    assert.ok(error instanceof UserServiceError, `expected an error, got ${String(error)}`);
    const violations = error instanceof InvalidArgumentError ? error.violations : [];
    const { code, reason } = error;
    matchError(scope.evaluate(step.error), { class: error.constructor.name, code, reason, violations });
    return;
  }
  const answer = await driver.call(step.call, args);
  if (step.result !== undefined) {
    match(scope.evaluate(step.result), answer);
  }
  if (step.save !== undefined) {
    scope.saved.set(step.save, answer);
  }
}

describe("contract cases", () => {
  let service: Service;
  let driver: Driver;
  before(async () => {
    service = await Service.start();
    driver = new Driver(service.address);
  });
  after(async () => {
    await driver.close();
    await service[Symbol.asyncDispose]();
  });

  for (const { file, name, steps, only } of loadCases()) {
    if (only && !["typescript", "managers"].some((driver) => only.drivers.includes(driver))) {
      continue;
    }
    it(`${file}: ${name}`, async () => {
      await driver.empty();
      const scope = new Scope();
      for (const [number, step] of steps.entries()) {
        for (const each of step.each === undefined ? [undefined] : (scope.evaluate(step.each) as unknown[])) {
          scope.saved.set("each", each);
          try {
            await take(step, driver, scope);
          } catch (error) {
            const value = each === undefined ? "" : ` with ${inspect(each).slice(0, 80)}`;
            throw new Error(`step ${number + 1}, ${step.call}${value}`, { cause: error });
          }
        }
      }
    });
  }
});
