"""The sweeper of expired sessions."""

import asyncio
from typing import Any

from userservice_server.store import scripts
from userservice_server.store.keys import Keys
from userservice_server.store.partitions import slot_of
from userservice_server.store.sweeping import sweep_all


async def test_all_keys_of_a_step_are_in_one_slot_also_if_a_user_is_missing() -> None:
    """A server of an earlier release leaves users whom it deletes in the expiry queue."""
    keys = Keys("userservice", 16)
    steps: list[tuple[Any, ...]] = []

    def send(*command: Any) -> "asyncio.Future[Any]":
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if command[0] == "EVALSHA" and command[1] == scripts.SWEEP.sha1:
            steps.append(command[3 : 3 + command[2]])
            reply.set_result(0)
        else:
            reply.set_result(1 if command[0] == "EXISTS" else [b"64", None])
        return reply

    await sweep_all(keys, b"store", [send] * 16, [send] * 16)
    assert len(steps) == 16
    for table, redis_keys in zip(keys.all_users(), steps, strict=True):
        assert {slot_of(key) for key in redis_keys} == {slot_of(table.rows)}
