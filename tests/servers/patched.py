"""Prints the errors of managers in a process patched by gevent or eventlet: `patched.py LIBRARY WHEN ADDRESS`."""

import asyncio
import sys
import warnings
from typing import Any

from userservice import SyncUserManager, UserManager


def patch(library: str) -> None:
    warnings.simplefilter("ignore")
    if library == "gevent":
        from gevent import monkey  # noqa: PLC0415 - at the time that the test wants

        monkey.patch_all()
    elif library == "gevent without threads":
        from gevent import monkey  # noqa: PLC0415

        monkey.patch_all(thread=False)
    elif library == "gevent imported":
        import gevent.monkey  # noqa: F401, PLC0415
    elif library == "eventlet":
        import eventlet  # noqa: PLC0415

        eventlet.monkey_patch()


async def call(manager: UserManager) -> Any:
    return await manager.get("ada")


def outcome(action: Any) -> str:
    try:
        return str(action().user_id)
    except RuntimeError as error:
        return f"{type(error).__name__}: {error}"


def main(library: str, when: str, address: str) -> None:
    if when == "after":
        blocking, users = SyncUserManager(address, timeout=5), UserManager(address, timeout=5)
        patch(library)
        answers = [outcome(lambda: blocking.get("ada")), outcome(lambda: asyncio.run(call(users)))]
        blocking.close()
    else:
        patch(library)
        answers = [
            outcome(lambda: SyncUserManager(address, timeout=5).get("ada")),
            outcome(lambda: asyncio.run(call(UserManager(address, timeout=5)))),
        ]
    sys.stdout.write("\n".join(answers) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
