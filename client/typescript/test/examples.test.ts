/** The TypeScript examples of docs/users-api.md, taken from the file, checked by a strict compiler, and run. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, beforeEach, describe, it } from "node:test";
import { promisify } from "node:util";

import {
  type ImportStatus,
  SessionManager,
  type User,
  UserManager,
  UserNotFoundError,
  type UserPage,
} from "userservice";

import { PACKAGE, ROOT, Service } from "./harness/service.js";

const run = promisify(execFile);
const DOCUMENT = join(ROOT, "docs/users-api.md");
// A folder inside the package, so that the name of the package resolves to the package itself.
const FOLDER = join(PACKAGE, ".build/examples");

const OPENING = /^```(?<language>\w+) title="(?<title>[^"]+)"$/;
const CLOSING = "```";

/** Returns the examples of one language by title. */
function extract(document: string, language: string): Map<string, string> {
  const examples = new Map<string, string>();
  let open: { language?: string; title?: string; body: string[] } | undefined;
  for (const line of document.split("\n")) {
    if (!open) {
      const groups = OPENING.exec(line)?.groups;
      open = groups && { ...groups, body: [] };
    } else if (line === CLOSING) {
      if (open.language === language) {
        examples.set(open.title ?? "", open.body.join("\n"));
      }
      open = undefined;
    } else {
      open.body.push(line);
    }
  }
  assert.equal(open, undefined, "a fence is never closed");
  return examples;
}

/** Surrounds an example with the variables that it uses, and returns the variables that it defines. */
function moduleOf(example: string): string {
  const names = [...example.matchAll(/^(?:const|let) (\w+)/gm)].map(([, name]) => name);
  return `import type { ICreateUserRequest, IUpdateUserRequest, User, UserManager, UserScanPart } from "userservice";

declare const unused: [ICreateUserRequest, IUpdateUserRequest, User, UserScanPart];
export type Unused = typeof unused;

export async function run(userManager: UserManager, process: (users: User[]) => void): Promise<object> {
void process;
${example}
return { ${names.join(", ")} };
}
`;
}

type Made = Readonly<Record<string, unknown>>;

/** For each example, the data in the store before it, and the check of its effect. */
const CHECKS: Readonly<
  Record<string, { addsUser?: boolean; others?: number; check: (made: Made, around: Around) => Promise<void> }>
> = {
  "Add a User": {
    addsUser: true,
    check: async ({ newUser }, { users }) => {
      assert.deepEqual((newUser as User).metadata, { foo: "bar" });
      assert.deepEqual(await users.get("user123"), newUser);
    },
  },
  "Get a User": {
    check: async ({ user }, { users }) => {
      assert.deepEqual((user as User).metadata, { foo: "bar", kept: 1 });
      assert.deepEqual(await users.get("user123"), user);
    },
  },
  "Update a User": {
    check: async ({ updatedUser }, { users }) => {
      assert.deepEqual((updatedUser as User).metadata, { foo: "baz", kept: 1 });
      assert.deepEqual(await users.get("user123"), updatedUser);
    },
  },
  "Delete a User": {
    check: async (_, { users }) => {
      await assert.rejects(users.get("user123"), UserNotFoundError);
    },
  },
  "List Users": {
    check: ({ users }) => {
      const page = users as UserPage;
      const others = Array.from({ length: 9 }, (_, number) => `other${number}`);
      assert.deepEqual(
        page.map(({ user_id }) => user_id),
        ["user123", ...others],
      );
      assert.equal(page.next_cursor, page.at(-1)?.id);
      return Promise.resolve();
    },
  },
  "Filter and Count Users": {
    check: ({ users, number }) => {
      assert.deepEqual(
        (users as UserPage).map(({ user_id }) => user_id),
        ["user123"],
      );
      assert.equal(number, 1);
      return Promise.resolve();
    },
  },
  "Find Users": {
    check: ({ users }) => {
      assert.deepEqual([...(users as UserPage)], []);
      return Promise.resolve();
    },
  },
  "Get User's Sessions": {
    check: ({ sessions }) => {
      const names = (sessions as { session_id: string }[]).map(({ session_id }) => session_id);
      assert.deepEqual(names, ["phone", "laptop"]);
      return Promise.resolve();
    },
  },
  "Import Users": {
    check: async ({ status }, { users }) => {
      const { offset, added, failed, row_errors } = status as ImportStatus;
      assert.deepEqual({ offset, added, failed, row_errors }, { offset: 2000, added: 2000, failed: 0, row_errors: [] });
      assert.deepEqual((await users.get("row1999")).metadata, { number: 1999 });
    },
  },
  "List Users in Chunks": {
    others: 150,
    check: (_, { processed }) => {
      assert.deepEqual(
        processed.map((users) => users.length),
        [100, 51],
      );
      assert.equal(new Set(processed.flat().map(({ user_id }) => user_id)).size, 151);
      return Promise.resolve();
    },
  },
  "List Users in Parts": {
    others: 150,
    check: ({ parts }, { processed }) => {
      const names = processed.flat().map(({ user_id }) => user_id);
      assert.deepEqual([names.length, new Set(names).size, parts], [151, 151, []]);
      return Promise.resolve();
    },
  },
  "Iterate over Users": {
    others: 3,
    check: ({ user_ids }) => {
      assert.deepEqual(user_ids, ["user123", "other0", "other1", "other2"]);
      return Promise.resolve();
    },
  },
  "Set Options of Calls": {
    check: ({ user }) => {
      assert.deepEqual((user as User).metadata, { foo: "bar", kept: 1 });
      return Promise.resolve();
    },
  },
};

