"""Extracts the examples from docs/users-api.md and runs each of them unchanged."""

import ast
import inspect
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from harness.services import Service

from userservice import SessionManager, User, UserManager, UserNotFoundError

DOCUMENT = Path(__file__).parent.parent / "docs" / "users-api.md"
OPENING = re.compile(r'^```(?P<language>\w+) title="(?P<title>[^"]+)"$')
CLOSING = "```"


@dataclass(frozen=True)
class Example:
    language: str
    title: str
    source: str


def extract(document: str, language: str) -> list[Example]:
    """Returns the examples of one language, in the order of the document."""
    examples = []
    opening: re.Match[str] | None = None
    body: list[str] = []
    for line in document.splitlines():
        if opening is None:
            opening, body = OPENING.match(line), []
        elif line == CLOSING:
            examples.append(Example(opening["language"], opening["title"], "\n".join(body) + "\n"))
            opening = None
        else:
            body.append(line)
    assert opening is None, f"{opening} is never closed"
    return [example for example in examples if example.language == language]


TEXT = DOCUMENT.read_text(encoding="utf-8")
EXAMPLES = extract(TEXT, "python")


@dataclass
class Surroundings:
    """The variables that an example needs, and the effects that the test checks."""

    user_manager: UserManager
    names: dict[str, Any] = field(default_factory=dict)
    processed: list[list[User]] = field(default_factory=list)

    async def run(self, source: str) -> None:
        self.names.update(user_manager=self.user_manager, process=self.processed.append)
        code = compile(source, str(DOCUMENT), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        coroutine = eval(code, self.names)  # noqa: S307 - our own document
        assert inspect.iscoroutine(coroutine), "the example awaits nothing"
        await coroutine


@pytest.fixture
async def surroundings(service: Service) -> AsyncIterator[Surroundings]:
    async with UserManager(service.address) as manager:
        yield Surroundings(manager)


async def after_add(around: Surroundings) -> None:
    new_user = around.names["new_user"]
    assert (new_user.user_id, new_user.metadata) == ("user123", {"foo": "bar"})
    assert await around.user_manager.get("user123") == new_user


async def after_get(around: Surroundings) -> None:
    assert (around.names["user"].user_id, around.names["user"].metadata) == ("user123", {"foo": "bar", "kept": 1})


async def after_update(around: Surroundings) -> None:
    updated = around.names["updated_user"]
    assert (updated.user_id, updated.metadata) == ("user123", {"foo": "baz", "kept": 1})
    assert (await around.user_manager.get("user123")).metadata == {"foo": "baz", "kept": 1}


async def after_delete(around: Surroundings) -> None:
    with pytest.raises(UserNotFoundError):
        await around.user_manager.get("user123")


async def after_list(around: Surroundings) -> None:
    users = around.names["users"]
    assert [user.user_id for user in users] == ["user123", *(f"other{number}" for number in range(9))]
    assert users.next_cursor == users[-1].id


async def after_filter(around: Surroundings) -> None:
    assert [user.user_id for user in around.names["users"]] == ["user123"]
    assert around.names["number"] == 1


async def after_find(around: Surroundings) -> None:
    assert list(around.names["users"]) == []
    await around.user_manager.update(user_id="user123", email="ADA@example.org")
    again = await around.user_manager.find(["ada@example.org", "bob@example.org"])
    assert [user.user_id for user in again] == ["user123"]


async def after_sessions(around: Surroundings) -> None:
    assert [session.session_id for session in around.names["sessions"]] == ["phone", "laptop"]


async def after_import(around: Surroundings) -> None:
    status = around.names["status"]
    assert (status.offset, status.added, status.failed, status.row_errors) == (2000, 2000, 0, [])
    assert (await around.user_manager.get("row1999")).metadata == {"number": 1999}


async def after_chunks(around: Surroundings) -> None:
    assert [len(users) for users in around.processed] == [100, 51]
    names = [user.user_id for users in around.processed for user in users]
    assert names == ["user123", *(f"other{number}" for number in range(150))]


async def after_parts(around: Surroundings) -> None:
    names = [user.user_id for users in around.processed for user in users]
    assert sorted(names) == sorted(["user123", *(f"other{number}" for number in range(150))])
    assert around.names["parts"] == []


async def after_iter(around: Surroundings) -> None:
    assert around.names["user_ids"] == ["user123", *(f"other{number}" for number in range(150))]


OUTCOMES: dict[str, Callable[[Surroundings], Any]] = {
    "Add a User": after_add,
    "Get a User": after_get,
    "Update a User": after_update,
    "Delete a User": after_delete,
    "List Users": after_list,
    "Filter and Count Users": after_filter,
    "Find Users": after_find,
    "Get User's Sessions": after_sessions,
    "Import Users": after_import,
    "List Users in Chunks": after_chunks,
    "List Users in Parts": after_parts,
    "Iterate over Users": after_iter,
    "Set Options of Calls": after_get,
}


async def populate(manager: UserManager, address: str) -> None:
    await manager.add({"user_id": "user123", "metadata": {"foo": "bar", "kept": 1}})
    async with SessionManager(address) as sessions:
        for session_id in ("phone", "laptop"):
            await sessions.add({"user_id": "user123", "session_id": session_id})
    for number in range(150):
        await manager.add({"user_id": f"other{number}"})


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
async def test_the_example_has_the_documented_effect(
    surroundings: Surroundings, service: Service, example: Example
) -> None:
    if example.title != "Add a User":
        await populate(surroundings.user_manager, service.address)
    await surroundings.run(example.source)
    await OUTCOMES[example.title](surroundings)


def test_every_example_of_the_document_was_found() -> None:
    titles = re.findall(r'title="([^"]+)"', TEXT)
    assert [example.title for example in EXAMPLES] == titles[::2] == list(OUTCOMES)
    assert [example.title for example in extract(TEXT, "typescript")] == titles[1::2] == list(OUTCOMES)


def test_every_code_block_of_the_document_is_an_example() -> None:
    """The document renders as Markdown: each fence opens or closes an example, and the text has no other fence."""
    examples = len(EXAMPLES) + len(extract(TEXT, "typescript"))
    assert TEXT.count("```") == len(re.findall("^```", TEXT, re.MULTILINE)) == 2 * examples
