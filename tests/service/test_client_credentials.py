"""Tokens and TLS files of the Python managers, with the real service."""

import asyncio
import gc
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from functools import partial
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
from harness.credentials import (
    Identity,
    Issuer,
    TlsFiles,
    authority,
    issued,
    jwks,
    jwt_arguments,
    new_key,
    private,
    revoke,
)
from harness.jwks_server import JwksServer
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice import (
    AuthenticationUnavailableError,
    CredentialsInvalidError,
    CredentialsMissingError,
    DeadlineExceededError,
    RateLimitedError,
    ScopeMissingError,
    SessionManager,
    SyncSessionManager,
    SyncUserManager,
    UnavailableError,
    UserManager,
    UserServiceError,
)

ROOT = authority()
NAMES = [f"u{number}" for number in range(250)]
KINDS: dict[str, tuple[type[Any], type[Any]]] = {
    "asyncio": (UserManager, SessionManager),
    "blocking": (SyncUserManager, SyncSessionManager),
}


class Client:
    """A manager of either kind, called in the same way."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._runner = asyncio.Runner()
        self.manager = make()

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        result = getattr(self.manager, method)(*arguments, **options)
        return self._runner.run(self._await(result)) if inspect.isawaitable(result) else result

    async def _await(self, result: Any) -> Any:
        return await result

    def chunks(self, size: int) -> Iterator[Any]:
        stream = self.manager.list_chunked(size)
        if not hasattr(stream, "__anext__"):
            yield from stream
            return
        while (chunk := self._runner.run(anext(stream, None))) is not None:
            yield chunk

    def concurrent_gets(self, names: list[str]) -> list[str]:
        """Gets users concurrently; returns their user_ids."""
        if isinstance(self.manager, SyncUserManager):
            with futures.ThreadPoolExecutor(len(names)) as threads:
                return [user.user_id for user in threads.map(self.manager.get, names)]
        return self._runner.run(self._concurrent_gets(names))

    async def _concurrent_gets(self, names: list[str]) -> list[str]:
        return [user.user_id for user in await asyncio.gather(*map(self.manager.get, names))]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.call("close")
        self._runner.close()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with Store() as store:
        with Service(redis_url=store.url) as service:
            with SyncUserManager(service.address) as manager, futures.ThreadPoolExecutor(8) as threads:
                # So many that buffers cannot hold all of them.
                filler = {"filler": "x" * 60_000}
                list(threads.map(lambda name: manager.add(user_id=name, metadata=filler), NAMES))
                manager.add(user_id="ada")
            assert service.stop() == 0
        yield store


class Site:
    """A service with TLS, keys and tokens."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.address = service.address
        self.keys = folder / "keys.toml"
        self.issuer = Issuer()
        self.key = ""
        self.log = service.log_lines_with

    def loaded_key(self, *options: str) -> str:
        """Returns a new key that the service already accepts."""
        key = new_key(self.keys, *options)
        self.wait(key, is_valid=True)
        return key

    def wait(self, key: str, *, is_valid: bool) -> None:
        def is_done() -> bool:
            try:
                with SyncUserManager(self.address, token=key, ca=ROOT.cert_pem) as manager:
                    manager.get("ada")
            except (CredentialsInvalidError, ScopeMissingError) as error:
                return isinstance(error, ScopeMissingError) == is_valid
            return is_valid

        until(is_done)

    def revoke(self, key: str) -> None:
        revoke(self.keys, key)
        self.wait(key, is_valid=False)


