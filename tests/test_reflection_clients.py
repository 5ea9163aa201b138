"""Clients that use only reflection: buf curl, and grpcui without a browser."""

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import pytest
from harness.programs import Program
from harness.services import Service
from harness.tools import missing

from userservice.v1 import session_service_pb2, user_service_pb2

USERS = "userservice.v1.UserService"
BUF = Path(sys.executable).parent / "buf"  # one of the development requirements
GRPCUI = "github.com/fullstorydev/grpcui"
GRPCUI_VERSION = "v1.4.3"


def buf_curl(version: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    fixed = ["curl", "--protocol", "grpc", "--http2-prior-knowledge", "--reflect-protocol", version]
    return subprocess.run([BUF, *fixed, *arguments], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("version", ["grpc-v1", "grpc-v1alpha"])
def test_buf_curl_lists_and_calls(service: Service, version: str) -> None:
    url = f"http://{service.address}"
    listed = buf_curl(version, "--list-methods", url)
    own = [user_service_pb2.DESCRIPTOR.services_by_name, session_service_pb2.DESCRIPTOR.services_by_name]
    methods = {f"{name}/{method}" for services in own for name, method in _methods(services)}
    assert methods < set(listed.stdout.split()), listed.stderr
    added = buf_curl(version, "-d", '{"user_id": "ada", "metadata": {"foo": "bar"}}', f"{url}/{USERS}/AddUser")
    assert json.loads(added.stdout)["user"]["metadata"] == {"foo": "bar"}, added.stderr
    streamed = buf_curl(version, "-d", "{}", f"{url}/{USERS}/ListUsersChunked")
    assert json.loads(streamed.stdout)["users"] == [json.loads(added.stdout)["user"]], streamed.stderr


def _methods(services: Any) -> Iterator[tuple[str, str]]:
    for service in services.values():
        for method in service.methods:
            yield service.full_name, method.name


@pytest.fixture(scope="session")
def grpcui(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built from the Go module proxy."""
    go = shutil.which("go") or missing("go is not installed")
    folder = tmp_path_factory.mktemp("grpcui")
    (folder / "go.mod").write_text(f"module tests\n\ngo 1.22\n\nrequire {GRPCUI} {GRPCUI_VERSION}\n")
    command = [go, "build", "-mod=mod", "-o", str(folder / "grpcui"), f"{GRPCUI}/cmd/grpcui"]
    subprocess.run(command, cwd=folder, check=True, timeout=600)
    return folder / "grpcui"


@pytest.mark.long
@pytest.mark.timeout(700)
def test_grpcui_shows_the_details_of_an_error(service: Service, grpcui: Path) -> None:
    with Program([grpcui, "-plaintext", "-port", "0", "-open-browser=false", service.address]) as program:
        page = program.wait_for("stdout", r"available at (http://\S+)")[1]
        cookies = CookieJar()
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(cookies))
        assert USERS in browser.open(page, timeout=30).read().decode()
        [token] = [cookie.value for cookie in cookies if cookie.name == "_grpcui_csrf_token"]
        request = urllib.request.Request(  # noqa: S310 - the program that was started above
            f"{page}invoke/{USERS}.GetUser",
            json.dumps({"timeout_seconds": 20, "metadata": [], "data": [{"user_id": ""}]}).encode(),
            {"Content-Type": "application/json", "x-grpcui-csrf-token": str(token)},
        )
        answer = json.loads(browser.open(request, timeout=30).read())
    details = {
        detail["message"]["@type"].rpartition(".")[2]: detail["message"] for detail in answer["error"]["details"]
    }
    assert details["ErrorInfo"]["reason"] == "INVALID_FIELD"
    assert re.fullmatch(r"[!-~]+", details["RequestInfo"]["request_id"])
    assert details["BadRequest"]["field_violations"][0]["field"] == "user_id"
