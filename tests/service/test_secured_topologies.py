"""TLS and ACL users with the documented permissions, on a cluster and with Sentinels.

The tests use Redis, because the embedded Valkey has no TLS.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import credentials
from harness.clusters import Cluster
from harness.commands import command
from harness.connections import connect, health
from harness.feeds import brief, feed_on, watching
from harness.population import add_users, names, read_chunks
from harness.ports import free_port
from harness.programs import Program
from harness.refusals import refusal_of
from harness.services import Service
from harness.stores import BACKENDS, Store
from harness.tools import require
from harness.waiting import until

from userservice.v1.session_service_pb2 import AddSessionRequest, DeleteSessionRequest, UpdateSessionRequest
from userservice.v1.user_service_pb2 import (
    BatchGetUsersRequest,
    CountUsersRequest,
    DeleteUserRequest,
    FindUsersRequest,
    GetUserRequest,
    GetUserSessionsRequest,
    ListUsersRequest,
    PlanUserScanRequest,
    UpdateUserRequest,
)
from userservice_server.store.keys import Keys
from userservice_server.store.partitions import slot_of

pytestmark = pytest.mark.long

PASSWORD = "canary-of-passwords"  # noqa: S105 - guards nothing
DOCUMENTS = [Path(__file__).parents[2] / "docs" / name for name in ("operations.md", "topologies.md")]
SCRIPTS, FEED, CLUSTER = range(3)  # the documented lines of permissions for the user of the service


def documented(user: str) -> list[list[str]]:
    """Returns the rules of an ACL user in the docs: a list for each line."""
    lines = [line for document in DOCUMENTS for line in document.read_text().splitlines()]
    start = f"ACL SETUSER {user} "
    return [line.removeprefix(start).replace("PASSWORD", PASSWORD).split() for line in lines if line.startswith(start)]


@dataclass(frozen=True)
class Files:
    """The certificate authority, and a certificate for the address of all servers."""

    folder: Path

    @property
    def options(self) -> list[str]:
        return [
            *("--tls-ca-cert-file", str(self.folder / "ca.pem"), "--tls-auth-clients", "no"),
            *("--tls-cert-file", str(self.folder / "tls.crt"), "--tls-key-file", str(self.folder / "tls.key")),
        ]

    def url(self, url: str, user: str = "app", password: str = PASSWORD, **more: str) -> str:
        """Adds a user, the authority and more options to a URL."""
        options = "&".join(
            f"{name}={value}" for name, value in {"ssl_ca_certs": self.folder / "ca.pem", **more}.items()
        )
        return f"{url.replace('://', f'://{user}:{password}@')}?{options}"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    root = credentials.authority()
    (folder / "ca.pem").write_bytes(root.cert_pem)
    credentials.TlsFiles(folder).write(credentials.issued(root, ["127.0.0.1"]))
    (folder / "other").mkdir()
    credentials.TlsFiles(folder / "other").write(credentials.issued(root, ["node.example"]))
    return Files(folder)


@pytest.fixture(scope="module")
def cluster(files: Files) -> Iterator[Cluster]:
    with Cluster("redis", masters=3, tls=files.options) as made:
        allow(made.nodes, "app", *(rule for line in documented("app") for rule in line))
        allow(made.nodes, "checker", *(rule for line in documented("checker") for rule in line))
        yield made


def allow(nodes: Sequence[Store], user: str, *rules: str) -> None:
    for node in nodes:
        with node.client() as client:
            client.execute_command("ACL", "SETUSER", user, *rules)


@contextlib.contextmanager
def denied(nodes: Sequence[Store], user: str, permission: str) -> Iterator[None]:
    """Takes a permission from a user on some nodes."""
    allow(nodes, user, f"-{permission}")
    try:
        yield
    finally:
        allow(nodes, user, f"+{permission}")


def check_error(url: str) -> str:
    """Runs the check, which must fail with one line; returns the line."""
    result = command("check", environment={"USERSERVICE_REDIS_URL": url})
    assert (result.code, result.out) == (2, "")
    [line] = result.err.splitlines()
    assert PASSWORD not in line
    return line


async def use(address: str, *, watches: bool) -> None:
    """Makes calls of every kind."""
    async with contextlib.AsyncExitStack() as closing:
        stubs = await closing.enter_async_context(connect(address))
        watch = await closing.enter_async_context(watching(stubs, now=True)) if watches else None
        users = [f"u{number}" for number in range(32)]
        added = await add_users(stubs, users, email="a@example.com")
        await stubs.users.UpdateUser(UpdateUserRequest(user_id="u1", first_name="Ada"))
        assert (await stubs.users.GetUser(GetUserRequest(user_id="u1"))).user.first_name == "Ada"
        await stubs.sessions.AddSession(AddSessionRequest(user_id="u1", session_id="s"))
        await stubs.sessions.UpdateSession(UpdateSessionRequest(user_id="u1", session_id="s"))
        assert len((await stubs.users.GetUserSessions(GetUserSessionsRequest(user_id="u1"))).sessions) == 1
        await stubs.sessions.DeleteSession(DeleteSessionRequest(user_id="u1", session_id="s"))
        expected = sorted(users, key=lambda user_id: added[user_id].id)
        assert names(await read_chunks(stubs, 7)) == expected
        assert [user.user_id for user in (await stubs.users.ListUsers(ListUsersRequest())).users] == expected
        assert len((await stubs.users.BatchGetUsers(BatchGetUsersRequest(user_ids=users))).users) == 32
        assert len((await stubs.users.FindUsers(FindUsersRequest(emails=["a@example.com"]))).users) == 32
        assert (await stubs.users.CountUsers(CountUsersRequest(filter="first_name = 'Ada'"))).count == 1
        assert (await stubs.users.PlanUserScan(PlanUserScanRequest())).parts
        for user_id in users[2:]:
            await stubs.users.DeleteUser(DeleteUserRequest(user_id=user_id))
        if watch is not None:
            changes = [brief(change) for change in await watch.has(63)]
            assert {kind for kind, _ in changes} >= {"USER_ADDED", "USER_UPDATED", "USER_DELETED"}
            assert {key for kind, key in changes if kind == "USER_ADDED"} == set(users)


async def test_the_documented_permissions_are_enough_over_tls(cluster: Cluster, files: Files) -> None:
    url = files.url(cluster.url)
    with Service(redis_url=url) as service:
        await feed_on(url)
        await use(service.address, watches=True)
        async with connect(service.address) as stubs:
            slot = slot_of(Keys("userservice", 16).users("u1").rows)
            source = cluster.owner(slot)
            target = next(node for node in cluster.masters if node is not source)
            await asyncio.to_thread(cluster.move_slot, slot, source, target, ends=False)
            # The new node executes commands only after ASKING.
            assert (await stubs.users.GetUser(GetUserRequest(user_id="u1"))).user.first_name == "Ada"
            cluster.end_move(slot, target)
            await stubs.users.UpdateUser(UpdateUserRequest(user_id="u1", first_name="Bea"))
            assert (await stubs.users.GetUser(GetUserRequest(user_id="u1"))).user.first_name == "Bea"
        assert health(service.address) == "SERVING"
        assert service.stop() == 0
        assert PASSWORD not in "\n".join([*service.stdout, *service.stderr])
    checked = command("check", environment={"USERSERVICE_REDIS_URL": files.url(cluster.url, "checker")})
    assert (checked.code, checked.err) == (0, "")
    assert checked.out.startswith("checked 2 users, ")


def test_wrong_credentials_are_rejected_with_one_line(cluster: Cluster, files: Files) -> None:
    dead = cluster.url.replace("://", f"://127.0.0.1:{free_port()},") + f",127.0.0.1:{free_port()}"
    line = refusal_of(redis_url=files.url(dead, password=f"not-{PASSWORD}"))
    assert "the server rejected the user name or password" in line
    assert PASSWORD not in line
    assert "the server rejected the user name" in check_error(files.url(dead, "checker", f"not-{PASSWORD}"))


@pytest.mark.parametrize("permission", ["cluster|slots", "asking", "wait"])
def test_a_missing_permission_is_rejected_with_one_line(cluster: Cluster, files: Files, permission: str) -> None:
    arguments = ["--wait-replicas", "1"] if permission == "wait" else []
    # CLUSTER SLOTS is sent to one node; each node checks the other permissions.
    nodes = cluster.nodes if permission == "cluster|slots" else cluster.nodes[-1:]
    with denied(nodes, "app", permission):
        line = refusal_of(*arguments, redis_url=files.url(cluster.url))
    assert PASSWORD not in line
    if permission != "cluster|slots":
        assert f"lacks permissions, such as {permission.upper()}" in line
    else:
        assert "may not run CLUSTER SLOTS" in line
        with denied(nodes, "checker", permission):
            assert "may not run CLUSTER SLOTS" in check_error(files.url(cluster.url, "checker"))


def test_a_revoked_wait_is_named() -> None:
    """The log must name the permission and not report missing replicas."""
    with contextlib.ExitStack() as closing:
        stores = [closing.enter_context(Store("redis", port=free_port())) for _ in range(2)]
        with stores[1].client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", stores[0].port)
            until(lambda: client.info("replication")["master_link_status"] == "up")
        allow(stores[:1], "app", *documented("app")[SCRIPTS], "+wait")
        url = stores[0].socket_url.replace("unix://", f"unix://app:{PASSWORD}@")
        service = closing.enter_context(Service("--wait-replicas", "1", redis_url=url))
        assert health(service.address) == "SERVING"
        allow(stores[:1], "app", "-wait")
        until(lambda: health(service.address) == "NOT_SERVING")
        lines = until(lambda: service.log_lines_with("store unavailable"))
        assert all("lacks permissions" in line["reason"] for line in lines)


def test_certificates_are_checked_on_every_node(cluster: Cluster, files: Files) -> None:
    untrusted = files.url(cluster.url).partition("?")[0]
    assert "CERTIFICATE_VERIFY_FAILED" in refusal_of(redis_url=untrusted)
    with cluster.nodes[-1].client() as client:
        use_certificate(client, files.folder / "other")
        try:
            line = refusal_of(redis_url=files.url(cluster.url))
            assert "certificate is not valid for '127.0.0.1'" in line
            assert PASSWORD not in line
        finally:
            use_certificate(client, files.folder)


def use_certificate(client: Any, folder: Path) -> None:
    files = ("tls-cert-file", str(folder / "tls.crt"), "tls-key-file", str(folder / "tls.key"))
    client.execute_command("CONFIG", "SET", *files)


@pytest.fixture(scope="module")
def sentinel_url(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Sentinel without a user; the Sentinel and its primary accept only TLS."""
    directory, port, sentinel = tmp_path_factory.mktemp("sentinel"), free_port(), free_port()
    server = [*files.options, "--tls-port", str(port), "--tls-replication", "yes"]
    with Store("redis", options=server) as store:
        allow([store], "app", *documented("app")[SCRIPTS])
        allow([store], "checker", *(rule for line in documented("checker")[:1] for rule in line))
        file = directory / "sentinel.conf"
        options = [option.removeprefix("--") for option in files.options]
        tls = [" ".join(pair) for pair in zip(options[::2], options[1::2], strict=True)]
        lines = [
            *("port 0", f"tls-port {sentinel}", "bind 127.0.0.1", f"dir {directory}", "tls-replication yes", *tls),
            f"sentinel monitor users 127.0.0.1 {port} 1",
            "user default off",
            f"user finder on >sentinel-{PASSWORD} -@all +sentinel|masters",
        ]
        file.write_text("".join(f"{line}\n" for line in lines))
        with Program([require(BACKENDS["redis"]), file, "--sentinel"]) as program:
            program.wait_for("stdout", r"monitor master users")
            yield f"rediss-sentinel://127.0.0.1:{sentinel}/users"


async def test_sentinels_over_tls_with_users(sentinel_url: str, files: Files) -> None:
    of_sentinel = {"sentinel_username": "finder", "sentinel_password": f"sentinel-{PASSWORD}"}
    with Service(redis_url=files.url(sentinel_url, **of_sentinel)) as service:
        await use(service.address, watches=False)
        assert service.stop() == 0
        assert PASSWORD not in "\n".join([*service.stdout, *service.stderr])
    url = files.url(sentinel_url, "checker", **of_sentinel)
    checked = command("check", environment={"USERSERVICE_REDIS_URL": url})
    assert (checked.code, checked.err) == (0, "")
    wrong = files.url(sentinel_url, **{**of_sentinel, "sentinel_password": f"not-{PASSWORD}"})
    line = refusal_of(redis_url=wrong)
    assert PASSWORD not in line
    assert "a Sentinel rejected the user name or password" in line
    assert "a Sentinel rejected the user name or password" in check_error(wrong)
