"""Every RPC with every kind of credential: bad credentials are rejected with their reason, valid ones are accepted."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from harness.connections import OPTIONS, health, raw
from harness.credentials import (
    SECRET,
    Issuer,
    bearer,
    jwks,
    jwt_arguments,
    key_id,
    new_key,
    private,
    revoke,
    set_field,
)
from harness.failures import Failure, failure_of
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from loadgen import http2
from loadgen.h2load import grpc_frame
from userservice.v1.options_pb2 import required_scope
from userservice.v1.session_service_pb2 import AddSessionRequest
from userservice.v1.user_service_pb2 import (
    AddUserRequest,
    GetUserRequest,
    ListUsersChunkedRequest,
    ListUsersChunkedResponse,
    ListUsersRequest,
)
from userservice.v1.user_service_pb2_grpc import UserServiceStub
from userservice.v1.user_watch_pb2 import WatchKind, WatchUsersRequest
from userservice_server.transport.credentials import key_format
from userservice_server.transport.credentials.scopes import SCOPES

# With a window that does not grow, the server waits for a client that does not read.
SMALL_WINDOW = (*OPTIONS, ("grpc.http2.bdp_probe", 0))
PAST, FUTURE = "2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z"


@dataclass(frozen=True)
class Method:
    path: str
    scope: str
    streams_requests: bool
    streams_responses: bool


@dataclass
class Site:
    """A service with keys and tokens."""

    service: Service
    keys: Path
    issuer: Issuer
    stranger: Issuer

    def call(self, method: Method, metadata: list[tuple[str, str]]) -> Failure | None:
        """Calls with an empty request; returns the error."""
        shape = (
            f"{'stream' if method.streams_requests else 'unary'}_{'stream' if method.streams_responses else 'unary'}"
        )
        with grpc.insecure_channel(self.service.address, OPTIONS) as channel:
            request: Any = iter([b""]) if method.streams_requests else b""
            try:
                answer = getattr(channel, shape)(method.path)(request, timeout=10, metadata=metadata)
                if method.streams_responses:
                    list(answer)
            except grpc.RpcError as error:
                return failure_of(error)
        return None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, issuer = tmp_path_factory.mktemp("site"), Issuer()
    keys = folder / "keys.toml"
    first = new_key(keys)
    private(folder / "jwks.json", jwks(issuer))
    with (
        Store() as store,
        Service(
            *("--auth", "keys,jwt", "--keys-file", keys, *jwt_arguments(folder / "jwks.json")), redis_url=store.url
        ) as service,
    ):
        yield Site(service, keys, issuer, Issuer())
        assert service.stop() == 0
        assert not any(SECRET.search(line) for line in service.stderr)
    assert first


def methods_of(site: Site) -> list[Method]:
    """The methods of the service's own services, as reflection describes them."""
    key = loaded_key(site, "users.read")

    def ask(**request: Any) -> Any:
        with grpc.insecure_channel(site.service.address, OPTIONS) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            [answer] = stub.ServerReflectionInfo(
                iter([reflection_pb2.ServerReflectionRequest(**request)]), metadata=bearer(key), timeout=10
            )
            return answer

    found = []
    names = [service.name for service in ask(list_services="").list_services_response.service]
    for name in names:
        files = ask(file_containing_symbol=name).file_descriptor_response.file_descriptor_proto
        for proto in map(FileDescriptorProto.FromString, files):
            for service in proto.service:
                if f"{proto.package}.{service.name}" == name and name.startswith("userservice."):
                    found += [
                        Method(
                            f"/{name}/{method.name}",
                            method.options.Extensions[required_scope],
                            method.client_streaming,
                            method.server_streaming,
                        )
                        for method in service.method
                    ]
    return found


GET_USER = Method("/userservice.v1.UserService/GetUser", "users.read", False, False)  # noqa: FBT003


def is_accepted(failure: Failure | None) -> bool:
    return failure is None or failure.reason == "INVALID_FIELD"


