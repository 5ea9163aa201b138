"""Copies of the users of a store, which watches keep up to date."""

import asyncio
from typing import Any

from userservice import Changes, User, UserManager


class Mirror:
    """A copy of the users together with its resume token, as a program would store them.

    Attributes:
        users: the users, by user_id.
        snapshot: the ids of the users in snapshots; an id is repeated if snapshots reported its user twice.
        restarts: number of times that the watch started again with a snapshot.
        token: the resume token of the last message; None before the first message.
    """

    def __init__(self) -> None:
        self.users: dict[str, User] = {}
        self.snapshot: list[int] = []
        self.restarts = 0
        self.token: str | None = None
        self._changed = asyncio.Event()

    def take(self, changes: Changes) -> None:
        """Applies the changes of a message."""
        if changes.restarted:
            self.restarts += 1
            self.users.clear()
        for change in changes:
            if change.kind == "USER_EXISTS":
                self.snapshot.append(change.id)
            if change.user is None:
                self.users.pop(change.user_id, None)
            else:
                self.users[change.user_id] = change.user
        self.token = changes.resume_token
        self._changed.set()

    async def follow(self, manager: UserManager, messages: int | None = None, **options: Any) -> None:
        """Applies the messages of a watch that resumes at the token; ends after that number of `messages`, if given."""
        number = 0
        async for changes in manager.watch("snapshot", resume_token=self.token, heartbeat=1, **options):
            self.take(changes)
            number += 1
            if number == messages:
                return

    async def has(self, user_id: str) -> None:
        """Waits until the mirror contains a user."""
        async with asyncio.timeout(60):
            while user_id not in self.users:
                self._changed.clear()
                await self._changed.wait()
