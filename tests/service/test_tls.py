"""TLS and client certificates, and their replacement without a restart."""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from harness.connections import OPTIONS, raw
from harness.credentials import (
    Identity,
    TlsFiles,
    authority,
    bearer,
    channel_credentials,
    issued,
    new_key,
    private,
)
from harness.failures import Failure, failure_of
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

ROOT = authority()
LIST = "/userservice.v1.UserService/ListUsers"
HEALTH = "/grpc.health.v1.Health/Check"


@pytest.fixture(scope="module")
def plain_store() -> Iterator[Store]:
    with Store() as store:
        yield store


def call(
    service: Service,
    root: Identity = ROOT,
    client: Identity | None = None,
    metadata: list[tuple[str, str]] | None = None,
    method: str = LIST,
) -> Failure | None:
    """Calls on a new connection; returns the error."""
    with grpc.secure_channel(service.address, channel_credentials(root, client), OPTIONS) as channel:
        try:
            raw(channel).unary_unary(method)(b"", timeout=10, metadata=metadata)
        except grpc.RpcError as error:
            return failure_of(error)
    return None


def handshakes(service: Service, root: Identity, client: Identity | None = None) -> bool:
    failure = call(service, root, client, method=HEALTH)
    assert failure is None or failure.code == "UNAVAILABLE", failure
    return failure is None