def loaded_key(site: Site, scopes: str) -> str:
    """Creates a key, and waits until the service has loaded the keys file with this key and all earlier changes."""
    key = new_key(site.keys, scopes)
    marker = new_key(site.keys, "users.read")
    until(lambda: is_accepted(site.call(GET_USER, bearer(marker))))
    return key


def bad_credentials(site: Site) -> dict[str, list[tuple[str, str]]]:
    """Credentials that no method accepts, by their fault."""
    good, expired, early, revoked = (new_key(site.keys) for _ in range(4))
    set_field(site.keys, expired, f"expires_at = {PAST}")
    set_field(site.keys, early, f"not_before = {FUTURE}")
    revoke(site.keys, revoked)
    loaded_key(site, "admin")
    now, changed = int(time.time()), "A" if good[30] != "A" else "B"
    token = site.issuer.token()
    return {
        "missing": [],
        "empty": [("authorization", "")],
        "other scheme": [("authorization", f"Basic {good}")],
        "no scheme": [("authorization", good)],
        "scheme without a credential": [("authorization", "Bearer ")],
        "malformed key": bearer("usk_no_key"),
        "truncated key": bearer(good[:-3]),
        "wrong checksum": bearer(good[:-1] + ("0" if good[-1] != "0" else "1")),
        "wrong secret": bearer(with_checksum(good[:30] + changed + good[31:])),
        "unknown key": bearer(new_key(site.keys.with_name("elsewhere.toml"))),
        "expired key": bearer(expired),
        "key not yet valid": bearer(early),
        "revoked key": bearer(revoked),
        "two headers": bearer(good) + bearer(good),
        "malformed token": bearer("eyJhbGciOiJFUzI1NiJ9.x.y"),
        "unsigned token": bearer(token.rpartition(".")[0] + "."),
        "token of another signer": bearer(site.stranger.token()),
        "token of an unknown signer": bearer(Issuer("other").token()),
        "token of another issuer": bearer(site.issuer.token(iss="https://other.test")),
        "token for another audience": bearer(site.issuer.token(aud="billing")),
        "expired token": bearer(site.issuer.token(exp=now - 60)),
        "token without expiry": bearer(site.issuer.token(exp=None)),
        "token not yet valid": bearer(site.issuer.token(nbf=now + 600)),
    }


def with_checksum(key: str) -> str:
    body = key.rpartition("_")[0]
    return f"{body}_{key_format._checksum(body)}"


def test_every_rpc_rejects_every_bad_credential_and_accepts_the_right_one(site: Site) -> None:
    methods = methods_of(site)
    assert len(methods) == 20
    bad = bad_credentials(site)
    without_scope = {scope: new_key(site.keys, ",".join(sorted(SCOPES - {scope}))) for scope in SCOPES}
    with_scope = {scope: new_key(site.keys, scope) for scope in SCOPES}
    loaded_key(site, "admin")
    rejected = accepted = 0
    for method in methods:
        for name, metadata in bad.items():
            failure = site.call(method, metadata)
            assert failure is not None, f"{method.path} accepts a credential: {name}"
            expected = "CREDENTIALS_MISSING" if name == "missing" else "CREDENTIALS_INVALID"
            assert (failure.code, failure.reason) == ("UNAUTHENTICATED", expected), (method.path, name)
            assert failure.request_id
            rejected += 1
        lacking = {scope for scope in SCOPES if scope != method.scope}
        for credential in (without_scope[method.scope], site.issuer.token(" ".join(lacking)), site.issuer.token(None)):
            failure = site.call(method, bearer(credential))
            assert failure is not None
            assert (failure.code, failure.reason) == ("PERMISSION_DENIED", "SCOPE_MISSING"), method.path
            assert method.scope in failure.message
            assert failure.metadata == {"scope": method.scope}
            rejected += 1
        scope = method.scope
        for credential in (with_scope[scope], site.issuer.token(scope), site.issuer.token([scope, "openid"])):
            failure = site.call(method, bearer(credential))
            assert is_accepted(failure), (method.path, failure)
            accepted += 1
    assert (rejected, accepted) == (len(methods) * (len(bad) + 3), len(methods) * 3)


