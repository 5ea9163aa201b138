"""The command `userservice health`."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from harness.credentials import TlsFiles, authority, issued, private
from harness.services import Service, clean_environment
from harness.stores import Store

from userservice.cli.health import main


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("USERSERVICE_"):
            monkeypatch.delenv(name)


def checked(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Runs the command in this process; returns its exit code and what it printed."""
    capfd.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
    printed = capfd.readouterr()
    assert len((printed.out + printed.err).splitlines()) == 1
    return code, printed.out, printed.err


def test_the_command_imports_neither_the_server_nor_the_managers(service: Service) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "userservice", "health"]
    environment = clean_environment() | {"USERSERVICE_LISTEN": service.address}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout) == (0, "userservice: SERVING\n")
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "grpc" in imported
    assert imported & {"userservice_server", "userservice.user_manager", "click", "redis"} == set()


def test_readiness_and_liveness_are_reported(
    service: Service, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("", "userservice.v1.UserService", "userservice.v1.SessionService", "liveness"):
        expected = f"{name or 'userservice'}: SERVING\n"
        assert checked(capfd, "--address", service.address, "--service", name) == (0, expected, "")
    code, _, error = checked(capfd, "--address", service.address, "--service", "liveliness")
    assert code == 3
    assert "has no health of the name 'liveliness'" in error
    monkeypatch.setenv("USERSERVICE_LISTEN", "127.0.0.1:1")
    assert checked(capfd)[0] == 5
    monkeypatch.setenv("USERSERVICE_ADDRESS", service.address)
    assert checked(capfd)[0] == 0


def test_a_service_that_does_not_answer_is_unavailable(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        code, _, error = checked(capfd, "--address", address, "--timeout", "0.3")
        assert (code, error) == (5, f"userservice: error: no answer from {address} within 0.3 s (--timeout)\n")


def test_a_refused_connection_is_unavailable(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as refusing:  # bound but not listening, so that no other process takes the port
        refusing.bind(("127.0.0.1", 0))
        code, _, error = checked(capfd, "--address", f"127.0.0.1:{refusing.getsockname()[1]}")
    assert code == 5
    assert "Connection refused" in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["--address", "nowhere"],
        ["--address", "127.0.0.1:0"],
        ["--address", "127.0.0.1:1,127.0.0.1:2"],
        ["--timeout", "0"],
        ["--timeout", "nan"],
        ["--timeout", "soon"],
        ["--tls-ca", "/nowhere"],
        ["--tls-cert", "/dev/null"],
        ["--address", "http://127.0.0.1:1", "--tls-server-name", "users.test"],
        ["--unknown"],
        ["argument"],
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, out, error = checked(capfd, *arguments)
    assert (code, out) == (2, "")
    assert error.startswith("userservice: error: ")


@pytest.fixture
def socket_address(tmp_path: Path) -> Iterator[str]:
    """The address of another implementation of the health service, on a Unix socket."""
    server = grpc.server(ThreadPoolExecutor(1))
    servicer = HealthServicer()
    servicer.set("", HealthCheckResponse.NOT_SERVING)
    servicer.set("other", HealthCheckResponse.SERVING)
    add_HealthServicer_to_server(servicer, server)
    address = f"unix:{tmp_path}/health.sock"
    server.add_insecure_port(address)
    server.start()
    yield address
    server.stop(None).wait()


def test_a_unix_socket_is_accepted(socket_address: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert checked(capfd, "--address", socket_address) == (5, "userservice: NOT_SERVING\n", "")
    assert checked(capfd, "--address", socket_address, "--service", "other") == (0, "other: SERVING\n", "")


def test_a_service_with_client_certificates_is_asked_with_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = authority()
    ca = private(tmp_path / "ca.crt", root.cert_pem)
    client = TlsFiles(tmp_path / "client")
    client.folder.mkdir()
    client.write(issued(root))
    server = TlsFiles(tmp_path).write(issued(root, ["users.test"]))
    with (
        Store() as store,
        Service(
            *server.arguments, "--tls-client-ca", ca, "--tls-client-auth", "require", redis_url=store.url
        ) as service,
    ):
        address: list[str | Path] = ["--address", service.address]
        named: list[str | Path] = [*address, "--tls-ca", ca, "--tls-server-name", "users.test"]
        assert checked(capfd, *named, *client.arguments)[0] == 0
        assert checked(capfd, *named)[0] == 5, "without a client certificate"
        assert checked(capfd, *address, "--tls-ca", ca, *client.arguments)[0] == 5, "the certificate has another name"
        assert checked(capfd, *address)[0] == 5, "without TLS"
        for variable, path in (("CA", ca), ("CERT", client.folder / "tls.crt"), ("KEY", client.folder / "tls.key")):
            monkeypatch.setenv(f"USERSERVICE_{variable}", str(path))
        assert checked(capfd, *address, "--tls-server-name", "users.test")[0] == 0