def negotiated(service: Service, version: ssl.TLSVersion) -> str:
    """Connects with one version of TLS; returns the version if the service accepts it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")  # OpenSSL offers TLS 1.1 at this level only
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as plain:
        try:
            with context.wrap_socket(plain) as encrypted:
                return encrypted.version() or ""
        except OSError:  # an alert, or a closed connection
            return "rejected"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
@pytest.mark.parametrize("kind", ["rsa", pytest.param("ecdsa", marks=pytest.mark.long)])
def test_a_chain_of_each_kind_of_key_is_served(plain_store: Store, tmp_path: Path, kind: str) -> None:
    intermediate = authority("intermediate", ROOT)
    files = TlsFiles(tmp_path).write(issued(intermediate, kind=kind))
    with Service(*files.arguments, redis_url=plain_store.url) as service:
        assert call(service) is None
        assert not handshakes(service, authority("stranger"))
        with grpc.insecure_channel(service.address, OPTIONS) as channel, pytest.raises(grpc.RpcError):
            raw(channel).unary_unary(LIST)(b"", timeout=5)
        versions = (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
        found = [negotiated(service, version) for version in versions]
        assert found == ["rejected", "TLSv1.2", "TLSv1.3"]
        assert service.stop() == 0  # writes all log lines
        [line] = service.log_lines_with("TLS certificate in use")
        assert 89 < line["days_left"] < 91


@pytest.mark.long
def test_clients_reject_a_certificate_for_another_host(plain_store: Store, tmp_path: Path) -> None:
    files = TlsFiles(tmp_path).write(issued(ROOT, ["elsewhere.test"]))
    with Service(*files.arguments, redis_url=plain_store.url) as service:
        assert not handshakes(service, ROOT)
        assert service.stop() == 0


def rotate(folder: Path, identity: Identity, number: int) -> None:
    """Replaces a mounted secret as Kubernetes does: a new directory, and a symbolic link that changes in one step."""
    version = folder / f"..v{number}"
    version.mkdir()
    TlsFiles(version).write(identity)
    link = folder / "..new"
    link.symlink_to(version.name)
    link.replace(folder / "..data")


@contextlib.contextmanager
def mounted(folder: Path, store: Store) -> Iterator[Service]:
    rotate(folder, issued(ROOT), 0)
    for name in ("tls.crt", "tls.key"):
        (folder / name).symlink_to(f"..data/{name}")
    with Service(*TlsFiles(folder).arguments, "--access-log", "false", redis_url=store.url) as service:
        yield service
        assert service.stop() == 0


def has_reloaded(service: Service, times: int) -> bool:
    return len(service.log_lines_with('"reloaded"')) == times


@pytest.mark.parametrize(
    ("rotations", "calls"), [(3, 30), pytest.param(100, 1000, marks=[pytest.mark.long, pytest.mark.timeout(300)])]
)
def test_no_handshake_fails_while_certificates_are_rotated(
    plain_store: Store, tmp_path: Path, rotations: int, calls: int
) -> None:
    with mounted(tmp_path, plain_store) as service:
        seen, made = set(), 0
        credentials = channel_credentials(ROOT)
        for number in range(1, rotations + 1):
            rotate(tmp_path, issued(ROOT), number)
            for _ in range(calls // rotations):
                with grpc.secure_channel(service.address, credentials, OPTIONS) as channel:
                    assert raw(channel).unary_unary(HEALTH)(b"", timeout=10)
                made += 1
            until(partial(has_reloaded, service, number))
            seen.add(service.log_lines_with("TLS certificate in use")[-1]["expires"])
        assert made == calls // rotations * rotations
        assert service.log_lines_with("reload failed") == []


@pytest.mark.long
def test_a_new_root_affects_new_connections_and_open_connections_continue(plain_store: Store, tmp_path: Path) -> None:
    new_root = authority("new root")
    files = TlsFiles(tmp_path).write(issued(ROOT))
    with Service(*files.arguments, redis_url=plain_store.url) as service:
        with grpc.secure_channel(service.address, channel_credentials(ROOT), OPTIONS) as channel:
            assert raw(channel).unary_unary(HEALTH)(b"", timeout=10)
            files.write(issued(new_root, kind="rsa"))
            until(lambda: handshakes(service, new_root))
            assert not handshakes(service, ROOT)
            assert raw(channel).unary_unary(HEALTH)(b"", timeout=10)
        assert service.stop() == 0


@pytest.mark.long
def test_an_invalid_new_pair_is_logged_and_the_last_valid_pair_stays_in_use(plain_store: Store, tmp_path: Path) -> None:
    files = TlsFiles(tmp_path).write(issued(ROOT))
    with Service(*files.arguments, redis_url=plain_store.url) as service:
        bad: dict[str, Callable[[], object]] = {
            "is not the key of": lambda: private(tmp_path / "tls.key", issued(ROOT).key_pem),
            "or ECDSA P-256": lambda: files.write(issued(ROOT, key=ec.generate_private_key(ec.SECP224R1()))),
            "expired on": lambda: files.write(issued(ROOT, starts=timedelta(-9), ends=timedelta(-1))),
            "must contain certificates": lambda: private(tmp_path / "tls.crt", b"hello"),
            "other users can read": lambda: private(tmp_path / "tls.key", issued(ROOT).key_pem, 0o644),
            "cannot be read": (tmp_path / "tls.crt").unlink,
        }
        for number, (fault, spoil) in enumerate(bad.items(), 1):
            spoil()
            lines = until(partial(service.log_lines_with, fault))
            assert lines[0]["message"].startswith("reload failed")
            assert (lines[0]["level"], lines[0]["failures"]) == ("ERROR", number)
            assert handshakes(service, ROOT)
        files.write(issued(ROOT))
        until(lambda: service.log_lines_with('"reloaded"'))
        assert handshakes(service, ROOT)
        assert not any("PRIVATE KEY" in line for line in service.stderr)
        assert service.stop() == 0


CALLER_ROOT = authority("callers")
SPIFFE = "spiffe://example.org/ns/jobs/export"


@pytest.fixture
def mtls(plain_store: Store, tmp_path: Path) -> Iterator[tuple[Service, Path, Path]]:
    files = TlsFiles(tmp_path).write(issued(ROOT))
    keys, ca = tmp_path / "keys.toml", tmp_path / "ca.crt"
    private(
        keys,
        f'[certificates."{SPIFFE}"]\nscopes = ["users.list"]\n'
        '[certificates."reader.example.org"]\nscopes = ["users.read"]\n',
    )
    private(ca, CALLER_ROOT.certificate.public_bytes(Encoding.PEM), 0o644)
    arguments: list[Any] = [*files.arguments, "--tls-client-ca", ca, "--tls-client-auth", "require"]
    with Service(*arguments, "--auth", "mtls,keys", "--keys-file", keys, redis_url=plain_store.url) as service:
        yield service, keys, ca
        assert service.stop() == 0


def reason(failure: Failure | None) -> str:
    return failure.reason if failure else ""


def test_a_certificate_is_mapped_to_scopes_and_a_bearer_token_replaces_it(mtls: tuple[Service, Path, Path]) -> None:
    service, keys, _ = mtls
    lister, reader = issued(CALLER_ROOT, [SPIFFE]), issued(CALLER_ROOT, ["reader.example.org"])
    assert call(service, client=lister) is None
    assert reason(call(service, client=reader)) == "SCOPE_MISSING"
    assert reason(call(service, client=issued(CALLER_ROOT, ["someone.example.org"]))) == "CREDENTIALS_INVALID"
    assert reason(call(service, client=issued(CALLER_ROOT, []))) == "CREDENTIALS_INVALID"
    both = issued(CALLER_ROOT, [SPIFFE, "reader.example.org"])
    assert reason(call(service, client=both)) == "CREDENTIALS_INVALID"
    key = new_key(keys, "users.list")
    until(lambda: call(service, client=reader, metadata=bearer(key)) is None)
    assert reason(call(service, client=lister, metadata=bearer("usk_x"))) == "CREDENTIALS_INVALID"
    line = until(lambda: [line for line in service.log_lines_with(SPIFFE) if line["code"] == "OK"])[0]
    assert (line["credential"], line["caller"]) == ("certificate", SPIFFE)


def test_every_connection_needs_a_certificate_of_the_callers_authority(mtls: tuple[Service, Path, Path]) -> None:
    service, _, _ = mtls
    assert handshakes(service, ROOT, issued(CALLER_ROOT, ["probe"]))
    assert not handshakes(service, ROOT)
    assert not handshakes(service, ROOT, issued(authority("another"), [SPIFFE]))
    assert not handshakes(service, ROOT, issued(CALLER_ROOT, [SPIFFE], starts=timedelta(-9), ends=timedelta(-1)))


@pytest.mark.long
def test_the_expiry_of_a_certificate_is_checked_on_each_call(mtls: tuple[Service, Path, Path]) -> None:
    service, _, _ = mtls
    client = issued(CALLER_ROOT, [SPIFFE], ends=timedelta(seconds=4))
    with grpc.secure_channel(service.address, channel_credentials(ROOT, client), OPTIONS) as channel:
        method = raw(channel).unary_unary(LIST)
        assert method(b"", timeout=10) is not None
        time.sleep(4)
        with pytest.raises(grpc.RpcError) as raised:
            method(b"", timeout=10)
        assert failure_of(raised.value).reason == "CREDENTIALS_INVALID"
    lines = until(lambda: service.log_lines_with("credential_fault"))
    assert lines[-1]["credential_fault"] == "expired certificate"


@pytest.mark.long
def test_a_removed_authority_affects_only_new_connections(mtls: tuple[Service, Path, Path]) -> None:
    service, _, ca = mtls
    client, successor = issued(CALLER_ROOT, [SPIFFE]), authority("successor")
    with grpc.secure_channel(service.address, channel_credentials(ROOT, client), OPTIONS) as channel:
        assert raw(channel).unary_unary(LIST)(b"", timeout=10) is not None
        private(ca, successor.certificate.public_bytes(Encoding.PEM))
        until(lambda: handshakes(service, ROOT, issued(successor, [SPIFFE])))
        assert not handshakes(service, ROOT, client)
        assert raw(channel).unary_unary(LIST)(b"", timeout=10) is not None
