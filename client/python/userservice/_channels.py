"""The gRPC channels of one manager, and which of them the next call uses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc

from userservice._address import Target
from userservice._proxies import proxy_of, proxy_options

_EVERY_ADDRESS: tuple[tuple[str, Any], ...] = (
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
)


class Channel(NamedTuple):
    """One connection to one address."""

    grpc_channel: grpc.aio.Channel
    """gRPC's channel."""

    proxy: str
    """Where the proxy of the connection comes from, such as `$https_proxy`; empty if there is none."""


class Channels:
    """A fixed number of channels to each address, used in turn.

    Each channel has a connection of its own: without `grpc.use_local_subchannel_pool`, gRPC would share one connection
    between all channels of a process that have the same address and options.

    Args:
        targets: The addresses.
        connections: How many channels each address gets.
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
        # All addresses once, then all again: neighbours in the order of use lead to different addresses.
        self._channels = [_open(target, credentials, options) for _ in range(connections) for target in targets]
        self._next = 0

    def pick(self) -> Channel:
        """Returns the channel for the next call.

        The channels take turns, except those that have no connection at the moment: the call would fail, or wait for
        the connection, while another channel can serve it. Such channels connect in the background meanwhile.
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
            state: grpc.ChannelConnectivity = self._channels[position].grpc_channel.get_state(try_to_connect=True)
            if state is grpc.ChannelConnectivity.READY:
                return position
            if second_best is None and state is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                second_best = position
        return self._next if second_best is None else second_best

    async def close(self) -> None:
        """Closes all channels and cancels their calls."""
        for channel in self._channels:
            await channel.grpc_channel.close()


def _open(target: Target, credentials: grpc.ChannelCredentials | None, chosen: Sequence[tuple[str, Any]]) -> Channel:
    options = [*proxy_options(target), *(_EVERY_ADDRESS if target.every_address else ()), *chosen]
    proxy = proxy_of(target, options)
    if credentials is None:
        return Channel(grpc.aio.insecure_channel(target.name, options=options), proxy)
    return Channel(grpc.aio.secure_channel(target.name, credentials, options=options), proxy)
