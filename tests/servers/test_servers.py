"""The Python client under each server and process pool of docs/python-servers.md, started with its usual command."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.ports import free_port
from harness.programs import Program
from harness.services import Service, clean_environment
from harness.stores import Store
from harness.waiting import until

from userservice import SyncUserManager

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENT = ROOT / ".venv-servers"
PYTHON = ENVIRONMENT / "bin" / "python"
GUNICORN = ["gunicorn", "--no-control-socket"]  # which would be in the home directory
WAIT = 60
"""Seconds. Workers import grpc, which takes long on a machine that is busy."""

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def needs_environment() -> None:
    if not PYTHON.exists():
        reason = "no .venv-servers; make .venv-servers/.done makes it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with Store() as store, Service(redis_url=store.url) as service:
        with SyncUserManager(service.address) as users:
            users.add(user_id="ada", email="ada@example.org", metadata={"b": 1, "a": [True, None]})
        yield service.address
        assert service.stop() == 0


def environment(address: str, **more: str) -> dict[str, str]:
    kept = clean_environment()
    path = os.pathsep.join(filter(None, [str(HERE), kept.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path, "USERSERVICE_ADDRESS": address, **more}


def fetch(url: str) -> str:
    def attempt() -> str:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - our own URL
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            return f"{error.code} {error.read().decode()}"
        except OSError:  # it does not listen yet
            return ""

    return until(attempt, within=WAIT)


def serve(address: str, *command: str | Path, **more: str) -> Program:
    return Program([PYTHON, "-m", *command], environment(address, **more))


def assert_is_ada(answer: str, *, parent: int) -> None:
    pid, _, body = answer.partition(" ")
    assert int(pid) != parent, "the master itself answered"
    assert json.loads(body)["user_id"] == "ada"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-k", "sync", "apps:wsgi"],
        ["-k", "gthread", "--threads", "4", "apps:wsgi"],
        ["-k", "uvicorn_worker.UvicornWorker", "apps:asgi"],
        ["-k", "sync", "--preload", "apps:wsgi"],
        ["-k", "gthread", "--threads", "4", "--preload", "apps:wsgi"],
        ["-k", "uvicorn_worker.UvicornWorker", "--preload", "apps:asgi"],
    ],
    ids=" ".join,
)
def test_gunicorn(address: str, arguments: list[str]) -> None:
    port = free_port()
    with serve(address, *GUNICORN, "-w", "2", "-b", f"127.0.0.1:{port}", *arguments) as server:
        for _ in range(10):
            assert_is_ada(fetch(f"http://127.0.0.1:{port}/"), parent=server.pid)
        assert server.stop(within=WAIT) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_uvicorn(address: str, workers: str) -> None:
    port = free_port()
    with serve(address, "uvicorn", "--workers", workers, "--port", str(port), "apps:asgi") as server:
        for _ in range(10):
            assert '"ada"' in fetch(f"http://127.0.0.1:{port}/")
        assert server.stop(within=WAIT) in {0, -15}  # uvicorn raises the signal again that ended it


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["", "preload"])
def test_gunicorn_with_gevent_names_the_cause(address: str, preload: list[str]) -> None:
    port = free_port()
    command = [*GUNICORN, "-w", "1", "-k", "gevent", "-b", f"127.0.0.1:{port}", *preload, "apps:wsgi"]
    with serve(address, *command) as server:
        # With --preload managers are made before gevent patches the worker, so the first call fails.
        if preload:
            assert "ManagerUnusableError: gevent has patched this process" in fetch(f"http://127.0.0.1:{port}/")
        else:
            server.wait_for("stderr", "ManagerUnusableError: gevent has patched this process", within=WAIT)


@pytest.mark.parametrize("library", ["gevent", "gevent without threads", "eventlet"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_error_in_a_patched_process_names_the_cause(address: str, library: str, when: str) -> None:
    with Program([PYTHON, HERE / "patched.py", library, when, address], environment(address)) as program:
        assert program.wait(WAIT) == 0
        expected = f"ManagerUnusableError: {library.partition(' ')[0]} has patched this process"
        assert [line.startswith(expected) for line in program.stdout] == [True, True], program.stdout


def test_gevent_that_is_only_imported_is_accepted(address: str) -> None:
    with Program([PYTHON, HERE / "patched.py", "gevent imported", "before", address], environment(address)) as program:
        assert program.wait(WAIT) == 0
        assert program.stdout == ["ada", "ada"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(address: str, method: str) -> None:
    with Program([PYTHON, HERE / "processes.py", address, method], environment(address)) as program:
        assert program.wait(WAIT) == 0, program.stderr
        assert program.stdout == ["ada ada ada ada"]


def test_celery_prefork(address: str, tmp_path: Path) -> None:
    for folder in ("queue", "control", "results"):
        (tmp_path / folder).mkdir()
    code = (
        "import apps; results = [apps.celery.send_task('get') for _ in range(6)]\n"
        f"print(*(result.get(timeout={WAIT}) for result in results), sep='\\n')"
    )
    variables = {"CELERY_FOLDER": str(tmp_path)}
    command = ["celery", "-A", "apps:celery", "worker", "--pool", "prefork", "-c", "2", "--without-mingle"]
    with serve(address, *command, **variables) as worker:
        with Program([PYTHON, "-c", code], environment(address, **variables)) as caller:
            assert caller.wait(WAIT * 2) == 0, (caller.stderr, worker.stderr)
            assert len(caller.stdout) == 6
            for answer in caller.stdout:
                assert_is_ada(answer, parent=worker.pid)
        assert worker.stop(within=WAIT) == 0


def test_fastapi_returns_models(address: str) -> None:
    port = free_port()
    command = ["uvicorn", "--port", str(port), "apps:fastapi"]
    with SyncUserManager(address) as users:
        expected = users.get("ada").to_dict(mode="json")
    with serve(address, *command, WITH_FASTAPI="1"):
        base = f"http://127.0.0.1:{port}"
        annotated: dict[str, Any] = json.loads(fetch(f"{base}/annotated"))
        assert annotated == expected
        assert list(annotated["metadata"]) == ["a", "b"]
        assert json.loads(fetch(f"{base}/list")) == [expected]
        assert json.loads(fetch(f"{base}/page")) == {"users": [expected], "next_cursor": 0, "total_size": 1}
        assert json.loads(fetch(f"{base}/batch")) == {"users": [expected], "missing_user_ids": ["nobody"]}
        sessions = json.loads(fetch(f"{base}/sessions"))
        assert (sessions["sessions"][0]["session_id"], sessions["next_cursor"]) == ("s", 1)
        assert json.loads(fetch(f"{base}/plain")).keys() == expected.keys()
        assert '\\"ada\\"' in fetch(f"{base}/text")
        paths = json.loads(fetch(f"{base}/openapi.json"))["paths"]
        schemas = {path: json.dumps(paths[path]["get"]["responses"]["200"]) for path in paths}
        assert all('"user_id"' in schemas[path] for path in ("/annotated", "/list", "/page", "/batch", "/sessions"))
        assert '"next_cursor"' in schemas["/page"]
        assert '"missing_user_ids"' in schemas["/batch"]
