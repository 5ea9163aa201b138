"""The channels of a manager, which its first call opens. Managers that `with_options` returns share them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import grpc

from userservice._address import Target
from userservice._channels import Channels, RetiredChannels
from userservice._forks import forks
from userservice._monkey import reject_monkey_patching
from userservice._tls import TlsSettings
from userservice._transport import current_owner, opening
from userservice.errors import ManagerClosedError, ManagerUnusableError

_SECONDS_BETWEEN_FILE_CHECKS = 1.0


class LazyChannels:
    """Channels that are opened at the first call, and again if a TLS file has changed.

    Args:
        targets: The addresses.
        connections: The number of channels to each address.
        encrypted: Whether the channels are encrypted.
        credentials: The credentials of encrypted channels; None to use `tls`.
        tls: The TLS settings of encrypted channels without credentials.
        options: gRPC channel options.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        connections: int,
        *,
        encrypted: bool,
        credentials: grpc.ChannelCredentials | None,
        tls: TlsSettings,
        options: Sequence[tuple[str, Any]],
    ) -> None:
        self._targets = targets
        self._connections = connections
        self._encrypted = encrypted
        self._credentials = credentials
        self._tls = tls
        self._options = options
        self._channels: Channels | None = None
        self._retired = RetiredChannels()
        self._next_file_check = 0.0
        self._owner: object = None
        self._closed = False

    def get(self) -> Channels:
        """Returns the channels. The first call opens them.

        Raises:
            ManagerClosedError: If `close` was called.
            ManagerUnusableError: If gRPC cannot work in this process or event loop; see `Connection.connect`.
        """
        owner = current_owner()
        channels = self._channels
        if channels is None:
            with opening():
                channels = self._open_once(owner)
        if self._owner is not owner:
            raise ManagerUnusableError("this manager belongs to another event loop; make one manager for each loop")
        if self._tls.can_change and time.monotonic() >= self._next_file_check:
            with opening():
                channels = self._renew(channels)
        return channels

    def _open_once(self, owner: object) -> Channels:
        if self._closed:
            raise ManagerClosedError("the manager is closed")
        if self._channels is None:
            forks.refuse()
            # Checked again, because a web server that preloads the program may patch the process after it has created
            # the managers.
            reject_monkey_patching()
            self._channels, self._owner = self._open(), owner
        return self._channels

    def _open(self) -> Channels:
        self._next_file_check = time.monotonic() + _SECONDS_BETWEEN_FILE_CHECKS
        credentials = (self._credentials or self._tls.load()) if self._encrypted else None
        return Channels(self._targets, self._connections, credentials, self._options)

    def _renew(self, channels: Channels) -> Channels:
        """Returns new channels if a TLS file has changed. Running calls continue on the old channels."""
        if self._channels is not channels:  # another thread has renewed the channels or closed the manager
            return self._channels or channels
        self._next_file_check = time.monotonic() + _SECONDS_BETWEEN_FILE_CHECKS
        if self._tls.has_changed():
            self._retired.add(channels)
            self._channels = self._open()
        return self._channels

    async def close(self) -> None:
        """Closes the channels and ends their running calls with ManagerClosedError. Safe to call twice."""
        with opening():
            self._closed = True
            channels, self._channels = self._channels, None
        if channels is not None:
            await channels.close()
        await self._retired.close()
