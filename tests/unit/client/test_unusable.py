"""Managers that cannot work raise a UserServiceError that is also a RuntimeError; for forks see test_forks.py."""

import asyncio
import pickle
import sys
import types

import pytest

from userservice import (
    ManagerUnusableError,
    SyncUserManager,
    UserManager,
    UserServiceError,
)

ADDRESS = "127.0.0.1:1"


def test_the_error_is_a_userserviceerror_and_a_runtimeerror() -> None:
    error = ManagerUnusableError("cannot work")
    assert isinstance(error, UserServiceError)
    assert isinstance(error, RuntimeError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - our own


async def _get(manager: UserManager) -> None:
    await manager.get("ada")


async def _stream(manager: UserManager) -> None:
    async for _ in manager.list_chunked():
        pass


@pytest.mark.parametrize("call", [_get, _stream])
def test_a_manager_belongs_to_the_loop_of_its_first_call(call: types.FunctionType) -> None:
    manager = UserManager(ADDRESS, timeout=0.2)
    with asyncio.Runner() as first, asyncio.Runner() as second:
        with pytest.raises(UserServiceError):
            first.run(_get(manager))
        with pytest.raises(ManagerUnusableError, match="another event loop"):
            second.run(call(manager))
        first.run(manager.close())


def test_a_manager_needs_a_running_loop() -> None:
    manager = UserManager(ADDRESS)
    with pytest.raises(ManagerUnusableError, match="SyncUserManager"):
        manager.get("ada").send(None)


@pytest.mark.parametrize(
    ("module", "function", "library"),
    [("gevent.monkey", "is_module_patched", "gevent"), ("eventlet.patcher", "is_monkey_patched", "eventlet")],
)
def test_patched_processes_are_recognised(
    module: str, function: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/servers tests the real libraries."""
    fake = types.ModuleType(module)
    setattr(fake, function, lambda name: name == "socket")
    monkeypatch.setitem(sys.modules, module, fake)
    for manager in (UserManager, SyncUserManager):
        with pytest.raises(ManagerUnusableError, match=f"{library} has patched this process"):
            manager(ADDRESS)
    setattr(fake, function, lambda name: name == "subprocess")
    UserManager(ADDRESS)
