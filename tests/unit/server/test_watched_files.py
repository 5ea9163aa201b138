"""Files that are replaced while they are in use."""

import logging
import os
import threading
from pathlib import Path

import pytest
from harness.waiting import until

from userservice_server.config import ConfigError
from userservice_server.config.watched_files import Contents, Watched, WatchedFiles


class Site:
    """Two files that are valid together if they have the same content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.used: list[str] = []
        self.parsed = 0
        self.write("v1", "v1")
        self.files = WatchedFiles()
        self.watched = Watched("pair", self.read, self.parse, self.used.append, self.read())

    def write(self, *texts: str) -> None:
        for name, text in zip("ab", texts, strict=False):
            (self.folder / name).write_text(text)

    def read(self) -> Contents:
        try:
            return tuple((self.folder / name).read_bytes() for name in "ab")
        except OSError:
            raise ConfigError("cannot be read") from None

    def parse(self, contents: Contents) -> str:
        self.parsed += 1
        if contents[0] != contents[1]:
            raise ConfigError("do not fit together")
        if contents[0] == b"bug":
            raise RuntimeError("secret content")
        return contents[0].decode()

    def check(self, times: int = 1) -> None:
        for _ in range(times):
            self.files.check(self.watched)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_change_is_applied_once_and_a_new_time_alone_is_not_a_change(site: Site) -> None:
    site.check(2)
    site.write("v2", "v2")
    site.check(3)
    os.utime(site.folder / "a")
    site.check()
    assert (site.used, site.parsed) == (["v2"], 1)


def test_a_change_within_the_resolution_of_times_is_detected(site: Site) -> None:
    status = (site.folder / "a").stat()
    site.write("v2", "v2")
    for name in "ab":
        os.utime(site.folder / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    site.check()
    assert site.used == ["v2"]


def test_a_lasting_fault_is_reported_once_and_the_last_valid_version_stays_in_use(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.write("v2")
    site.check(5)
    assert (site.used, site.parsed, site.files.failures["pair"]) == ([], 1, 1)
    [record] = caplog.records
    assert (record.levelno, record.__dict__["fault"]) == (logging.ERROR, "do not fit together")
    site.write("v2", "v2")
    site.check(2)
    assert site.used == ["v2"]
    site.write("v3")
    site.check(2)
    assert site.files.failures["pair"] == 2


def test_a_pair_that_is_replaced_in_two_steps_is_not_a_fault(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.write("v2")
    site.check()
    site.write("v2", "v2")
    site.check(2)
    assert site.used == ["v2"]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_missing_file_is_a_fault_until_it_exists_again(site: Site) -> None:
    (site.folder / "a").unlink()
    site.check(4)
    assert (site.used, site.files.failures["pair"]) == ([], 1)
    site.write("v1")
    site.check(2)
    assert site.used == []
    site.write("v2", "v2")
    site.check()
    assert site.used == ["v2"]


def test_an_exception_in_a_check_does_not_end_the_watching_thread(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    site.write("bug", "bug")
    site.check()
    assert "secret" not in caplog.text
    assert caplog.records[0].__dict__["fault"] == "cannot be used: RuntimeError"
    site.write("v2", "v2")
    site.check()
    assert site.used == ["v2"]


def test_a_replaced_symbolic_link_of_kubernetes_is_detected(tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        for name in "ab":
            (tmp_path / version / name).write_text(version)
    (tmp_path / "..data").symlink_to("v1")
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    site = Site(mounted)
    for name in "ab":
        (mounted / name).unlink()
        (mounted / name).symlink_to(f"../..data/{name}")
    site.check()
    assert site.used == []
    (tmp_path / "..new").symlink_to("v2")
    (tmp_path / "..new").replace(tmp_path / "..data")
    site.check()
    assert site.used == ["v2"]


def test_a_thread_watches_until_it_is_stopped(site: Site) -> None:
    site.files.add(site.watched)
    site.files.start()
    site.write("v2", "v2")
    until(lambda: site.used == ["v2"], within=5)
    site.files.stop()
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "files"], within=5)
