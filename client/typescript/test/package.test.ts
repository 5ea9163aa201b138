/** The exports of the package. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { describe, it } from "node:test";

import * as exported from "userservice";

import { PACKAGE, ROOT } from "./harness/service.js";

/** Returns the exports of the package, without the names that Node adds to a CommonJS module. */
const userservice = Object.fromEntries(
  Object.entries(exported).filter(([name]) => !["__esModule", "module.exports"].includes(name)),
);

describe("the package", () => {
  it("has the same classes for programs that import and that require it", () => {
    const required = createRequire(import.meta.url)("userservice") as Readonly<Record<string, unknown>>;
    assert.deepEqual(Object.keys(userservice).sort(), Object.keys(required).sort());
    for (const [name, value] of Object.entries(userservice)) {
      assert.equal(value, required[name], name);
    }
  });

  it("has the error classes of the Python client", async () => {
    const files = ["errors.py", "_error_base.py", "_error_classes.py"];
    const sources = await Promise.all(
      files.map((file) => readFile(join(ROOT, "client/python/userservice", file), "utf8")),
    );
    const python = [...sources.join("\n").matchAll(/^class (\w+Error)\(/gm)].map(([, name]) => name);
    // ManagerUnusableError concerns forks and several event loops, which Node.js does not have.
    const pythonOnly = ["ManagerUnusableError"];
    const names = python.filter((name) => !pythonOnly.includes(String(name))).sort();
    assert.deepEqual(
      Object.keys(userservice)
        .filter((name) => name.endsWith("Error"))
        .sort(),
      names,
    );
  });

  it("has the methods of the list of both languages", async () => {
    const list = JSON.parse(await readFile(join(ROOT, "client/method_names.json"), "utf8")) as Record<string, string[]>;
    const camelCase = (name: string): string => name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
    // Reads the declarations, because protected methods look like public methods at run time.
    const methodsOf = async (file: string): Promise<string[]> => {
      const declared = await readFile(join(PACKAGE, "dist", file), "utf8");
      return [...declared.matchAll(/^ {4}(?:static )?(\w+)(?:<[^(]*>)?\(/gm)].map(([, name]) => String(name));
    };
    const common = await methodsOf("manager.d.ts");
    for (const [manager, file] of [
      ["UserManager", "user_manager.d.ts"],
      ["SessionManager", "session_manager.d.ts"],
    ] as const) {
      const methods = new Set([...common, ...(await methodsOf(file))].filter((name) => name !== "constructor"));
      const listed = [...(list[manager] ?? []), ...(list["Manager"] ?? [])].map(camelCase);
      assert.deepEqual([...methods].sort(), listed.sort());
    }
  });

  it("exports what it documents", () => {
    assert.deepEqual(Object.keys(userservice).sort(), [
      "AuthenticationUnavailableError",
      "CredentialsInvalidError",
      "CredentialsMissingError",
      "DeadlineExceededError",
      "EtagMismatchError",
      "ImportIdReusedError",
      "ImportNotFoundError",
      "ImportOffsetGapError",
      "IndexNotReadyError",
      "InternalError",
      "InvalidArgumentError",
      "ManagerClosedError",
      "OverloadedError",
      "RateLimitedError",
      "ReaderStalledError",
      "RequestIdReusedError",
      "ScopeMissingError",
      "ServerShuttingDownError",
      "Session",
      "SessionAlreadyExistsError",
      "SessionLimitError",
      "SessionManager",
      "SessionNotFoundError",
      "SessionPage",
      "StoreChangedError",
      "StoreFullError",
      "StoreUnavailableError",
      "UnavailableError",
      "UpdateConflictError",
      "User",
      "UserAlreadyExistsError",
      "UserBatch",
      "UserManager",
      "UserNotFoundError",
      "UserPage",
      "UserServiceError",
      "WatchDisabledError",
      "WatchTokenExpiredError",
    ]);
  });
});
