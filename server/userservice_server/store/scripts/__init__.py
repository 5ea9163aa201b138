"""Loads the Lua scripts, one file each. Every write is one script and therefore atomic.

Before a script is loaded, two kinds of lines in it are replaced: ``--@include FILE`` by that file, and
``--@constants NAME NAME …`` by a Lua statement that defines these constants, with their values in ``wire/``.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from userservice_server.wire import changes, expiry, idempotency, ids, imports, records
from userservice_server.wire.outcomes import Code

_INCLUDE = re.compile(r"^--@include (\S+)$", re.MULTILINE)
_CONSTANTS = re.compile(r"^--@constants (.+)$", re.MULTILINE)

CONSTANTS: Mapping[str, int | bytes] = {
    **{code.name: code.value for code in Code},
    "COUNT_TAG": expiry.COUNT_TAG,
    "MICROSECONDS_A_SECOND": expiry.MICROSECONDS_A_SECOND,
    "MOST_SESSIONS": expiry.MOST_SESSIONS,
    "FEED_TRIM_INTERVAL": changes.TRIM_INTERVAL,
    "FEED_TRIM_LIMIT": changes.TRIM_LIMIT,
    "USER_ADDED": changes.USER_ADDED,
    "USER_UPDATED": changes.USER_UPDATED,
    "USER_DELETED": changes.USER_DELETED,
    "SESSION_ADDED": changes.SESSION_ADDED,
    "SESSION_UPDATED": changes.SESSION_UPDATED,
    "SESSION_DELETED": changes.SESSION_DELETED,
    "SESSION_EXPIRED": changes.SESSION_EXPIRED,
    "FRAME_TAG": records.FRAME_TAG,
    "KEY_TAG": records.KEY_TAG,
    "ID_TAG": bytes([records.ID_TAG]),
    "FINGERPRINT_BYTES": idempotency.FINGERPRINT_BYTES,
    "REQUEST_TTL_MS": idempotency.TTL_SECONDS * 1000,
    "IMPORT_TTL_MS": imports.TTL_SECONDS * 1000,
    "MAX_ROW_ERRORS": imports.MAX_ROW_ERRORS,
    "ROW_ERRORS_TAG": imports.ROW_ERRORS_TAG,
    "INDEX_TAG": imports.INDEX_TAG,
    "EPOCH_SECONDS": ids.EPOCH_SECONDS,
    "TICKS_A_SECOND": ids.TICKS_A_SECOND,
    "TICK_MICROSECONDS": ids.TICK_MICROSECONDS,
    "PARTITIONS": ids.PARTITIONS,
    "MAX_ID": ids.MAX_ID,
}


def _read(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def _define(line: re.Match[str]) -> str:
    names = line[1].split()
    return f"local {', '.join(names)} = {', '.join(_literal(CONSTANTS[name]) for name in names)}"


def _literal(value: int | bytes) -> str:
    return str(value) if isinstance(value, int) else "'" + "".join(f"\\{byte:03}" for byte in value) + "'"


@dataclass(frozen=True, slots=True)
class Script:
    """A script's name and text, and the digest by which Redis finds a loaded script."""

    name: str
    text: bytes
    sha1: bytes

    @classmethod
    def load(cls, name: str) -> "Script":
        """Reads a script and replaces its ``--@`` lines."""
        text = _INCLUDE.sub(lambda include: _read(include[1]), _read(name))
        encoded = _CONSTANTS.sub(_define, text).encode()
        sha1 = hashlib.sha1(encoded, usedforsecurity=False).hexdigest().encode()
        return cls(name.removesuffix(".lua"), encoded, sha1)


ADD = Script.load("add.lua")
GET = Script.load("get.lua")
BATCH_GET = Script.load("batch_get.lua")
CUTS = Script.load("cuts.lua")
JOINT_ENDS = Script.load("joint_ends.lua")
JOINT_RANGE = Script.load("joint_range.lua")
REPLACE = Script.load("replace.lua")
DELETE = Script.load("delete.lua")
FIND = Script.load("find.lua")
INDEX_START = Script.load("index_start.lua")
INDEX_FILL = Script.load("index_fill.lua")
PERMISSIONS = Script.load("permissions.lua")
PROBE = Script.load("probe.lua")
COUNT = Script.load("count.lua")
IMPORT_OPEN = Script.load("import_open.lua")
IMPORT = Script.load("import.lua")
IMPORT_READ = Script.load("import_read.lua")
FEED_ON = Script.load("feed_on.lua")
FEED_OFF = Script.load("feed_off.lua")
FEED_TRIM = Script.load("feed_trim.lua")
FEED_READ = Script.load("feed_read.lua")
FEED_END = Script.load("feed_end.lua")
CREATE = Script.load("create.lua")
UPGRADE = Script.load("upgrade.lua")
LOWER_VERSION = Script.load("lower_version.lua")
EXPIRED = Script.load("expired.lua")
REVOKE = Script.load("revoke.lua")
DUE = Script.load("due.lua")
SWEEP = Script.load("sweep.lua")
FOUND = Script.load("found.lua")
FOUND_PARTITION = Script.load("found_partition.lua")
FOUNDED = Script.load("founded.lua")
RAISE_LAST_ID = Script.load("raise_last_id.lua")

_OF_IMPORTS = (IMPORT_OPEN, IMPORT, IMPORT_READ)
_OF_THE_FEED = (FEED_ON, FEED_OFF, FEED_TRIM, FEED_READ, FEED_END)
_OF_CREATION = (CREATE, UPGRADE, LOWER_VERSION, FOUND, FOUND_PARTITION, FOUNDED)
_OF_CHECKS = (PERMISSIONS, PROBE, COUNT, RAISE_LAST_ID)
_OF_SESSIONS = (EXPIRED, REVOKE, DUE, SWEEP)
_OF_USERS = (ADD, GET, BATCH_GET, CUTS, REPLACE, DELETE, FIND)
_OF_LISTS = (JOINT_ENDS, JOINT_RANGE)
_OF_THE_INDEX = (INDEX_START, INDEX_FILL)
ALL = (*_OF_USERS, *_OF_LISTS, *_OF_THE_INDEX, *_OF_SESSIONS, *_OF_IMPORTS, *_OF_THE_FEED, *_OF_CHECKS, *_OF_CREATION)
