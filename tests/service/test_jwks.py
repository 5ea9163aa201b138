"""A service whose token issuer is unavailable at first, and later replaces its keys."""

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from harness.connections import OPTIONS, health, raw
from harness.credentials import Issuer, authority, bearer, issued, jwks, jwt_arguments, new_key, private
from harness.failures import Failure, failure_of
from harness.jwks_server import JwksServer
from harness.programs import command_line, descendants
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

LIST = "/userservice.v1.UserService/ListUsers"


def call(service: Service, token: str, method: str = LIST) -> Failure | None:
    with grpc.insecure_channel(service.address, OPTIONS) as channel:
        try:
            raw(channel).unary_unary(method)(b"", timeout=10, metadata=bearer(token))
        except grpc.RpcError as error:
            return failure_of(error)
    return None


def reason(failure: Failure | None) -> str:
    return failure.reason if failure else ""


@pytest.mark.long
def test_the_service_starts_without_the_issuer_and_fetches_its_keys_later(tmp_path: Path) -> None:
    root, first, second = authority(), Issuer("first"), Issuer("second", "RS256")
    private(tmp_path / "roots.pem", root.certificate.public_bytes(Encoding.PEM))
    keys = tmp_path / "keys.toml"
    key = new_key(keys)
    with Store() as store, JwksServer(issued(root), tmp_path, jwks(first)) as server:
        server.status = 503
        options = ["--auth", "keys,jwt", "--keys-file", keys, *jwt_arguments(server.url)]
        environment = {"SSL_CERT_FILE": str(tmp_path / "roots.pem")}
        with Service(*options, redis_url=store.url, environment=environment) as service:
            assert health(service.address) == health(service.address, "userservice.v1.UserService") == "NOT_SERVING"
            failure = call(service, first.token())
            assert failure
            assert (failure.code, failure.reason) == ("UNAVAILABLE", "AUTHENTICATION_UNAVAILABLE")
            assert failure.retry_after == 1
            assert call(service, key) is None, "keys do not depend on the issuer"

            server.status = 200
            until(lambda: health(service.address) == "SERVING")
            assert call(service, first.token()) is None

            server.content = jwks(second)  # replaced without notice, so the unknown key id causes a fetch
            assert call(service, second.token()) is None
            assert reason(call(service, first.token())) == "CREDENTIALS_INVALID", "the issuer removed its key"
            requests = server.requests
            for _ in range(20):
                assert reason(call(service, Issuer("third").token())) == "CREDENTIALS_INVALID"
            assert server.requests == requests, "at most one fetch in 30 s for unknown key ids"

            server.status = 500
            assert call(service, second.token()) is None
            assert health(service.address) == "SERVING"
            assert service.stop() == 0
            assert any(line["cause"] == "HTTP status 503" for line in service.log_lines_with("JWKS refresh failed"))
            assert not any(server.url.partition("//")[2] in line for line in service.stderr)


@pytest.mark.long
def test_a_stream_ends_when_the_issuer_removes_the_key(tmp_path: Path) -> None:
    issuer, path = Issuer(), tmp_path / "jwks.json"
    private(path, jwks(issuer))
    with Store() as store, Service("--auth", "jwt", *jwt_arguments(path), redis_url=store.url) as service:
        with grpc.insecure_channel(service.address, OPTIONS) as channel:
            is_over = threading.Event()

            def requests() -> Iterator[bytes]:
                yield ServerReflectionRequest(list_services="").SerializeToString()
                is_over.wait(20)

            method = raw(channel).stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
            stream = method(requests(), metadata=bearer(issuer.token("")))
            assert next(stream)
            private(path, jwks(Issuer("second")))
            line = until(lambda: service.log_lines_with("credential_fault"))[0]
            assert line["credential_fault"] == "signing key removed"
            with pytest.raises(grpc.RpcError) as raised:
                next(stream)
            assert failure_of(raised.value).reason == "CREDENTIALS_INVALID"
            is_over.set()
        assert service.stop() == 0


def test_no_secret_is_in_logs_errors_or_the_list_of_processes(tmp_path: Path) -> None:
    issuer, keys = Issuer(), tmp_path / "keys.toml"
    key = new_key(keys, "users.read")
    private(tmp_path / "jwks.json", jwks(issuer))
    tokens = [
        key,
        key[:-1] + "x",
        issuer.token("users.read"),
        issuer.token("users.read", exp=1),
        issuer.token(email="canary7f3a@x"),
        "canary7f3a",
        "usk_canary7f3a",
        Issuer("canary7f3a").token(),
    ]
    # The last part of a token is its signature; a key has its secret in its third part.
    secrets = [token.split("." if token.startswith("ey") else "_")[2] for token in tokens if len(token) > 20]
    secrets += ["canary7f3a", key]
    options = [
        "--auth",
        "keys,jwt",
        "--keys-file",
        keys,
        *jwt_arguments(tmp_path / "jwks.json"),
        "--log-level",
        "debug",
    ]
    with Store() as store, Service(*options, "--log-level", "debug", redis_url=store.url) as service:
        errors = [call(service, token, method) for token in tokens for method in (LIST, LIST.replace("List", "Get"))]
        private(keys, f"[keys.{key}]\n")
        until(lambda: service.log_lines_with("reload failed"))
        shown = [command_line(pid) for pid in (service.pid, *descendants(service.pid))]
        shown.append(subprocess.run(["ps", "aux"], capture_output=True, text=True, check=True).stdout)
        assert service.stop() == 0
        texts = [*service.stderr, *service.stdout, *shown, *(f"{error} {error.raw!r}" for error in errors if error)]
    assert len(errors) == 16
    assert [secret for secret in secrets for text in texts if secret and secret in text] == []