interface Around {
  readonly users: UserManager;
  readonly processed: readonly User[][];
}

describe("the examples of users-api.md", async () => {
  const examples = extract(await readFile(DOCUMENT, "utf8"), "typescript");
  const titles = [...examples.keys()];
  let service: Service;
  let users: UserManager;
  let sessions: SessionManager;

  before(async () => {
    await rm(FOLDER, { recursive: true, force: true });
    await mkdir(FOLDER, { recursive: true });
    await Promise.all(
      [...examples.values()].map((example, index) => writeFile(join(FOLDER, `example${index}.ts`), moduleOf(example))),
    );
    const compilerOptions = { strict: true, skipLibCheck: true, module: "nodenext", target: "es2022", types: ["node"] };
    await writeFile(join(FOLDER, "tsconfig.json"), JSON.stringify({ compilerOptions }));
    await run(join(PACKAGE, "node_modules/.bin/tsc"), ["--project", FOLDER]);
    service = await Service.start();
    users = new UserManager(`http://${service.address}`);
    sessions = new SessionManager(`http://${service.address}`);
  });
  after(async () => {
    await users.close();
    await sessions.close();
    await service[Symbol.asyncDispose]();
  });
  beforeEach(async () => {
    for await (const chunk of users.listChunked(1000)) {
      await Promise.all(chunk.map(({ user_id }) => users.delete(user_id)));
    }
  });

  it("are all found", () => {
    assert.deepEqual(titles, Object.keys(CHECKS));
  });

  for (const [index, title] of titles.entries()) {
    it(title, async () => {
      const expectation = CHECKS[title];
      assert.ok(expectation);
      if (!expectation.addsUser) {
        await users.add({ user_id: "user123", metadata: { foo: "bar", kept: 1 } });
        await sessions.add({ user_id: "user123", session_id: "phone" });
        await sessions.add({ user_id: "user123", session_id: "laptop" });
        for (let number = 0; number < (expectation.others ?? 20); number++) {
          await users.add({ user_id: `other${number}` });
        }
      }
      const example = (await import(join(FOLDER, `example${index}.js`))) as {
        run: (users: UserManager, process: (users: User[]) => void) => Promise<Made>;
      };
      const processed: User[][] = [];
      const made = await example.run(users, (chunk) => {
        processed.push(chunk);
      });
      await expectation.check(made, { users, processed });
    });
  }
});
