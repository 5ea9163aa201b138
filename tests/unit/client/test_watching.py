"""How long a watch waits for a message."""

from typing import Any

import pytest

from userservice._sync._watching import WatchReader
from userservice.v1.user_watch_pb2 import WatchUsersResponse


class Connection:
    """A connection whose watch yields messages without changes."""

    def __init__(self) -> None:
        self.timeouts: list[float | None] = []

    def attempts(self, timeout: float | None) -> None:
        self.timeouts.append(timeout)

    def open_stream(self, *_: object) -> object:
        return object()

    def read(self, *_: object) -> bytes:
        return WatchUsersResponse(resume_token="t").SerializeToString()


@pytest.mark.parametrize(("heartbeat", "patience"), [(1, 6), (15, 20), (600, 605), (0, 20)])
def test_a_watch_waits_for_the_heartbeat_of_the_service(heartbeat: int, patience: float) -> None:
    """With 0, the service sends a heartbeat every 15 s; a shorter wait would reconnect between all of them."""
    connection: Any = Connection()
    reader = WatchReader(connection, "now", None, ["USERS"], None, heartbeat, "raise", None)
    for _ in range(2):
        reader.next_changes()
    assert connection.timeouts[-1] == patience
