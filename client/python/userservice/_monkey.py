"""Detects gevent and eventlet, under which asyncio gRPC cannot work."""

from __future__ import annotations

import sys

from userservice.errors import ManagerUnusableError

# A manager needs real threads and sockets. If gRPC's event thread is a green thread, it never yields: one call would
# block the whole process, even after the deadline of the call.
_GEVENT_MODULES = ("_thread", "threading", "socket", "select", "selectors")
_EVENTLET_MODULES = ("thread", "socket", "select")

_ADVICE = (
    "which blocks asyncio gRPC: run the program without monkey patching (for gunicorn: the worker class sync, gthread "
    "or uvicorn_worker.UvicornWorker; for Celery: the prefork pool)"
)


def reject_monkey_patching() -> None:
    """Raises an error in a process that gevent or eventlet has patched.

    Checks only loaded modules, because a process that has not imported gevent or eventlet is not patched by it.

    Raises:
        ManagerUnusableError: If threads, sockets or select are patched.
    """
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and any(map(gevent.is_module_patched, _GEVENT_MODULES)):
        raise ManagerUnusableError(f"gevent has patched this process, {_ADVICE}")
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and any(map(eventlet.is_monkey_patched, _EVENTLET_MODULES)):
        raise ManagerUnusableError(f"eventlet has patched this process, {_ADVICE}")
