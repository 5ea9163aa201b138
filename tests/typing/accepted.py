"""Calls that mypy and pyright must accept."""

import json
from typing import Any

from userservice import (
    AddUserFields,
    SessionManager,
    SyncSessionManager,
    SyncUserManager,
    UpdateUserFields,
    UserManager,
)


async def users(manager: UserManager, unknown: dict[str, Any]) -> None:
    await manager.add({"user_id": "a"})
    await manager.add({"user_id": "a", "email": None, "metadata": {"plan": "pro", "n": [1, None, {"x": True}]}})
    await manager.add(user_id="a", first_name="Ann", timeout=1)
    await manager.add({"user_id": "a"}, email="a@example.org")
    await manager.add(unknown)
    await manager.add(unknown, user_id="a", email="a@example.org")
    await manager.add(unknown, email="a@example.org")
    await manager.add(**unknown)
    await manager.add(json.loads("{}"))
    fields: AddUserFields = {"user_id": "a"}
    fields["last_name"] = "Lee"
    await manager.add(fields)
    await manager.add(**fields)
    changes: UpdateUserFields = {"user_id": "a", "update_mask": ["email"]}
    await manager.update(changes, timeout=2.5)
    await manager.update({"user_id": "a", "metadata": {"plan": None}}, etag="e")
    await manager.update(unknown)


async def sessions(manager: SessionManager, unknown: dict[str, Any]) -> None:
    await manager.add({"user_id": "a", "session_id": "s", "metadata": {}})
    await manager.add(unknown, session_id="s", user_id="a")
    await manager.update(user_id="a", session_id="s", update_mask=("*",))


def blocking(manager: SyncUserManager, sessions: SyncSessionManager, unknown: dict[str, Any]) -> str:
    manager.add({"user_id": "a"})
    manager.add(unknown)
    manager.update(user_id="a", email="")
    sessions.add({"user_id": "a", "session_id": "s"})
    sessions.update(unknown)
    return manager.get("a").copy(email="b@example.org").to_json()
