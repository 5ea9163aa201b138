import asyncio
import errno
import time

import pytest

from userservice_server.config import Config, ConfigError, Listen
from userservice_server.process import workers
from userservice_server.process.loop_monitor import LoopMonitor
from userservice_server.process.stopping import Stop
from userservice_server.process.systemd import Systemd


async def test_the_largest_lag_is_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[float] = []
    monitor = LoopMonitor(lambda: runs.append(time.monotonic()))
    monitor.start()
    await asyncio.sleep(0)
    time.sleep(0.8)  # noqa: ASYNC251 - blocks the event loop, which is due to run after a quarter of a second
    await asyncio.sleep(0.3)
    assert 0.5 <= monitor.largest_lag() < 5
    assert len(runs) >= 3
    monkeypatch.setattr("userservice_server.process.loop_monitor._WINDOW", 0.0)
    assert monitor.largest_lag() == 0


def test_missing_shared_memory_is_an_error_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(workers, "Heartbeats", fail)
    with pytest.raises(ConfigError, match="Read-only file system"):
        workers.run_workers(Config(listen=Listen("127.0.0.1:0")), print, lambda: None, Stop(1), Systemd())