def test_a_watch_of_sessions_also_requires_the_scope_to_read_sessions(site: Site) -> None:
    stores_answer = "WATCH_DISABLED"  # the call was accepted; the feed of this store is off
    users_only, both = new_key(site.keys, "users.watch"), new_key(site.keys, "users.watch,sessions.read")
    loaded_key(site, "admin")
    tokens = [site.issuer.token("users.watch"), site.issuer.token("users.watch sessions.read")]
    for limited, full in ((users_only, both), tokens):
        for kinds in (["SESSIONS"], ["USERS", "SESSIONS"]):
            failure = watch(site, limited, kinds)
            assert (failure.code, failure.reason) == ("PERMISSION_DENIED", "SCOPE_MISSING")
            assert failure.metadata == {"scope": "sessions.read"}
            assert watch(site, full, kinds).reason == stores_answer
        assert watch(site, limited, ["USERS"]).reason == watch(site, limited, []).reason == stores_answer


def watch(site: Site, credential: str, kinds: list[str]) -> Failure:
    request = WatchUsersRequest(now=True, kinds=[WatchKind.Value(f"WATCH_KIND_{kind}") for kind in kinds])
    with grpc.insecure_channel(site.service.address, OPTIONS) as channel, pytest.raises(grpc.RpcError) as refused:
        list(UserServiceStub(channel).WatchUsers(request, metadata=tuple(bearer(credential)), timeout=10))
    return failure_of(refused.value)


