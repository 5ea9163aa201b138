"""`python -m benchmarks.watchers ADDRESS COUNT VIEW`: follows changes with many watches, and prints what arrived.

Prints ``ready`` when all watches have started. Then reads one line: the number of users that were added meanwhile.
Prints as JSON how many changes are missing, over all watches, and when each user arrived at the first watch
(``monotonic``). Messages are decoded at the end, so that this process takes little CPU time.
"""

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import grpc.aio

from userservice.v1.user_watch_pb2 import WatchUsersRequest, WatchUsersResponse
from userservice.v1.view_pb2 import View

_METHOD = "/userservice.v1.UserService/WatchUsers"
_PER_CHANNEL = 20
_IDLE_SECONDS = 15.0  # after which a missing change is lost; the server reads at least every second


class _Watch:
    """One watch, and its messages with their times.

    Attributes:
        users: when each user arrived.
    """

    def __init__(self, channel: grpc.aio.Channel, view: "View.ValueType") -> None:
        self.users: dict[str, float] = {}
        self._messages: list[tuple[float, bytes]] = []
        encode = WatchUsersRequest.SerializeToString
        self._call: Any = channel.unary_stream(_METHOD, encode)(
            WatchUsersRequest(now=True, view=view, heartbeat_seconds=1)
        )

    async def begin(self) -> None:
        await self._call.read()

    async def read(self) -> None:
        while isinstance(message := await self._call.read(), bytes):
            self._messages.append((time.monotonic(), message))

    def decode(self) -> int:
        """Decodes the messages; returns how many users have arrived."""
        messages, self._messages = self._messages, []
        for arrived, message in messages:
            for change in WatchUsersResponse.FromString(message).changes:
                self.users.setdefault(change.user.user_id, arrived)
        return len(self.users)


async def _decoded(watches: list[_Watch], expected: int) -> None:
    """Waits until all watches have all users, or until none arrives for a long time."""
    last, changed_at = -1, time.monotonic()
    while (found := sum(watch.decode() for watch in watches)) < expected * len(watches):
        if found != last:
            last, changed_at = found, time.monotonic()
        if time.monotonic() > changed_at + _IDLE_SECONDS:
            return
        await asyncio.sleep(0.2)


async def _main(address: str, count: str, view: str) -> None:
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]))
            for _ in range(-(-int(count) // _PER_CHANNEL))
        ]
        watches = [_Watch(channels[number % len(channels)], View.Value(view)) for number in range(int(count))]
        await asyncio.gather(*(watch.begin() for watch in watches))
        reading = [asyncio.create_task(watch.read()) for watch in watches]
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        expected = int(await asyncio.to_thread(sys.stdin.readline))
        await _decoded(watches, expected)
        for task in reading:
            if task.done():
                task.result()
            task.cancel()
        lost = sum(expected - len(watch.users) for watch in watches)
        sys.stdout.write(json.dumps({"lost": lost, "arrived": watches[0].users}) + "\n")


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
