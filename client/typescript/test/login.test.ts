/** The example of a login service: checked by a strict compiler, and run against a service. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, it } from "node:test";
import { promisify } from "node:util";

import { type Session, SessionManager, UserManager } from "userservice";

import { PACKAGE, ROOT, Service } from "./harness/service.js";

const EXAMPLE = join(ROOT, "examples/login/login_sessions.mts");
// A folder inside the package, so that the name of the package resolves to the package itself.
const FOLDER = join(PACKAGE, ".build/login");

interface Logins {
  logIn(user_id: string, device: string): Promise<string>;
  current(cookie: string): Promise<Session | undefined>;
  devices(session: Session): Promise<unknown[]>;
  logOutEverywhereElse(session: Session): Promise<number>;
}

describe("the example of a login service", () => {
  it("is in README, has at most 30 lines, and creates, touches, lists and revokes sessions", async () => {
    const source = await readFile(EXAMPLE, "utf8");
    assert.ok(source.trimEnd().split("\n").length <= 30);
    assert.ok((await readFile(join(PACKAGE, "README.md"), "utf8")).includes(`\`\`\`typescript\n${source}\`\`\``));
    await mkdir(FOLDER, { recursive: true });
    await copyFile(EXAMPLE, join(FOLDER, "login_sessions.mts"));
    const compilerOptions = { strict: true, skipLibCheck: true, module: "nodenext", target: "es2022", types: ["node"] };
    await writeFile(join(FOLDER, "tsconfig.json"), JSON.stringify({ compilerOptions }));
    await promisify(execFile)(join(PACKAGE, "node_modules/.bin/tsc"), ["--project", FOLDER]);
    const { Logins: Made } = (await import(join(FOLDER, "login_sessions.mjs"))) as {
      Logins: new (users: UserManager, sessions: SessionManager) => Logins;
    };
    await using service = await Service.start();
    await using users = new UserManager(service.address);
    await using sessions = new SessionManager(service.address);
    const logins = new Made(users, sessions);
    await users.add({ user_id: "a;b=c&d \u00e9" });
    const cookies: string[] = [];
    for (const device of ["phone", "laptop", "tv"]) {
      cookies.push(await logins.logIn("a;b=c&d \u00e9", device));
    }
    const session = await logins.current(String(cookies[1]));
    assert.ok(session);
    assert.deepEqual([session.user_id, session.metadata], ["a;b=c&d \u00e9", { device: "laptop" }]);
    assert.deepEqual(await logins.devices(session), ["phone", "laptop", "tv"]);
    assert.equal(await logins.logOutEverywhereElse(session), 2);
    assert.deepEqual(await logins.devices(session), ["laptop"]);
    for (const cookie of [cookies[0], `${cookies[1]}x`, "", "user_id=%FF&session_id=%00", "user_id=x&session_id=a"]) {
      assert.equal(await logins.current(String(cookie)), undefined);
    }
    assert.ok(await logins.current(String(cookies[1])));
  });
});
