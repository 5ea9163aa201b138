"""The TypeScript package in new npm projects of the common kinds, installed from the file of `npm pack`."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.services import Service, clean_environment

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

PACKAGE = Path(__file__).parent.parent / "client" / "typescript"
# TypeScript 5 is the last version with node10 resolution without a warning, and the newest that ts-jest supports.
TYPESCRIPT = ["typescript@5.9.3", "@types/node@20.19.43"]
JEST = ["jest@30.5.2", "ts-jest@29.4.15", "@types/jest@30.0.0"]

USE = """
async function main(address: string): Promise<string[]> {
  const userManager = new UserManager(address);
  const request: ICreateUserRequest = { user_id: "fresh", metadata: { foo: ["bar"] } };
  const user: User = await userManager.add(request);
  const lines = [`${user.user_id} ${user.metadata.foo[0]} ${user.created_at instanceof Date}`];
  for await (const users of userManager.listChunked(100)) {
    lines.push(`${users.length} ${users.next_cursor}`);
  }
  try {
    await userManager.add(request);
  } catch (error) {
    lines.push(String(error instanceof UserAlreadyExistsError));
  }
  await userManager.delete("fresh");
  await userManager.close();
  return lines;
}
"""
PRINTED = "fresh bar true\n1 0\ntrue\n"
IMPORT = 'import { UserManager, UserAlreadyExistsError, type ICreateUserRequest, type User } from "userservice";\n'
PRINT = 'main(String(process.argv[2])).then((lines) => console.log(lines.join("\\n")));\n'
# The same in JavaScript.
PLAIN = re.sub(r": (ICreateUserRequest|User|string|Promise<string\[\]>)(?= =|\)| \{)", "", USE)


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("npm") is None:
        pytest.skip("no Node.js")
    folder = tmp_path_factory.mktemp("packed")
    if not (PACKAGE / "node_modules").exists():
        run("npm", "ci", "--no-audit", "--no-fund", cwd=PACKAGE)
    # Packs a copy, because `npm pack` builds the package again while other tests use the build.
    copy = shutil.copytree(PACKAGE, folder / "package", ignore=shutil.ignore_patterns("node_modules", "dist", ".build"))
    (copy / "node_modules").symlink_to(PACKAGE / "node_modules")
    run("npm", "pack", "--pack-destination", folder, cwd=copy)
    [packed] = folder.glob("*.tgz")
    return packed


@pytest.fixture(scope="module")
def project(tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Creates a project with `npm init -y`, and installs the package and a compiler."""
    folder = tmp_path_factory.mktemp("project")
    run("npm", "init", "-y", cwd=folder)
    run("npm", "install", "--no-audit", "--no-fund", tarball, *TYPESCRIPT, *JEST, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service on one store, because the package does not depend on the kind of store."""
    with Service(data_dir=tmp_path_factory.mktemp("data")) as running:
        yield running


def test_a_javascript_script_requires_the_package(project: Path, service: Service) -> None:
    names = 'const { UserManager, UserAlreadyExistsError } = require("userservice");\n'
    (project / "plain.cjs").write_text(names + PLAIN + PRINT)
    assert run("node", "plain.cjs", service.address, cwd=project) == PRINTED


def test_a_javascript_module_imports_the_package(project: Path, service: Service) -> None:
    names = 'import { UserManager, UserAlreadyExistsError } from "userservice";\n'
    (project / "plain.mjs").write_text(names + PLAIN + PRINT)
    assert run("node", "plain.mjs", service.address, cwd=project) == PRINTED


def test_a_program_that_imports_and_requires_the_package_has_each_class_once(project: Path) -> None:
    (project / "both.mjs").write_text(
        'import { createRequire } from "node:module";\n'
        'import { UserNotFoundError, User } from "userservice";\n'
        'const required = createRequire(import.meta.url)("userservice");\n'
        "console.log(required.UserNotFoundError === UserNotFoundError, required.User === User);\n"
    )
    assert run("node", "both.mjs", cwd=project) == "true true\n"


@pytest.mark.parametrize(
    ("kind", "module", "resolution", "suffix"),
    [
        ("script", "commonjs", "node10", "ts"),
        ("script", "node16", "node16", "cts"),
        ("module", "node16", "node16", "mts"),
        ("script", "nodenext", "nodenext", "cts"),
        ("module", "nodenext", "nodenext", "mts"),
        ("module", "esnext", "bundler", "mts"),
        ("script", "preserve", "bundler", "cts"),
    ],
)
def test_the_typescript_compiler_finds_the_types(
    project: Path, service: Service, kind: str, module: str, resolution: str, suffix: str
) -> None:
    name = f"{kind}_{module}_{resolution}"
    source = project / f"{name}.{suffix}"
    source.write_text(IMPORT + USE + PRINT)
    if module == "preserve":
        # This setting keeps the kind of import that is written.
        source.write_text(
            'import userservice = require("userservice");\n'
            "const { UserManager, UserAlreadyExistsError } = userservice;\n"
            "type ICreateUserRequest = userservice.ICreateUserRequest;\ntype User = userservice.User;\n" + USE + PRINT
        )
    # Without skipLibCheck: the package's own declarations are compiled too.
    options = ["--strict", "--target", "es2022", "--lib", "es2022,esnext.disposable", "--types", "node"]
    run("npx", "tsc", *options, "--module", module, "--moduleResolution", resolution, source.name, cwd=project)
    compiled = source.with_suffix("." + suffix.replace("ts", "js"))
    assert run("node", compiled.name, service.address, cwd=project) == PRINTED


def test_the_example_of_the_package_readme_runs(project: Path, service: Service) -> None:
    readme = (PACKAGE / "README.md").read_text(encoding="utf-8")
    [example] = re.findall(r"^```ts\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    # The name that README gives: a module in a project of npm init -y.
    (project / "example.mts").write_text(example.replace("http://localhost:50051", f"http://{service.address}"))
    run("npx", "tsc", "--strict", "--module", "nodenext", "--target", "es2022", "example.mts", cwd=project)
    assert run("node", "example.mjs", cwd=project).splitlines()[1] == "1 0"


JEST_TEST = """
test("it works", async () => {
  expect((await main(%r)).join("\\n") + "\\n").toBe(%r);
  expect(new User({ user_id: "a" })).toEqual(new User({ user_id: "a" }));
});
"""


def test_jest_loads_the_package(project: Path, service: Service) -> None:
    names = 'const { UserManager, User, UserAlreadyExistsError } = require("userservice");\n'
    (project / "plain.test.js").write_text(names + PLAIN + JEST_TEST % (service.address, PRINTED))
    run("npx", "jest", "plain.test.js", cwd=project)


def test_ts_jest_loads_the_package(project: Path, service: Service) -> None:
    names = 'import { UserManager, User, UserAlreadyExistsError, type ICreateUserRequest } from "userservice";\n'
    (project / "typed.test.ts").write_text(names + USE + JEST_TEST % (service.address, PRINTED))
    (project / "jest.typed.json").write_text('{"preset": "ts-jest", "testRegex": "typed.test.ts"}')
    (project / "tsconfig.json").write_text(
        '{"compilerOptions": {"strict": true, "target": "es2022", "module": "commonjs", "types": ["node", "jest"],'
        ' "lib": ["es2022", "esnext.disposable"], "esModuleInterop": true}}'
    )
    run("npx", "jest", "--config", "jest.typed.json", cwd=project)
