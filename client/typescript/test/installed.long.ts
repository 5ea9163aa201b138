/** The file of `npm pack`, installed into a new project and used as in the README. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { promisify } from "node:util";

import { PACKAGE, Service } from "./harness/service.js";

const run = promisify(execFile);

const MODULE = `
import { UserManager, UserAlreadyExistsError, type ICreateUserRequest, type User } from "userservice";
`;
const SCRIPT = `
import userservice = require("userservice");
const { UserManager, UserAlreadyExistsError } = userservice;
type ICreateUserRequest = userservice.ICreateUserRequest;
type User = userservice.User;
`;
const USE = `
async function main(address: string): Promise<void> {
  const userManager = new UserManager(address);
  const request: ICreateUserRequest = { user_id: "fresh", metadata: { foo: ["bar"] } };
  const newUser: User = await userManager.add(request);
  console.log(newUser.user_id, newUser.metadata.foo[0], newUser.created_at instanceof Date);
  for await (const users of userManager.listChunked(100)) {
    console.log(users.length, users.next_cursor);
  }
  try {
    await userManager.add(request);
  } catch (error) {
    console.log(error instanceof UserAlreadyExistsError);
  }
  await userManager.delete("fresh");
  await userManager.close();
}

void main(String(process.argv[2]));
`;
const PRINTED = "fresh bar true\n1 0\ntrue\n";

/** Returns the example of README.md, which then reads the address from the command line. */
async function readmeExample(): Promise<string> {
  const [, example = ""] = /^```ts\n(.*?)^```$/ms.exec(await readFile(join(PACKAGE, "README.md"), "utf8")) ?? [];
  return example.replace('"http://localhost:50051"', "String(process.argv[2])");
}

describe("the installed package", () => {
  let project: string;
  before(async () => {
    project = await mkdtemp(join(tmpdir(), "fresh-"));
    await run("npm", ["pack", "--ignore-scripts", "--pack-destination", project], { cwd: PACKAGE });
    const [tarball = ""] = await readdir(project);
    await writeFile(join(project, "package.json"), JSON.stringify({ name: "fresh", version: "1.0.0" }));
    await run("npm", ["install", "--prefer-offline", "--no-audit", "--no-fund", `./${tarball}`], { cwd: project });
    await writeFile(join(project, "module.mts"), MODULE + USE);
    await writeFile(join(project, "script.cts"), SCRIPT + USE);
    await writeFile(join(project, "readme.mts"), await readmeExample());
    const settings = ["--strict", "--module", "nodenext", "--target", "es2022", "--types", "node"];
    await run(join(PACKAGE, "node_modules/.bin/tsc"), [...settings, "module.mts", "script.cts", "readme.mts"], {
      cwd: project,
    });
  });
  after(() => rm(project, { recursive: true }));

  async function use(file: string): Promise<string> {
    await using service = await Service.start();
    return (await run(process.execPath, [file, service.address], { cwd: project })).stdout;
  }

  it("can be imported, with types, by a module", async () => {
    assert.equal(await use("module.mjs"), PRINTED);
  });

  it("runs the example of its README", async () => {
    const [added, chunk, ...others] = (await use("readme.mjs")).trim().split("\n");
    assert.match(added ?? "", /^\d+ \{ foo: 'bar' \} \d{4}-/);
    assert.deepEqual([chunk, ...others], ["1 0"]);
  });

  it("can be required, with types, by a CommonJS script", async () => {
    assert.equal(await use("script.cjs"), PRINTED);
  });

  it("contains exactly the necessary files", async () => {
    const files = await readdir(join(project, "node_modules/userservice"), { recursive: true });
    assert.deepEqual(files.filter((file) => !file.startsWith("dist")).sort(), ["LICENSE", "README.md", "package.json"]);
    assert.ok(files.includes(join("dist", "index.d.ts")));
  });
});
