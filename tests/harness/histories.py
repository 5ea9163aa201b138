"""Whether what concurrent callers saw of one user can be explained by some order of their calls (linearizability)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

State: TypeAlias = tuple[str, str] | None
"""A user's e-mail and first name, or None for a user that is not there."""

Step: TypeAlias = Callable[[State], tuple[str, State]]
"""What a call does: from the state before to the answer and the state after."""

UNKNOWN = "unknown"
"""The answer of a call that failed: it may or may not have been applied."""


@dataclass(frozen=True)
class Event:
    """A call as its caller saw it."""

    called: float
    returned: float
    step: Step
    answer: str


def _add(email: str, state: State) -> tuple[str, State]:
    return ("exists", state) if state else ("ok", (email, ""))


def _delete(state: State) -> tuple[str, State]:
    return ("ok", None) if state else ("missing", None)


def _get(state: State) -> tuple[str, State]:
    return ("|".join(state) if state else "missing"), state


def _set_email(email: str, state: State) -> tuple[str, State]:
    return (f"{email}|{state[1]}", (email, state[1])) if state else ("missing", None)


def _set_name(name: str, state: State) -> tuple[str, State]:
    return (f"{state[0]}|{name}", (state[0], name)) if state else ("missing", None)


def add(email: str) -> Step:
    return partial(_add, email)


def set_email(email: str) -> Step:
    return partial(_set_email, email)


def set_name(name: str) -> Step:
    return partial(_set_name, name)


get: Step = _get
delete: Step = _delete


def final_states(events: Iterable[Event], before: Iterable[State]) -> set[State]:
    """Returns the states in which these calls may have left the user: none if no order of them explains the answers.

    Goes through the orders in which each call takes effect between its being called and its return (Wing and Gong),
    leaving out what was seen before: the same calls done, in the same state (Lowe). A call whose outcome is unknown
    may also never take effect.
    """
    ordered = sorted(events, key=lambda event: event.called)
    everything = (1 << len(ordered)) - 1
    seen: set[tuple[int, State]] = set()
    found: set[State] = set()
    waiting: list[tuple[int, State]] = [(0, state) for state in before]
    while waiting:
        place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        assert len(seen) < 2_000_000, "too many orders to go through: the history says nothing"
        done, state = place
        if done == everything:
            found.add(state)
            continue
        waiting += _next(ordered, done, state)
    return found


def _next(ordered: list[Event], done: int, state: State) -> list[tuple[int, State]]:
    """What can come next: any call that was made before the first return of those that are not done."""
    left = [(number, event) for number, event in enumerate(ordered) if not done >> number & 1]
    first_return = min(event.returned for _, event in left)
    places: list[tuple[int, State]] = []
    for number, event in left:
        if event.called > first_return:
            break
        answer, after = event.step(state)
        if event.answer == UNKNOWN:
            places.append((done | 1 << number, state))
        if event.answer in (UNKNOWN, answer):
            places.append((done | 1 << number, after))
    return places
