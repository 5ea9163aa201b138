"""A program that forks and prints the outcome of a call in the child: `forking.py ADDRESS CASE`."""

import asyncio
import os
import signal
import socket
import sys
import time
import traceback

from userservice import DeadlineExceededError, SyncUserManager, UserManager


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def _get(manager: UserManager) -> str:
    return (await manager.get("u1")).user_id


def _prepare(case: str, address: str, manager: SyncUserManager) -> object:
    """Prepares a case before the fork. Returns the objects that must stay alive."""
    if case in {"open", "closed"}:
        manager.get("u1")
    if case == "closed":
        manager.close()
    if case == "forgotten":
        # Neither closed nor referenced any more.
        SyncUserManager(address).get("u1")
    if case == "deadline":
        # The thread of the deadlines runs in the parent only.
        with SyncUserManager(address) as closed:
            next(closed.list_chunked(chunk_size=1))
    if case == "closed in mid stream":
        chunks = manager.list_chunked(chunk_size=1)
        next(chunks)
        manager.close()
        return chunks
    if case == "asyncio":
        loop, user_manager = asyncio.new_event_loop(), UserManager(address)
        loop.run_until_complete(_get(user_manager))
        return loop, user_manager
    return None


_FORKS = 150


def _fork_while_grpc_stops(address: str) -> None:
    """Closes a manager, forks at different moments while gRPC stops its threads, and makes a call in each child."""
    for number in range(_FORKS):
        with SyncUserManager(address) as closed:
            closed.get("u1")
        time.sleep(number % 25 / 10_000)  # gRPC stops its threads within about 2.5 ms
        child = os.fork()
        if child == 0:
            signal.alarm(10)  # ends a child that hangs
            with SyncUserManager(address) as manager:
                manager.get("u1")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            _say(f"child {number} ended with status {status}")
            return
    _say("done")


def main(address: str, case: str) -> None:
    if case == "while grpc stops":
        _fork_while_grpc_stops(address)
        return
    manager = SyncUserManager(address)
    kept = _prepare(case, address, manager)
    child = os.fork()
    if child == 0:
        try:
            for each in (manager, SyncUserManager(address, timeout=2)):
                try:
                    _say(repr(each.get("u1").user_id))
                except Exception as error:  # noqa: BLE001 - every failure is printed
                    _say(repr(error))
                each.close()
            try:
                _say(repr(asyncio.run(_get(UserManager(address, timeout=2)))))
            except Exception as error:  # noqa: BLE001 - as above
                _say(repr(error))
            if case == "deadline":
                with socket.create_server(("127.0.0.1", 0)) as silent:
                    unanswered = SyncUserManager(f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.5)
                    try:
                        next(unanswered.list_chunked())
                    except DeadlineExceededError:
                        _say("deadline")
            _say("done")
        except BaseException:  # noqa: BLE001 - nothing may leave the child by the parent's way
            traceback.print_exc()
        os._exit(0)
    os.waitpid(child, 0)
    if case == "open":
        _say(f"parent {manager.get('u1').user_id}")
    manager.close()
    del kept


if __name__ == "__main__":
    main(*sys.argv[1:])
