"""`userservice migrate`: everything is kept, the old store rejects writes, an interrupted migration continues."""

import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from harness.connections import connect_blocking
from harness.failures import failure_of
from harness.population import struct
from harness.services import Service, clean_environment
from harness.stores import Store, everything

from userservice.v1.session_service_pb2 import AddSessionRequest
from userservice.v1.user_service_pb2 import AddUserRequest, GetUserRequest, GetUserSessionsRequest, ListUsersRequest
from userservice_server.check import check
from userservice_server.check.scan import ROLES
from userservice_server.config import ConfigError
from userservice_server.migration import Endpoint, migrate
from userservice_server.migration.source import COPIED, OF_IMPORTS
from userservice_server.store.partitions import tags

USERS = 600  # more than two pages
NAMED_LIKE_KEYS = ("a}:request:b", "a}:sessions:b", "a}:session_ids:b")
TAG = f"userservice:{{{tags(16)[0]}}}"


def run(*arguments: str | Path, **environment: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "userservice", "migrate", *map(str, arguments)]
    environ = {**clean_environment(), **environment}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ)
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.long
def test_a_store_is_moved_to_another_number_of_partitions_and_back() -> None:
    with Store() as old, Store() as new, Store() as last:
        retried = AddUserRequest(user_id="retried", request_id=str(uuid4()))
        with Service(redis_url=old.url) as service, connect_blocking(service.address) as stubs:
            for number in range(USERS):
                stubs.users.AddUser(
                    AddUserRequest(user_id=f"u{number}", email=f"{min(number, 400)}@x", metadata=struct({"n": number}))
                )
            for number in range(3):
                stubs.sessions.AddSession(AddSessionRequest(user_id="u7", session_id=f"s{number}"))
            for user_id in NAMED_LIKE_KEYS:
                stubs.users.AddUser(AddUserRequest(user_id=user_id))
                stubs.sessions.AddSession(AddSessionRequest(user_id=user_id, session_id="s"))
                stubs.sessions.AddSession(
                    AddSessionRequest(user_id=user_id, session_id="ends", ttl=Duration(seconds=900))
                )
            stubs.users.AddUser(retried)
            before = stubs.users.ListUsers(ListUsersRequest(limit=1000))
            owners = [GetUserSessionsRequest(user_id=user_id) for user_id in ("u7", *NAMED_LIKE_KEYS)]
            sessions = [stubs.users.GetUserSessions(request) for request in owners]

            class InterruptedMigrationError(Exception):
                pass

            def interrupt(copied: int, _users: int) -> None:
                if copied >= 512:
                    raise InterruptedMigrationError

            ends = (Endpoint(old.url, "userservice"), Endpoint(new.url, "userservice"))
            with pytest.raises(InterruptedMigrationError):
                migrate(*ends, 16, 5, interrupt)
            with pytest.raises(grpc.RpcError) as raised:
                stubs.users.AddUser(AddUserRequest(user_id="late"))
            assert failure_of(raised.value).reason == "STORE_CHANGED"
            assert stubs.users.GetUser(GetUserRequest(user_id="u7")).user in before.users
        with Service(redis_url=new.url, wait=False) as service:
            assert service.wait(30) == 2, "a store that is not complete must not be opened"
        code, out, error = run("--partitions", "16", USERSERVICE_FROM=old.url, USERSERVICE_TO=new.url)
        assert (code, error) == (0, "")
        assert out == f"moved {USERS + 4} users, 9 sessions; the check of the new store found nothing\n"
        with new.client() as client:  # as if the command had been killed before its last step
            assert not client.exists("userservice:migration")
            client.hset("userservice:migration", mapping={"store_id": client.get(f"{TAG}:store_id"), "partitions": 16})
        assert migrate(*ends, 16, 5, interrupt).users == USERS + 4

        # The new store can be moved again, and has its users in the order of their ids.
        assert migrate(Endpoint(new.url, "userservice"), Endpoint(last.url, "p"), 64, 5, lambda *_: None).findings == []
        with Service("--key-prefix", "p", redis_url=last.url) as service, connect_blocking(service.address) as stubs:
            assert stubs.users.ListUsers(ListUsersRequest(limit=1000)) == before
            assert [stubs.users.GetUserSessions(request) for request in owners] == sessions
            assert stubs.users.AddUser(retried).user in before.users
            added = stubs.users.AddUser(AddUserRequest(user_id="new")).user
            assert added.id > max(user.id for user in before.users)
            cursor = before.users[-1].id
            assert [user.user_id for user in stubs.users.ListUsers(ListUsersRequest(cursor=cursor)).users] == ["new"]
        assert check(last.url, "p", 5).findings == []
        with last.client() as client:
            ending = list(client.scan_iter("p:{*}:session_expiry:*"))
            queued = list(client.scan_iter("p:{*}:expiry"))
            assert len(ending) == sum(client.zcard(queue) for queue in queued) == len(NAMED_LIKE_KEYS)


