"""The Lua scripts, one file each. Every write is one script, so it happens whole or not at all."""

import hashlib
import re
from dataclasses import dataclass
from importlib import resources

_INCLUDE = re.compile(r"^--@include (\S+)$", re.MULTILINE)


def _read(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, and the digest by which Redis knows it once loaded."""

    text: bytes
    sha1: bytes

    @classmethod
    def load(cls, name: str) -> "Script":
        """Reads a script, with the files that it includes put in the place of their ``--@include`` lines."""
        text = _INCLUDE.sub(lambda include: _read(include[1]), _read(name)).encode()
        return cls(text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


ADD = Script.load("add.lua")
GET = Script.load("get.lua")
BATCH_GET = Script.load("batch_get.lua")
REPLACE = Script.load("replace.lua")
DELETE = Script.load("delete.lua")
PROBE = Script.load("probe.lua")
CREATE = Script.load("create.lua")
UPGRADE = Script.load("upgrade.lua")

ALL = (ADD, GET, BATCH_GET, REPLACE, DELETE, PROBE, CREATE, UPGRADE)
