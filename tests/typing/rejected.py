"""Calls that mypy and pyright must reject: one error in each line with a comment, and no other."""

from userservice import SessionManager, SyncSessionManager, SyncUserManager, User, UserManager


async def users(manager: UserManager) -> None:
    await manager.add({"userid": "a"})  # a field that does not exist
    await manager.add({"user_id": "a", "nickname": "x"})  # a field that does not exist
    await manager.add({"email": "a@example.org"})  # no user_id
    await manager.add({"user_id": 7})  # a wrong type
    await manager.add()  # no user_id
    await manager.add(email="a@example.org")  # no user_id
    await manager.add(userid="a")  # a field that does not exist
    await manager.add(user_id="a", etag="e")  # a field of update only
    await manager.update({"userid": "a"})  # a field that does not exist
    await manager.update({"email": ""})  # no user_id
    await manager.update(email="")  # no user_id


async def sessions(manager: SessionManager) -> None:
    await manager.add({"user_id": "a"})  # no session_id
    await manager.add({"user_id": "a", "session": "s"})  # a field that does not exist
    await manager.update({"session_id": "s"})  # no user_id
    await manager.update(user_id="a")  # no session_id


def blocking(manager: SyncUserManager, sessions: SyncSessionManager) -> User:
    manager.add({"userid": "a"})  # a field that does not exist
    manager.update(email="")  # no user_id
    sessions.add({"user_id": "a"})  # no session_id
    sessions.update({"user_id": "a"})  # no session_id
    return User("a")  # fields have names
