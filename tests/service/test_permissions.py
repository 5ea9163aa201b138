"""An ACL user without a permission: a script that is denied a command half-way would apply only its first half."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.connections import connect, health
from harness.population import add_users
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice.v1.user_service_pb2 import GetUserRequest

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"


def documented_rules() -> list[str]:
    line, *_ = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("ACL SETUSER app ")]
    return line.replace("PASSWORD", "pw").split()[3:]


@pytest.fixture(scope="module", params=["valkey", pytest.param("redis", marks=pytest.mark.long)])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with Store(request.param) as store:
        yield store


def set_rules(store: Store, *rules: str) -> str:
    with store.client() as client:
        client.execute_command("ACL", "SETUSER", "app", *rules)
    return store.url.replace("unix://", "unix://app:pw@")


@pytest.mark.parametrize("command", ["zadd", "unlink"])
def test_an_acl_user_without_a_permission_of_the_scripts_is_rejected_at_the_start(store: Store, command: str) -> None:
    url = set_rules(store, "reset", *documented_rules(), f"-{command}")
    with Service(redis_url=url, wait=False) as service:
        assert service.wait() == 2
        [line] = service.stderr
    assert f"lacks permissions, such as {command.upper()}" in line


async def test_a_permission_that_is_revoked_makes_the_store_unavailable(store: Store) -> None:
    url = set_rules(store, "reset", *documented_rules())
    with Service(redis_url=url) as service:
        async with connect(service.address) as stubs:
            added = await add_users(stubs, ["ada"])
            set_rules(store, "-zadd")
            until(lambda: health(service.address) == "NOT_SERVING")
            until(lambda: service.log_lines_with("such as ZADD"))
            set_rules(store, "+zadd")
            until(lambda: health(service.address) == "SERVING")
            assert (await stubs.users.GetUser(GetUserRequest(user_id="ada"))).user == added["ada"]