def test_health_requires_no_credential_and_reflection_any_valid_credential(site: Site) -> None:
    assert health(site.service.address) == "SERVING"
    reflection = Method("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "", True, True)  # noqa: FBT003
    failure = site.call(reflection, [])
    assert failure
    assert failure.reason == "CREDENTIALS_MISSING"
    assert site.call(reflection, bearer(site.issuer.token(""))) is None


def test_a_rejected_call_is_logged_with_its_reason_and_without_the_credential(site: Site) -> None:
    key = new_key(site.keys.with_name("elsewhere.toml"))
    site.call(GET_USER, [*bearer(key), ("x-request-id", "rejected-1")])
    [line] = until(lambda: site.service.log_lines_with("rejected-1"))
    assert (line["code"], line["credential_fault"]) == ("UNAUTHENTICATED", "unknown key")
    assert key.split("_")[2] not in str(line)


def test_a_header_that_is_not_utf_8_is_rejected_and_not_logged(site: Site) -> None:
    key = new_key(site.keys)
    value = f"Bearer {key}".encode() + b"\xff"
    header = b"\x00\x0dauthorization" + bytes((len(value),)) + value
    connection = http2.Connection(site.service.port)
    block = http2.header_block("UserService/GetUser") + header + b"\x00\x0cx-request-id\x08not-utf8"
    connection.socket.sendall(connection.request(block, grpc_frame(GetUserRequest())))
    while not any(frame.ends_call for frame in connection.frames()):
        pass
    connection.close()
    [line] = until(lambda: site.service.log_lines_with("not-utf8"))
    assert (line["code"], line["credential_fault"]) == ("UNAUTHENTICATED", "malformed key")
    assert not site.service.log_lines_with(key.split("_")[2])


def test_the_access_log_names_the_caller(site: Site) -> None:
    key = new_key(site.keys, "users.read")
    until(lambda: is_accepted(site.call(GET_USER, [*bearer(key), ("x-request-id", "named-1")])))
    site.call(GET_USER, [*bearer(site.issuer.token("users.read")), ("x-request-id", "named-2")])
    [line] = until(lambda: [line for line in site.service.log_lines_with("named-1") if "caller" in line][:1])
    assert (line["credential"], line["caller"]) == ("key", key_id(key))
    [line] = until(lambda: site.service.log_lines_with("named-2"))
    assert (line["credential"], line["caller"]) == ("jwt", "job-7")


def test_calls_above_the_rate_of_a_key_are_rejected_for_the_time_in_the_error(site: Site) -> None:
    key = new_key(site.keys, "users.list", "--calls-per-second", "5")
    method = Method("/userservice.v1.UserService/ListUsers", "users.list", False, False)  # noqa: FBT003
    until(lambda: is_accepted(site.call(method, bearer(key))))
    failures = [site.call(method, bearer(key)) for _ in range(20)]
    limited = [failure for failure in failures if failure]
    assert limited
    assert {(failure.code, failure.reason) for failure in limited} == {("RESOURCE_EXHAUSTED", "RATE_LIMITED")}
    assert limited[0].quota == [f"key:{key_id(key)}"]
    assert 0 < (limited[-1].retry_after or 0) <= 0.3
    time.sleep(limited[-1].retry_after or 0)
    assert site.call(method, bearer(key)) is None
    assert until(lambda: [line for line in site.service.log_lines_with("calls_per_second") if "limit" in line])


@pytest.fixture(scope="module")
def filled_store() -> Iterator[Store]:
    """A store with enough users that a stream of small chunks lasts until it is ended."""
    with Store() as store:
        with Service(redis_url=store.url) as service, grpc.insecure_channel(service.address, OPTIONS) as channel:
            add = raw(channel).unary_unary("/userservice.v1.UserService/AddUser")
            calls = []
            for number in range(300):
                user = AddUserRequest(user_id=f"u{number}")
                user.metadata["filler"] = "x" * 40_000
                calls.append(add.future(user.SerializeToString()))
            for call in calls:
                call.result(10)
            assert service.stop() == 0
        yield store


@pytest.mark.parametrize("workers", [pytest.param("1", marks=pytest.mark.long), "2"])
def test_a_revoked_key_is_rejected_within_2_seconds_on_every_worker(
    filled_store: Store, tmp_path: Path, workers: str
) -> None:
    keys = tmp_path / "keys.toml"
    key, other = new_key(keys), new_key(keys)
    options: list[str | Path] = ["--auth", "keys", "--keys-file", keys, "--workers", workers]
    with Service(*options, redis_url=filled_store.url) as service:
        channels = [grpc.insecure_channel(service.address, SMALL_WINDOW) for _ in range(8)]
        listings = [raw(channel).unary_unary("/userservice.v1.UserService/ListUsers") for channel in channels]
        streams = [
            raw(channel).unary_stream("/userservice.v1.UserService/ListUsersChunked")(
                ListUsersChunkedRequest(chunk_size=1).SerializeToString(), metadata=bearer(key), timeout=60
            )
            for channel in channels
        ]
        first = [next(stream) for stream in streams]
        assert all(first)
        assert all(listing(b"", metadata=bearer(key), timeout=10) for listing in listings)
        revoke(keys, key)
        revoked = time.time()
        lines = until(lambda: [*all_of(8, service.log_lines_with("ListUsersChunked"))])
        for line in lines:  # the test does not read the streams, which is the slowest case
            assert line["credential_fault"] == "revoked key"
            assert datetime.fromisoformat(line["time"]).timestamp() - revoked < 2
        for listing in listings:
            with pytest.raises(grpc.RpcError) as raised:
                listing(b"", metadata=bearer(key), timeout=10)
            assert failure_of(raised.value).reason == "CREDENTIALS_INVALID"
            assert listing(b"", metadata=bearer(other), timeout=10)
        for stream in streams:
            failure, cursor = rest_of(stream)
            assert (failure.code, failure.reason) == ("UNAUTHENTICATED", "CREDENTIALS_INVALID")
            assert int(failure.metadata["next_cursor"]) == cursor
        for channel in channels:
            channel.close()
        assert service.stop() == 0


def all_of(count: int, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return lines if len(lines) == count else []


def rest_of(stream: Any) -> tuple[Failure, int]:
    """Reads a stream to its end; returns the error and the last cursor."""
    cursor = 0
    try:
        while True:
            cursor = ListUsersChunkedResponse.FromString(next(stream)).next_cursor
    except grpc.RpcError as error:
        return failure_of(error), cursor


@pytest.mark.long
def test_a_stream_ends_when_its_credential_expires_and_resumes_with_another(
    filled_store: Store, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.toml"
    key, other = new_key(keys), new_key(keys)
    with Service("--auth", "keys", "--keys-file", keys, redis_url=filled_store.url) as service:
        with grpc.insecure_channel(service.address, SMALL_WINDOW) as channel:
            method = raw(channel).unary_stream("/userservice.v1.UserService/ListUsersChunked")
            stream = method(ListUsersChunkedRequest(chunk_size=1).SerializeToString(), metadata=bearer(key))
            assert next(stream)
            soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 2))
            set_field(keys, key, f"expires_at = {soon}")
            until(lambda: service.log_lines_with("ListUsersChunked"))
            failure, cursor = rest_of(stream)
            assert failure.reason == "CREDENTIALS_INVALID"
            assert int(failure.metadata["next_cursor"]) == cursor
            request = ListUsersChunkedRequest(cursor=cursor)
            rest = list(method(request.SerializeToString(), metadata=bearer(other)))
            assert rest
        assert service.stop() == 0


def test_streams_above_the_limit_of_a_key_are_rejected(filled_store: Store, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    key = new_key(keys, "users.list", "--max-streams", "2")
    with Service("--auth", "keys", "--keys-file", keys, redis_url=filled_store.url) as service:
        with grpc.insecure_channel(service.address, SMALL_WINDOW) as channel:
            method = raw(channel).unary_stream("/userservice.v1.UserService/ListUsersChunked")
            request = ListUsersChunkedRequest(chunk_size=1).SerializeToString()
            streams = [method(request, metadata=bearer(key)) for _ in range(2)]
            assert all(next(stream) for stream in streams)
            with pytest.raises(grpc.RpcError) as raised:
                next(method(request, metadata=bearer(key)))
            failure = failure_of(raised.value)
            assert (failure.reason, failure.quota) == ("RATE_LIMITED", [f"key:{key_id(key)}"])
            assert failure.retry_after
            streams[0].cancel()
            until(lambda: is_started(method(request, metadata=bearer(key))))
        assert service.stop() == 0


def is_started(stream: Any) -> bool:
    try:
        return bool(next(stream))
    except grpc.RpcError as error:
        if failure_of(error).reason != "RATE_LIMITED":
            raise
        return False


def test_a_rejected_call_does_not_reach_the_store(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    new_key(keys)
    with Store() as store, Service("--auth", "keys", "--keys-file", keys, redis_url=store.url) as service:

        def scripts() -> int:
            with store.client() as client:
                return int(client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])

        with grpc.insecure_channel(service.address, OPTIONS) as channel:
            get = raw(channel).unary_unary("/userservice.v1.UserService/GetUser")
            request, before = GetUserRequest(user_id="ada").SerializeToString(), scripts()
            started = time.monotonic()
            for _ in range(200):
                with pytest.raises(grpc.RpcError):
                    get(request, timeout=10)
            probes = (time.monotonic() - started) / 0.5 + 10  # of the supervision of the store
            assert scripts() - before <= probes
        assert service.stop() == 0


def test_requests_of_a_rejected_caller_are_not_decoded(site: Site) -> None:
    with grpc.insecure_channel(site.service.address, OPTIONS) as channel:
        for request in (AddSessionRequest(user_id="").SerializeToString(), b"\xff" * 1000, ListUsersRequest(limit=-1)):
            content = request if isinstance(request, bytes) else request.SerializeToString()
            with pytest.raises(grpc.RpcError) as raised:
                raw(channel).unary_unary("/userservice.v1.UserService/ListUsers")(content, timeout=10)
            assert failure_of(raised.value).reason == "CREDENTIALS_MISSING"
