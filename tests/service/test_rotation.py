"""The rotation of docs/security.md: authority, certificate and key are replaced, the old key is revoked, no call fails.

The clients are separate programs with the variables of `from_env`: one in Python and, if it is built, one in
TypeScript.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness.credentials import Identity, TlsFiles, authority, issued, key_id, new_key, private, revoke
from harness.programs import Program
from harness.services import Service, clean_environment
from harness.stores import Store
from harness.tools import require
from harness.waiting import until

TYPESCRIPT = Path(__file__).parents[2] / "client" / "typescript" / "dist" / "index.mjs"
PYTHON_PROGRAM = """
import time
from userservice import CredentialsInvalidError, SyncUserManager
with SyncUserManager.from_env() as users:
    users.add(user_id="python")
    while True:
        users.get("python")
        print("ok", flush=True)
        time.sleep(0.01)
"""
NODE_PROGRAM = """
import { UserManager } from "%s";
const users = UserManager.fromEnv();
await users.add({ user_id: "node" });
for (;;) {
  await users.get("node");
  console.log("ok");
  await new Promise((resolve) => setTimeout(resolve, 10));
}
"""

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]


@pytest.fixture
def clients(tmp_path: Path) -> list[list[str | Path]]:
    commands: list[list[str | Path]] = [[sys.executable, "-c", PYTHON_PROGRAM]]
    if TYPESCRIPT.exists():
        (tmp_path / "program.mjs").write_text(NODE_PROGRAM % TYPESCRIPT)
        commands.append([require("node"), tmp_path / "program.mjs"])
    return commands


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as store:
        yield store


def bundle(path: Path, *authorities: Identity) -> None:
    private(path, b"".join(one.cert_pem for one in authorities), 0o644)


def has_reloaded(service: Service, file: str, times: int = 1) -> bool:
    lines = service.log_lines_with('"reloaded"')
    return len([line for line in lines if line["file"] == file]) >= times


def calls_of(programs: list[Program]) -> list[int]:
    for program in programs:
        assert program.running, program.stderr
    return [len(program.stdout) for program in programs]


def make_calls(programs: list[Program], calls: int = 50) -> None:
    """Waits until each program has made some calls."""
    before = calls_of(programs)
    until(lambda: all(now - then >= calls for now, then in zip(calls_of(programs), before, strict=True)), within=30)


def test_no_call_fails_during_the_rotation_of_certificates_and_keys(
    store: Store, tmp_path: Path, clients: list[list[str | Path]]
) -> None:
    old, new = authority("old"), authority("new")
    keys, token, ca = tmp_path / "keys.toml", tmp_path / "writer.key", tmp_path / "ca.pem"
    (tmp_path / "server").mkdir()
    files = TlsFiles(tmp_path / "server").write(issued(old))
    bundle(ca, old)
    key = new_key(keys, "users.read,users.write")
    private(token, key + "\n")
    options: list[str | Path] = [*files.arguments, "--auth", "keys", "--keys-file", keys, "--workers", "2"]
    with Service(*options, redis_url=store.url) as service, ExitStack() as running:
        environment = clean_environment() | {
            "USERSERVICE_ADDRESS": f"https://{service.address}",
            "USERSERVICE_CA": str(ca),
            "USERSERVICE_TOKEN_FILE": str(token),
        }
        programs = [running.enter_context(Program(command, environment)) for command in clients]
        make_calls(programs)
        bundle(ca, old, new)
        time.sleep(1.5)  # "Clients use a changed file after a second."
        make_calls(programs)
        files.write(issued(new))
        until(lambda: has_reloaded(service, "TLS certificates", 2))
        bundle(ca, new)
        time.sleep(1.5)
        make_calls(programs)

        next_key = new_key(keys, "users.read,users.write")
        until(lambda: has_reloaded(service, "keys file", 2))
        private(token, next_key + "\n")
        make_calls(programs)
        mark = len(service.stderr)
        make_calls(programs)
        assert not [line for line in service.stderr[mark:] if key_id(key) in line], "a client uses the old key"
        revoke(keys, key)
        make_calls(programs, 200)

        revoke(keys, next_key)
        for program in programs:  # now the calls fail
            assert program.wait() != 0
            assert "CredentialsInvalidError" in "\n".join(program.stderr)
        failed = [line for line in service.log_lines_with('"call"') if line["code"] != "OK"]
        assert {(line["code"], line["credential_fault"]) for line in failed} == {("UNAUTHENTICATED", "revoked key")}
        assert service.stop() == 0