@pytest.fixture(scope="module")
def site(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    key = new_key(folder / "keys.toml")
    files = TlsFiles(folder).write(issued(ROOT))
    options = [*files.arguments, "--auth", "keys", "--keys-file", folder / "keys.toml"]
    with Service(*options, redis_url=store.url) as service:
        made = Site(service, folder)
        made.key = key
        yield made
        assert service.stop() == 0


def made(site: Site, kind: str, index: int = 0, **options: Any) -> Client:
    return Client(lambda: KINDS[kind][index](site.address, **{"ca": ROOT.cert_pem, **options}))


def sources(token: str, kind: str) -> list[Any]:
    async def ask() -> str:
        await asyncio.sleep(0)
        return token

    return [token, lambda: token, *([ask] if kind == "asyncio" else [])]


def test_each_kind_of_token_is_sent_with_calls_and_streams(site: Site, kind: str) -> None:
    for source in sources(site.key, kind):
        with made(site, kind, token=source) as client:
            assert client.call("get", "ada").user_id == "ada"
            assert sum(len(chunk) for chunk in client.chunks(50)) == 251
        with made(site, kind, 1, token=source) as client:
            assert client.call("list", "ada") == []


def test_each_reason_has_its_exception(site: Site, kind: str) -> None:
    with made(site, kind) as client, pytest.raises(CredentialsMissingError):
        client.call("get", "ada")
    for source in sources("usk_unknown", kind):
        with made(site, kind, token=source) as client, pytest.raises(CredentialsInvalidError) as raised:
            client.call("get", "ada")
        assert "usk_unknown" not in str(raised.value)
    reader = site.loaded_key("users.read")
    with made(site, kind, token=reader) as client, pytest.raises(ScopeMissingError, match=r"users\.list"):
        client.call("list")


class Tokens:
    """A callable that returns the given tokens in turn, and then the last one."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = tokens
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        return self.tokens[min(self.calls, len(self.tokens)) - 1]


def test_a_rejected_token_is_renewed_once(site: Site, kind: str) -> None:
    tokens = Tokens(site.key, "usk_revoked", site.key)
    with made(site, kind, token=tokens) as client:
        client.call("get", "ada")
        assert tokens.calls == 1
        client.call("get", "ada")
        assert tokens.calls == 3
    rejected = Tokens("usk_revoked")
    with made(site, kind, token=rejected) as client:
        for calls in (2, 4):
            with pytest.raises(CredentialsInvalidError):
                client.call("get", "ada")
            assert rejected.calls == calls


def test_a_rejected_token_is_renewed_for_shared_reads(site: Site, kind: str) -> None:
    for names in (["ada"], NAMES[:20]):
        with made(site, kind, token=Tokens("usk_revoked", site.key), share_reads=True) as client:
            assert client.concurrent_gets(names) == names


def has_lines(site: Site, name: str, count: int) -> bool:
    return len(site.log(name)) == count


def test_a_rejected_string_is_not_sent_again(site: Site, kind: str) -> None:
    for source, calls in (("usk_revoked", 1), (lambda: "usk_revoked", 2)):
        name = f"rejected-{kind}-{calls}"
        metadata = [("x-request-id", name)]
        with made(site, kind, token=source, metadata=metadata) as client, pytest.raises(CredentialsInvalidError):
            client.call("get", "ada")
        until(partial(has_lines, site, name, calls))
        time.sleep(0.1)  # for further lines
        assert len(site.log(name)) == calls


def test_a_stream_continues_with_a_new_token_when_its_key_is_revoked(site: Site, kind: str) -> None:
    first = site.loaded_key()
    tokens = Tokens(first, site.key)
    name = f"revoked-{kind}"
    with made(site, kind, token=tokens, metadata=[("x-request-id", name)]) as client:
        names: list[str] = []
        for chunk in client.chunks(1):
            if not names:
                site.revoke(first)
                until(lambda: site.log(name))  # the service has ended the stream
            names += [user.user_id for user in chunk]
    assert sorted(names) == sorted([*NAMES, "ada"])
    assert tokens.calls == 2


def test_from_env_follows_a_replaced_token_file(
    site: Site, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = site.loaded_key()
    token = private(tmp_path / "token", f"{old}\n")
    private(tmp_path / "ca", ROOT.cert_pem)
    settings = {"ADDRESS": site.address, "TOKEN_FILE": token, "CA": tmp_path / "ca"}
    for name, value in settings.items():
        monkeypatch.setenv(f"USERSERVICE_{name}", str(value))
    with Client(KINDS[kind][0].from_env) as client:
        client.call("get", "ada")
        private(token, site.key)
        site.revoke(old)
        client.call("get", "ada")
        assert old not in repr(client.manager)


def test_the_exceptions_of_a_callable_reach_the_caller(site: Site, kind: str) -> None:
    def fail() -> str:
        raise LookupError("no token")

    with made(site, kind, token=fail) as client:
        with pytest.raises(LookupError, match="no token"):
            client.call("get", "ada")
        with pytest.raises(LookupError, match="no token"):
            next(client.chunks(1))
    for wrong, message in ((5, "must be a string, not int"), ("sec\nret", "line break")):
        with made(site, kind, token=lambda wrong=wrong: wrong) as client:
            with pytest.raises((TypeError, ValueError), match=message) as raised:
                client.call("get", "ada")
            assert "sec" not in str(raised.value)


def test_an_async_callable_has_the_deadline_of_the_call(site: Site) -> None:
    async def hang() -> str:
        await asyncio.sleep(60)
        return ""

    with made(site, "asyncio", token=hang) as client:
        with pytest.raises(DeadlineExceededError, match="the callable token"):
            client.call("get", "ada", timeout=0.1)
        with pytest.raises(DeadlineExceededError, match="the callable token"):
            client.call("add", user_id="nobody", timeout=0.1)
    with made(site, "blocking", token=hang) as client, pytest.raises(TypeError, match="not an async callable"):
        client.call("get", "ada")


def test_calls_above_the_rate_wait_for_the_delay_of_the_service(site: Site, kind: str) -> None:
    key = site.loaded_key("*", "--calls-per-second", "20")
    with made(site, kind, token=key) as client:
        for _ in range(40):  # 20 at once, and the others within a second
            client.call("get", "ada")
    key = site.loaded_key("*", "--calls-per-second", "1")
    with made(site, kind, token=key) as client, pytest.raises(RateLimitedError) as raised:  # noqa: PT012 - see below
        for _ in range(3):  # the first of these calls succeeds
            client.call("get", "ada", timeout=0.5)
    assert raised.value.retry_delay


@pytest.mark.long
def test_calls_wait_until_the_service_has_the_keys_of_the_issuer(store: Store, tmp_path: Path) -> None:
    issuer = Issuer()
    with JwksServer(issued(ROOT), tmp_path) as server:
        server.status = 500
        private(tmp_path / "roots.pem", ROOT.cert_pem)
        options = ["--auth", "jwt", *jwt_arguments(server.url)]
        with Service(
            *options, redis_url=store.url, environment={"SSL_CERT_FILE": str(tmp_path / "roots.pem")}
        ) as service:
            with SyncUserManager(service.address, token=issuer.token()) as manager:
                with pytest.raises(AuthenticationUnavailableError, match=r"[1-9]\d* attempts failed|keys") as raised:
                    manager.get("ada", timeout=0.5)
                assert isinstance(raised.value, UnavailableError)
                server.status, server.content = 200, jwks(issuer)
                assert manager.get("ada", timeout=60).user_id == "ada"
            assert service.stop() == 0


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED])
def test_a_rejection_by_a_proxy_renews_the_token_if_it_is_not_authenticated(kind: str, code: grpc.StatusCode) -> None:
    class Proxy(grpc.GenericRpcHandler):
        def service(self, _: grpc.HandlerCallDetails) -> Any:
            def refuse(_: bytes, context: grpc.ServicerContext) -> bytes:
                context.abort(code, "Jwt is expired")

            return grpc.unary_unary_rpc_method_handler(refuse)

    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[Proxy()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    tokens = Tokens("a", "b")
    with (
        Client(lambda: KINDS[kind][0](f"127.0.0.1:{port}", token=tokens)) as client,
        pytest.raises(UserServiceError, match="Jwt is expired") as raised,
    ):
        client.call("get", "ada")
    assert (raised.value.code, raised.value.reason) == (code, "")
    assert tokens.calls == (2 if code is grpc.StatusCode.UNAUTHENTICATED else 1)
    server.stop(None).wait()


def test_many_threads_share_a_token_callable(site: Site) -> None:
    tokens = Tokens(site.key)
    with SyncUserManager(site.address, ca=ROOT.cert_pem, token=tokens) as manager:
        threads = [threading.Thread(target=manager.get, args=("ada",)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert tokens.calls == 8


def certificates(folder: Path, root: Identity, client: Identity) -> dict[str, Any]:
    return {
        "ca": private(folder / "ca.pem", root.cert_pem),
        "cert": private(folder / "client.crt", client.cert_pem),
        "key": private(folder / "client.key", client.key_pem),
    }


@pytest.fixture(scope="module")
def mutual(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Path]]:
    """A service that requires client certificates, and the folder of its files."""
    folder = tmp_path_factory.mktemp("mutual")
    keys = private(folder / "keys.toml", '[certificates."a.test"]\nscopes = ["*"]\n')
    client_ca = private(folder / "clients.pem", ROOT.cert_pem)
    files = TlsFiles(folder).write(issued(ROOT))
    options = [*files.arguments, "--auth", "mtls", "--keys-file", keys]
    options += ["--tls-client-ca", client_ca, "--tls-client-auth", "require"]
    with Service(*options, redis_url=store.url) as service:
        yield service, folder
        assert service.stop() == 0


def test_a_client_certificate_is_sent(mutual: tuple[Service, Path], kind: str, tmp_path: Path) -> None:
    service, _ = mutual
    settings = certificates(tmp_path, ROOT, issued(ROOT, ["a.test"]))
    manager: Callable[..., Any] = KINDS[kind][0]
    forms: list[Callable[[Path], Any]] = [Path, str, Path.read_bytes, Path.read_text]
    for form in forms:
        options = {name: form(path) for name, path in settings.items()}
        with Client(partial(manager, service.address, **options)) as client:
            assert client.call("get", "ada").user_id == "ada"
    with Client(lambda: KINDS[kind][0](service.address, ca=ROOT.cert_pem)) as client, pytest.raises(UnavailableError):
        client.call("get", "ada", timeout=0.5)


@pytest.mark.long
def test_changed_files_are_used_by_new_connections(kind: str, store: Store, tmp_path: Path) -> None:
    """The authority of the service and that of the client change; running calls continue."""
    new_root = authority("new root")
    server_folder, client_folder = tmp_path / "server", tmp_path / "client"
    server_folder.mkdir()
    client_folder.mkdir()
    files = TlsFiles(server_folder).write(issued(ROOT))
    client_ca = private(server_folder / "clients.pem", ROOT.cert_pem)
    options = [*files.arguments, "--tls-client-ca", client_ca, "--tls-client-auth", "require"]
    settings = certificates(client_folder, ROOT, issued(ROOT))
    with Service(*options, redis_url=store.url) as service:
        with Client(lambda: KINDS[kind][0](service.address, **settings)) as client:
            stream = client.chunks(1)
            names = [user.user_id for user in next(stream)]
            files.write(issued(new_root))
            private(client_ca, new_root.cert_pem)
            new = certificates(server_folder, new_root, issued(new_root))
            until(lambda: is_accepted(service, new))
            client.call("get", "ada")  # on the connection of before
            # A pair that does not fit together leaves the last files in use.
            identity = issued(new_root)
            private(settings["cert"], identity.cert_pem)
            time.sleep(1.1)  # the files are checked every second
            client.call("get", "ada")
            certificates(client_folder, new_root, identity)
            time.sleep(1.1)
            client.call("get", "ada", timeout=20)
            assert open_connections(service.port) == 2
            names += [user.user_id for chunk in stream for user in chunk]
            client.call("get", "ada")
            gc.collect()  # channels of grpc.aio are reference cycles
            until(lambda: open_connections(service.port) == 1)
        assert sorted(names) == sorted([*NAMES, "ada"])
        assert service.stop() == 0


def is_accepted(service: Service, settings: dict[str, Any]) -> bool:
    try:
        with SyncUserManager(service.address, **settings, timeout=0.3) as manager:
            manager.get("ada")
    except UnavailableError:
        return False
    return True


def open_connections(port: int) -> int:
    """Returns the number of connections that this process has to the port."""
    inodes = {link.readlink().name for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
    rows = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/self/net/{name}").read_text().splitlines()
    ]
    return sum(
        row[3] == "01" and int(row[2].rpartition(":")[2], 16) == port and f"socket:[{row[9]}]" in inodes
        for row in rows[1:]
        if ":" in row[2]
    )
