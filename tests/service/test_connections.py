"""Connections to Redis: URLs, Unix sockets, passwords, ACL users and TLS."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import credentials
from harness.commands import command
from harness.connections import connect_blocking, health
from harness.ports import free_port
from harness.proxies import Proxy
from harness.services import Service
from harness.stores import BACKENDS, Store

from userservice.v1.user_service_pb2 import AddUserRequest, DeleteUserRequest, GetUserRequest

PASSWORD = "canary-of-passwords"  # noqa: S105 - guards nothing
ACL = f"user clerk on >{PASSWORD} ~userservice:* +@all -@admin -@dangerous +info +config|get"


def assert_serves(url: str) -> None:
    """Writes and reads with a service that uses the URL, and checks that its output does not contain the password."""
    with Service(redis_url=url) as service, connect_blocking(service.address) as stubs:
        added = stubs.users.AddUser(AddUserRequest(user_id="ada")).user
        assert stubs.users.GetUser(GetUserRequest(user_id="ada")).user == added
        stubs.users.DeleteUser(DeleteUserRequest(user_id="ada"))
        assert health(service.address) == "SERVING"
        assert service.stop() == 0
    assert PASSWORD not in "\n".join([*service.stdout, *service.stderr])


@pytest.mark.parametrize("backend", ["valkey", pytest.param("redis", marks=pytest.mark.long)])
def test_tcp_with_and_without_a_database(backend: str) -> None:
    with Store(backend, port=free_port()) as store:
        assert_serves(f"redis://127.0.0.1:{store.port}")
        assert_serves(f"redis://localhost:{store.port}/3")
        with store.client(db=3) as client:
            assert client.keys("userservice:*")


def test_a_password() -> None:
    with Store(port=free_port(), options=["--requirepass", PASSWORD]) as store:
        assert_serves(f"redis://:{PASSWORD}@127.0.0.1:{store.port}/0")
        assert_serves(f"unix://:{PASSWORD}@{store.socket}")


def test_a_password_that_a_url_has_to_escape() -> None:
    with Store(port=free_port(), options=["--requirepass", "p@ss/w:rd %"]) as store:
        assert_serves(f"redis://:p%40ss%2Fw%3Ard%20%25@127.0.0.1:{store.port}/0")


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_an_acl_user_that_can_access_only_the_keys_of_the_service(backend: str, tmp_path: Path) -> None:
    file = tmp_path / "users.acl"
    file.write_text(f"user default off\n{ACL}\n")
    with Store(backend, port=free_port(), options=["--aclfile", str(file)]) as store:
        assert_serves(f"redis://clerk:{PASSWORD}@127.0.0.1:{store.port}/0")


@dataclass(frozen=True)
class Certificates:
    authority: Path
    certificate: Path
    key: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate authority, and a certificate for localhost that it signed."""
    directory = tmp_path_factory.mktemp("certificates")
    root = credentials.authority()
    leaf = credentials.issued(root)
    made = Certificates(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    made.authority.write_bytes(root.cert_pem)
    made.certificate.write_bytes(leaf.cert_pem)
    made.key.write_bytes(leaf.key_pem)
    return made


@pytest.fixture
def tls_port(certificates: Certificates) -> Iterator[int]:
    """A store with TLS. Debian's Redis supports TLS, but the wheel's Valkey does not."""
    port = free_port()
    options = ["--tls-port", str(port), "--tls-ca-cert-file", str(certificates.authority), "--tls-auth-clients", "no"]
    options += ["--tls-cert-file", str(certificates.certificate), "--tls-key-file", str(certificates.key)]
    with Store("redis", options=[*options, "--requirepass", PASSWORD]):
        yield port


def test_tls(tls_port: int, certificates: Certificates) -> None:
    assert_serves(f"rediss://:{PASSWORD}@localhost:{tls_port}/0?ssl_ca_certs={certificates.authority}")


def test_commands_read_many_replies_at_once_over_tls(tls_port: int, certificates: Certificates) -> None:
    """Commands use asyncio's event loop, which reads several TLS records into one buffer."""
    url = f"rediss://:{PASSWORD}@localhost:{tls_port}/0?ssl_ca_certs={certificates.authority}"
    result = command("reindex", environment={"USERSERVICE_REDIS_URL": url})
    assert (result.code, result.err) == (0, "")


def test_tls_with_an_untrusted_certificate(tls_port: int) -> None:
    with Proxy(tls_port) as proxy:
        with Service(redis_url=f"rediss://:{PASSWORD}@localhost:{proxy.port}/0", wait=False) as service:
            assert service.wait(30) == 2
            [line] = service.stderr
        assert proxy.accepted == 1, "waiting makes no certificate right"
    assert line.startswith("userservice: error: ")
    assert PASSWORD not in line
