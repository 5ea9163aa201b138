"""The time of a rejection reveals neither how much of a secret is right nor whether a key id exists."""

import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from userservice_server.errors import CredentialsInvalidError
from userservice_server.transport.credentials import key_format
from userservice_server.transport.credentials.keys import Keys
from userservice_server.transport.credentials.keys_file import parse_keys_file

TRIES = 10_000
_LONGEST_DIFFERENCE = 0.08  # of the median; it is 0.3 if an unknown id is rejected without a comparison


def guess(key: str, right: int, generator: random.Random, key_id: str = "") -> str:
    """Returns a well-formed key; its secret starts with `right` characters of the secret of another key."""
    prefix, its_id, secret, _ = key.split("_")
    wrong = "".join(generator.choice(key_format._DIGITS) for _ in range(len(secret)))
    body = f"{prefix}_{key_id or its_id}_{secret[:right]}{wrong[right:]}"
    return f"{body}_{key_format._checksum(body)}"


@pytest.mark.long
@pytest.mark.timeout(300)
def test_rejections_take_the_same_time() -> None:
    keys = [key_format.new_key() for _ in range(1000)]
    entries = "".join(f'[keys.{key.id}]\nsha256 = "{key.digest.hex()}"\nscopes = []\n' for key in keys)
    verifier = Keys(parse_keys_file(entries.encode(), Path("keys.toml")))
    generator = random.Random(7)  # noqa: S311 - guesses, no secrets
    unknown = [key_format.new_key().id for _ in keys]
    # All kinds use the same number of ids, because a recently used id is found faster.
    kinds: dict[str, Callable[[str], str]] = {
        "nothing right": lambda key: guess(key, 0, generator),
        "half right": lambda key: guess(key, 21, generator),
        "all but one right": lambda key: guess(key, 42, generator),
        "unknown id": lambda key: guess(key, 0, generator, generator.choice(unknown)),
    }
    times: dict[str, list[int]] = {name: [] for name in kinds}
    for _ in range(TRIES):
        for name in generator.sample(sorted(kinds), len(kinds)):  # in turns, so that other load affects all kinds
            token = kinds[name](generator.choice(keys).text)
            started = time.perf_counter_ns()
            try:
                verifier.verify(token)
            except CredentialsInvalidError:
                times[name].append(time.perf_counter_ns() - started)
    assert all(len(taken) > TRIES * 0.9 for taken in times.values())
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    base = medians["nothing right"]
    print({name: f"{value:.0f} ns, {value / base - 1:+.2%}" for name, value in medians.items()})  # noqa: T201
    for name, median in medians.items():
        assert abs(median / base - 1) < _LONGEST_DIFFERENCE, f"{name}: {median} ns, nothing right: {base} ns"
