"""The web services in examples/ start as their first lines say, and map users and errors of the service to HTTP."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.credentials import TlsFiles, authority, issued, new_key, private
from harness.ports import free_port
from harness.programs import Program
from harness.services import Service, clean_environment
from harness.stores import Store
from harness.tools import missing, require
from harness.waiting import until

from userservice import SyncUserManager

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
SERVERS = ROOT / ".venv-servers" / "bin" / "python"

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as store:
        yield store


@pytest.fixture
def service(store: Store) -> Iterator[Service]:
    with Service(redis_url=store.url) as service:
        with SyncUserManager(service.address) as users:
            users.add(user_id="a/b", email="ada@example.org", metadata={"plan": "pro"})
        yield service
        assert service.stop() == 0


@pytest.fixture
def variables_with_tls(store: Store, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables for a client of a service with TLS and keys."""
    folder, root = tmp_path / "secure", authority()
    folder.mkdir()
    files, ca = TlsFiles(folder).write(issued(root)), private(folder / "ca.pem", root.cert_pem)
    token = private(folder / "token", new_key(folder / "keys.toml", "users.read,users.write,users.list"))
    options = [*files.arguments, "--auth", "keys", "--keys-file", folder / "keys.toml"]
    with Service(*options, redis_url=store.url) as service:
        address = f"https://{service.address}"
        with SyncUserManager(address, ca=ca, token=token.read_text()) as users:
            users.add(user_id="a/b", email="ada@example.org", metadata={"plan": "pro"})
        yield {"USERSERVICE_ADDRESS": address, "USERSERVICE_CA": str(ca), "USERSERVICE_TOKEN_FILE": str(token)}
        assert service.stop() == 0


class Site:
    """An HTTP service on this machine."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Returns the status and the decoded body; bytes are sent as they are, other objects as JSON."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self._base + path, data, headers, method=method)  # noqa: S310 - our own URL
        try:
            with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
                return response.status, json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def wait(self) -> None:
        def answers() -> bool:
            with contextlib.suppress(urllib.error.URLError):
                return bool(self.call("GET", "/none")[0])
            return False

        until(answers, within=60)


def commands(file: Path) -> str:
    """The commands that the first lines of an example name."""
    found = re.search(r"Run: (.*)", file.read_text())
    assert found
    return found[1]


def assert_serves_users(site: Site) -> None:
    path = f"/users/{urllib.parse.quote('a/b', safe='')}"
    status, user = site.call("GET", path)
    assert (status, user["email"], user["metadata"]) == (200, "ada@example.org", {"plan": "pro"})
    status, added = site.call("POST", "/users", {"user_id": "bob", "metadata": {"n": [1, None]}})
    assert (status, added["user_id"], added["metadata"]) == (201, "bob", {"n": [1, None]})
    assert site.call("GET", "/users/bob") == (200, added)
    assert site.call("POST", "/users", {"user_id": "bob"}) == (409, {"error": "USER_ALREADY_EXISTS"})
    assert site.call("GET", "/users/nobody") == (404, {"error": "USER_NOT_FOUND"})
    status, error = site.call("POST", "/users", {"user_id": " x", "email": "e" * 321})
    assert (status, error["error"]) == (422, "INVALID_FIELD")
    assert "user_id" in json.dumps(error["fields"])
    assert "320" in json.dumps(error["fields"])


def test_the_web_example(service: Service) -> None:
    if not SERVERS.exists():
        missing("the environment of web servers is not set up (make .venv-servers/.done)")
    folder, port = EXAMPLES / "web", free_port()
    assert commands(folder / "app.py").endswith("uvicorn app:app")
    command: list[str | Path] = [SERVERS, "-m", "uvicorn", "app:app", "--app-dir", folder, "--port", str(port)]
    environment = {**clean_environment(), "USERSERVICE_ADDRESS": service.address, "PYTHONDONTWRITEBYTECODE": "1"}
    with Program(command, environment) as program:
        site = Site(port)
        site.wait()
        assert_serves_users(site)
        status, page = site.call("GET", "/users?limit=1")
        assert (status, [user["user_id"] for user in page["users"]], page["total_size"]) == (200, ["a/b"], 2)
        status, page = site.call("GET", f"/users?cursor={page['next_cursor']}")
        assert ([user["user_id"] for user in page["users"]], page["next_cursor"]) == (["bob"], 0)
        assert site.call("DELETE", "/users/bob") == (204, None)
        assert site.call("GET", "/users/bob")[0] == 404
        assert '"next_cursor"' in json.dumps(site.call("GET", "/openapi.json")[1]["paths"]["/users"]["get"])
        assert program.stop() in {0, -signal.SIGTERM}  # uvicorn closes the manager, then raises the signal again


def test_the_types_of_the_web_example(tmp_path: Path) -> None:
    """`make types` does not see the types of FastAPI, which is only installed in .venv-servers."""
    if not SERVERS.exists():
        missing("the environment of web servers is not set up (make .venv-servers/.done)")
    command: list[str | Path] = [sys.executable, "-m", "mypy", "--config-file=", "--strict", "--cache-dir", tmp_path]
    command += ["--python-executable", SERVERS, EXAMPLES / "web" / "app.py"]
    paths = {**os.environ, "MYPYPATH": str(ROOT / "client" / "python")}
    checked = subprocess.run(command, env=paths, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_node_example_with_tls_and_a_key(variables_with_tls: dict[str, str], tmp_path: Path) -> None:
    require("npm")
    # A copy, because the commands install and build in both folders.
    unwanted = shutil.ignore_patterns("node_modules", "dist", ".build", "test", "bench")
    folder = shutil.copytree(EXAMPLES / "node", tmp_path / "examples" / "node", ignore=unwanted)
    shutil.copytree(ROOT / "client" / "typescript", tmp_path / "client" / "typescript", ignore=unwanted)
    command = ["bash", "-c", f"cd {folder} && {commands(folder / 'server.js')}"]
    environment = {**clean_environment(), **variables_with_tls, "PORT": "0"}
    with Program(command, environment) as program:
        site = Site(int(program.wait_for("stdout", r"^listening on (\d+)$", within=300)[1]))
        assert_serves_users(site)
        assert site.call("GET", "/count") == (200, {"count": 2})
        assert site.call("GET", "/users/%ff")[0] == 400
        assert site.call("GET", "/nothing")[0] == 404
        assert site.call("POST", "/users", b"{") == (400, {"error": "the body is not JSON"})
        assert site.call("POST", "/users", b" " * 5_000_000)[0] == 413
        assert program.running
