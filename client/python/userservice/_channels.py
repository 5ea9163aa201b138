"""The channels of one manager, and the selection of a channel for each call."""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc

from userservice._address import Target
from userservice._proxies import proxy_of, proxy_options
from userservice._transport import RawChannel

_EVERY_ADDRESS: tuple[tuple[str, Any], ...] = (
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
)


class Channel(NamedTuple):
    """One connection to one address."""

    raw: RawChannel
    """The channel of the transport."""

    proxy: str
    """The setting that selects a proxy for the connection, such as `$https_proxy`; empty without a proxy."""


class Channels:
    """A fixed number of channels to each address, used in turn.

    Each channel has its own connection: without `grpc.use_local_subchannel_pool`, gRPC would share one connection
    between all channels of a process that have the same address and options.

    Args:
        targets: The addresses.
        connections: The number of channels to each address.
        credentials: Credentials of encrypted channels; None for plain text.
        options: gRPC channel options.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        connections: int,
        credentials: grpc.ChannelCredentials | None,
        options: Sequence[tuple[str, Any]],
    ) -> None:
        # All addresses once, then all again, so that consecutive calls use different addresses.
        self._channels = [_open(target, credentials, options) for _ in range(connections) for target in targets]
        self._next = 0

    def pick(self) -> Channel:
        """Returns the channel for the next call.

        The channels are used in turn. While another channel has a connection, a channel without a connection is
        skipped, because the call would fail or wait. The skipped channel connects in the background.
        """
        if len(self._channels) == 1:
            return self._channels[0]
        position = self._best()
        self._next = (position + 1) % len(self._channels)
        return self._channels[position]

    def _best(self) -> int:
        second_best: int | None = None
        turns: list[int] = [*range(self._next, len(self._channels)), *range(self._next)]
        for position in turns:
            state = self._channels[position].raw.state()
            if state is grpc.ChannelConnectivity.READY:
                return position
            if second_best is None and state is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                second_best = position
        return self._next if second_best is None else second_best

    @property
    def raw(self) -> list[RawChannel]:
        """The channels of the transport."""
        return [channel.raw for channel in self._channels]

    async def close(self) -> None:
        """Closes all channels and cancels their calls."""
        for channel in self._channels:
            await channel.raw.close()


class RetiredChannels:
    """Channels that were replaced by other channels. Each closes its connection after its last call has ended."""

    def __init__(self) -> None:
        # The references are weak. A running call keeps its channel in memory. gRPC closes a channel without references:
        # a blocking channel immediately, an asyncio channel when Python collects reference cycles.
        self._channels: weakref.WeakSet[RawChannel] = weakref.WeakSet()

    def add(self, channels: Channels) -> None:
        """Adds channels that get no new calls."""
        self._channels.update(channels.raw)

    async def close(self) -> None:
        """Closes the channels that still have calls, and cancels the calls."""
        for channel in tuple(self._channels):
            await channel.close()


def _open(target: Target, credentials: grpc.ChannelCredentials | None, chosen: Sequence[tuple[str, Any]]) -> Channel:
    options = [*proxy_options(target), *(_EVERY_ADDRESS if target.every_address else ()), *chosen]
    proxy = proxy_of(target, options)
    return Channel(RawChannel(target.name, credentials, options), proxy)
