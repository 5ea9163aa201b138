"""What a machine lacks is said in one line."""

from collections import namedtuple
from pathlib import Path

import pytest

from benchmarks import go_peers, room
from benchmarks.missing import Missing


def test_a_machine_without_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(go_peers.NotBuiltError, match=r"^Go is not installed$"):
        go_peers.build()


def test_a_build_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("go", "buf"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho progress >&2\necho 'no network' >&2\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(go_peers.NotBuiltError, match=r"^buf generate failed: no network$"):
        go_peers.build()


def test_a_reason_is_one_line_that_names_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    missing = Missing()
    missing.add("plain Go", "Go is not installed")
    assert capsys.readouterr().err == "bench: not measured: plain Go: Go is not installed\n"
    assert dict(missing) == {"plain Go": "Go is not installed"}


def test_too_little_memory_or_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert room.lack(1000, tmp_path) is None
    assert "of memory" in str(room.lack(10**12, tmp_path))
    usage = namedtuple("usage", "total used free")  # noqa: PYI024 - of the same shape as the real one
    monkeypatch.setattr("benchmarks.room.shutil.disk_usage", lambda _: usage(10, 9, 1))
    assert str(room.lack(1000, tmp_path)).endswith("of disk space, 0.0 GiB are free")
