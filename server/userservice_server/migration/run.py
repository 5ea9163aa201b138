"""Runs a migration."""

from collections.abc import Callable
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from userservice_server.check import Report, check
from userservice_server.check.connecting import connect
from userservice_server.check.reading import Reader
from userservice_server.config import ConfigError
from userservice_server.migration.source import Source
from userservice_server.migration.target import Target
from userservice_server.store.failures import why


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One side of a migration: the URL and the key prefix of a store."""

    url: str = field(repr=False)
    key_prefix: str


Progress = Callable[[int, int], None]
"""Called after every page with the number of users that were copied by this run, and of all users of the source."""


def migrate(source: Endpoint, target: Endpoint, partitions: int, timeout: float, progress: Progress) -> Report:
    """Moves a store, or continues a migration that was interrupted; returns the report of the check of the target.

    Args:
        source: the store to move; servers reject writes to it from now on.
        target: an empty store.
        partitions: the number of partitions of the target.
        timeout: limit in seconds for connecting and for each reply.
        progress: see ``Progress``.

    Raises:
        ConfigError: a store cannot be reached or cannot be migrated, or the target differs from the source at the end.
    """
    try:
        with connect(source.url, timeout) as of_source, connect(target.url, timeout) as of_target:
            old = Source(Reader(of_source), source.key_prefix)
            new = Target(Reader(of_target), target.key_prefix, partitions)
            old.check_roles()
            done = new.begin(old)
            if not old.is_marked and (findings := check(source.url, source.key_prefix, timeout).findings):
                raise ConfigError(
                    f"the store at --from is not consistent ({len(findings)} findings); userservice check"
                )
            if done is not None:
                old.mark()
                _copy(old, new, done, progress)
                new.finish(old)
            users, sessions = old.users(), old.sessions()
    except RedisError as error:
        raise ConfigError(f"a store cannot be reached: {why(error)}; run the same command again to continue") from error
    report = check(target.url, target.key_prefix, timeout)
    if report.findings or (report.users, report.sessions) != (users, sessions):
        numbers = f"{report.users} of {users} users, {report.sessions} of {sessions} sessions"
        found = f"{len(report.findings)} findings, {numbers}"
        raise ConfigError(f"the check of the store at --to failed ({found}); userservice check shows the findings")
    return report


def _copy(old: Source, new: Target, done: dict[bytes, bytes], progress: Progress) -> None:
    users, copied = old.users(), 0
    for table in old.keys.all_users():
        last = done.get(b"%d" % table.partition)
        for page in old.pages(table, b"(" + last if last else b"-inf"):
            new.add(page, table.partition)
            copied += len(page)
            progress(copied, users)
    for record in old.requests():
        new.add_request(*record)
