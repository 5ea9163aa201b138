"""The connections that announce entries of the feed: one for each server of the store.

An announcement only shortens the time to the next read. While a connection is missing, readers read at intervals.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from hiredis import Reader, pack_command
from redis.exceptions import RedisError

from userservice_server.store.connection import taken_over
from userservice_server.store.links import Links, Listener

_CHECK_SECONDS = 0.5  # between two checks for servers without a connection
_CONNECT_SECONDS = 3.0
_MESSAGE = b"smessage"
_CONFIRMATION = b"ssubscribe"
_LOG_PAUSE = 60.0

logger = logging.getLogger("userservice.store")


class WakeUps:
    """Listens to the channels of the feeds.

    Args:
        links: the connections of the store.
        channels: the channels, by partition.
        wake: called with the number of a partition when its feed has a new entry, or can have one.
    """

    def __init__(self, links: Links, channels: Sequence[bytes], wake: Callable[[int], None]) -> None:
        self._links = links
        self._channels = channels
        self._partitions = {channel: number for number, channel in enumerate(channels)}
        self._wake = wake
        self._task: asyncio.Task[None] | None = None
        self._log_again_at = 0.0

    def start(self) -> None:
        """Starts to connect and to listen."""
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Closes the connections."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        running: dict[Listener, asyncio.Task[None]] = {}
        try:
            while True:
                wanted = set(self._links.listeners())
                for listener, task in list(running.items()):
                    if listener not in wanted:
                        task.cancel()
                    if task.done():
                        del running[listener]
                for listener in wanted - running.keys():
                    running[listener] = asyncio.create_task(self._listen(listener))
                await asyncio.sleep(_CHECK_SECONDS)
        finally:
            for task in running.values():
                task.cancel()

    async def _listen(self, listener: Listener) -> None:
        """Listens on one connection until it is lost."""
        connection, transport = listener.make_connection(), None
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await connection.connect()  # type: ignore[no-untyped-call]
            messages = _Messages(self._announced)
            transport = taken_over(connection, messages)
            # One command for each channel, because in a cluster each channel is in the slot of its partition.
            channels = [self._channels[number] for number in listener.partitions if number < len(self._channels)]
            transport.write(b"".join(map(_subscription, channels)))
            raise await messages.lost
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            self._log(error)
        finally:
            if transport is not None:
                transport.abort()
            await connection.disconnect(nowait=True)

    def _announced(self, channel: bytes) -> None:
        partition = self._partitions.get(channel)
        if partition is not None:
            self._wake(partition)

    def _log(self, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._log_again_at:
            self._log_again_at = now + _LOG_PAUSE
            fields = {"cause": type(error).__name__}
            logger.info("no announcements of changes; watches read the feed every second", extra=fields)


def _subscription(channel: bytes) -> bytes:
    command: bytes = pack_command((b"SSUBSCRIBE", channel))  # type: ignore[arg-type]  # stub: only tuples of one
    return command


def _channel_of(kind: bytes, channel: bytes, _content: object) -> bytes:
    """Returns the channel of a message. A new subscription counts too: earlier changes were not announced."""
    if kind not in (_MESSAGE, _CONFIRMATION):
        raise ValueError("the server ends the subscription")  # its slot moves to another node
    return channel


class _Messages(asyncio.Protocol):
    """Parses announcements.

    Attributes:
        lost: future of the reason why the connection cannot be used any more.
    """

    def __init__(self, announced: Callable[[bytes], None]) -> None:
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._announced = announced
        self._parser = Reader(replyError=RedisError)

    def data_received(self, data: bytes) -> None:
        """Called by the loop after a read."""
        try:
            self._parser.feed(data)
            announced: set[bytes] = set()
            while (reply := self._parser.gets()) is not False:
                if isinstance(reply, RedisError):
                    raise reply
                announced.add(_channel_of(*reply))
        except (RedisError, TypeError, ValueError) as error:
            self.connection_lost(RedisError(str(error)))
            return
        for channel in announced:
            self._announced(channel)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop when the connection is lost."""
        if not self.lost.done():
            self.lost.set_result(exc or OSError("the store closed the connection"))
