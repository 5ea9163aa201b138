"""The programs in examples/ work as described."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from harness.credentials import TlsFiles, authority, issued, new_key, private
from harness.population import fill
from harness.services import Service, clean_environment
from harness.stores import Store
from harness.tools import missing, require

from userservice import SessionManager, UserManager

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
USERS = 2500


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with Store() as store:
        fill(store, [f"user{number}" for number in range(USERS)])
        yield store


@pytest.fixture(scope="module")
def service(store: Store) -> Iterator[Service]:
    with Service(redis_url=store.url) as service:
        yield service
        assert service.stop() == 0


def module(path: Path) -> ModuleType:
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # noqa: PT018 - one condition for the type checker
    loaded = module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_the_export_job_continues_after_an_interruption(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, file = module(EXAMPLES / "export_job" / "export_users.py"), tmp_path / "users.jsonl"
    chunks = job.SyncUserManager.list_chunked

    def two_chunks(*arguments: Any, **options: Any) -> Iterator[Any]:
        for number, chunk in enumerate(chunks(*arguments, **options)):
            if number == 2:
                raise KeyboardInterrupt
            yield chunk

    with monkeypatch.context() as patch:
        patch.setattr(job.SyncUserManager, "list_chunked", two_chunks)
        with pytest.raises(KeyboardInterrupt):
            job.export(service.address, file)
    part = tmp_path / "users.jsonl.part"
    with part.open("ab") as out:
        out.write(b'{"user_id": "of a chunk that was not compl')
    assert not file.exists()
    assert job.export(service.address, file) == USERS - 2000
    names = [json.loads(line)["user_id"] for line in file.read_text().splitlines()]
    assert len(names) == len(set(names)) == USERS
    assert [path.name for path in tmp_path.iterdir()] == ["users.jsonl"]


async def test_the_login_service_creates_touches_lists_and_revokes_sessions(service: Service) -> None:
    path = EXAMPLES / "login" / "login_sessions.py"
    source = path.read_text()
    assert len(source.splitlines()) <= 30
    assert f"```python\n{source}```" in (ROOT / "README.md").read_text()
    async with UserManager(service.address) as users, SessionManager(service.address) as sessions:
        logins = module(path).Logins(users, sessions)
        await users.add(user_id="a;b=c&d é")
        cookies = [await logins.log_in("a;b=c&d é", device) for device in ("phone", "laptop", "tv")]
        assert all(re.fullmatch(r"[!#-+\--:<-\[\]-~]+", cookie) for cookie in cookies)  # RFC 6265
        session = await logins.current(cookies[1])
        assert session is not None
        assert (session.user_id, session.metadata) == ("a;b=c&d é", {"device": "laptop"})
        assert session.expire_time is not None
        assert session.max_expire_time is not None
        assert timedelta(days=13) < session.expire_time - session.created_at <= timedelta(days=14)
        assert timedelta(days=89) < session.max_expire_time - session.created_at <= timedelta(days=91)
        assert await logins.devices(session) == ["phone", "laptop", "tv"]
        assert await logins.log_out_everywhere_else(session) == 2
        assert await logins.devices(session) == ["laptop"]
        for cookie in (cookies[0], cookies[1] + "x", "", "user_id=%FF&session_id=%00", "user_id=nobody&session_id=a"):
            assert await logins.current(cookie) is None
        assert await logins.current(cookies[1]) is not None
        await users.delete("a;b=c&d é")


def run(command: list[str | Path], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_go_client_is_generated_by_plain_protoc_and_runs(service: Service, store: Store, tmp_path: Path) -> None:
    go, folder = require("go"), EXAMPLES / "go"
    environment = clean_environment() | {"PROTOC": f"{protoc_python()} -m grpc_tools.protoc"}
    run([folder / "generate.sh"], folder, environment)
    expected = ["added go-example map[plan:pro]", "get nobody: USER_NOT_FOUND", f"streamed {USERS + 1} users"]
    assert run([go, "run", ".", service.address], folder, environment).splitlines() == expected
    root = authority()
    environment["USERSERVICE_CA"] = str(private(tmp_path / "ca.pem", root.cert_pem))
    environment["USERSERVICE_TOKEN"] = new_key(tmp_path / "keys.toml")
    options = [*TlsFiles(tmp_path).write(issued(root)).arguments, "--auth", "keys", "--keys-file"]
    with Service(*options, tmp_path / "keys.toml", redis_url=store.url) as secure:
        assert run([go, "run", ".", secure.address], folder, environment).splitlines() == expected
        assert secure.stop() == 0


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_java_client_is_built_by_maven_and_runs(service: Service) -> None:
    maven, folder = require("mvn"), EXAMPLES / "java"
    command: list[str | Path] = [
        maven,
        "-q",
        "-B",
        "-Dstyle.color=never",
        "compile",
        "exec:java",
        f"-Dexec.args={service.address}",
    ]
    printed = run(command, folder, dict(os.environ))
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in printed.splitlines()]
    assert [line for line in lines if line] == [
        "added java-example",
        "get nobody: USER_NOT_FOUND",
        f"streamed {USERS + 1} users",
    ]


def protoc_python() -> Path:
    """The Python that has grpcio-tools: of the environment for code generation."""
    python = ROOT / ".venv-codegen" / "bin" / "python"
    if not python.is_file():
        missing("the environment for code generation is not set up (make .venv-codegen/.done)")
    return python


def test_the_examples_are_all_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    folders = [path.name for path in EXAMPLES.iterdir() if path.is_dir() and not path.name.startswith(("_", "."))]
    assert all(f"[{name}]({name})" in listed for name in folders)
