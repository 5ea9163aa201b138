"""Checks concurrent calls on one user for linearizability: some order of the calls must explain their results."""

import math
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
    """A call with its start, end and outcome, as its caller saw them."""

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
    optional = _mask(event.answer == UNKNOWN for event in ordered)
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
        if done | optional == everything:
            found.add(state)
        waiting += _next(ordered, done, state)
    return found


def _mask(flags: Iterable[bool]) -> int:
    return sum(1 << number for number, flag in enumerate(flags) if flag)


def _next(ordered: list[Event], done: int, state: State) -> list[tuple[int, State]]:
    """Returns the calls that can be next: those that started before the first end of any remaining call."""
    left = [(number, event) for number, event in enumerate(ordered) if not done >> number & 1]
    first_return = min((event.returned for _, event in left if event.answer != UNKNOWN), default=math.inf)
    places: list[tuple[int, State]] = []
    for number, event in left:
        if event.called > first_return:
            break
        answer, after = event.step(state)
        if event.answer == UNKNOWN:
            if after != state:
                places.append((done | 1 << number, after))
        elif event.answer == answer:
            # What can no longer take effect counts as done.
            over = _mask(other.answer == UNKNOWN and other.returned < event.called for other in ordered)
            place = (done | over | 1 << number, after)
            if after == state and done | over == done:
                return [place]  # it changes nothing, so it may as well be the next: no other order explains more
            places.append(place)
    return places