def refusal(old: Store, new: Store, partitions: int = 1) -> str:
    """Migrates a store into another prefix of a store in use; returns the reason why the migration is refused."""
    with pytest.raises(ConfigError) as raised:
        migrate(Endpoint(old.url, "userservice"), Endpoint(new.url, "x"), partitions, 5, lambda *_: None)
    return str(raised.value)


@pytest.mark.long
def test_a_store_that_cannot_be_moved_is_not_changed(tmp_path: Path) -> None:
    with Store() as old, Store() as new:
        with Service(redis_url=old.url) as service, connect_blocking(service.address) as stubs:
            stubs.users.AddUser(AddUserRequest(user_id="ada"))
        with Service(redis_url=new.url) as service, connect_blocking(service.address) as stubs:
            stubs.users.AddUser(AddUserRequest(user_id="bob"))
        with old.client() as client, new.client() as target:
            kept = (everything(client), everything(target))
            assert "is not empty" in run("--from", old.url, "--to", new.url)[2]
            assert "there is no store" in run("--from", old.url, "--from-prefix", "x", "--to", new.url)[2]
            assert "are the same store" in run("--from", old.url, "--to", old.url)[2]
            assert "use either --to or --to-file" in run("--from", old.url)[2]
            assert (everything(client), everything(target)) == kept
            for key, text in (("other:1", "keys of the kind 'other'"), ("import:1", "has records of imports")):
                client.set(f"userservice:{{0}}:{key}", "x")
                assert text in refusal(old, new)
                client.delete(f"userservice:{{0}}:{key}")
            client.hset("userservice:layout", "other", "x")
            assert "fields that cannot be migrated: other" in refusal(old, new)
            client.hdel("userservice:layout", "other")
            client.hset("userservice:{0}:user_ids", "nobody", 1)
            assert "the store at --from is not consistent" in refusal(old, new)
            client.hdel("userservice:{0}:user_ids", "nobody")
            assert "unfinished migration from another store" in refusal(old, new, 64)
            assert everything(client) == kept[0]
            file = tmp_path / "url"
            file.write_text(old.url)
            file.chmod(0o600)
            assert run("--from-file", file, "--to", new.url, "--to-prefix", "y")[0] == 0


@pytest.mark.parametrize("lost", ["user", "index", "sessions"])
def test_a_target_that_differs_at_the_end_is_reported(lost: str) -> None:
    """The keys are removed from the target while the migration runs."""
    with Store() as old, Store() as new:
        with Service(redis_url=old.url) as service, connect_blocking(service.address) as stubs:
            for user_id in ("ada", "bob"):
                stubs.users.AddUser(AddUserRequest(user_id=user_id))
                stubs.sessions.AddSession(AddSessionRequest(user_id=user_id, session_id="s"))

        def lose(_copied: int, _users: int) -> None:
            with new.client() as client:
                if lost == "user":
                    client.zremrangebyrank("userservice:{0}:users", 0, 0)
                if lost in ("user", "index"):
                    client.hdel("userservice:{0}:user_ids", "ada")
                if lost in ("user", "sessions"):
                    client.delete("userservice:{0}:sessions:ada", "userservice:{0}:session_ids:ada")

        ends = (Endpoint(old.url, "userservice"), Endpoint(new.url, "userservice"))
        with pytest.raises(ConfigError, match="the check of the store at --to failed"):
            migrate(*ends, 1, 5, lose)


def test_every_kind_of_keys_is_copied_or_refused() -> None:
    """A new kind of keys needs code that copies it, or an error message that refuses it."""
    assert set(ROLES) == COPIED | OF_IMPORTS
