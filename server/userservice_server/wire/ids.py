"""The layout of ids: 47 bits of time in ticks of 25 microseconds since 2025-01-01, then 6 bits of partition.

Together 53 bits, which a Lua number and a JavaScript number hold exactly, until the year 2136. The scripts get these
numbers from here (see store/scripts/__init__.py).
"""

EPOCH_SECONDS = 1735689600  # 2025-01-01
TICKS_A_SECOND = 40_000
TICK_MICROSECONDS = 1_000_000 // TICKS_A_SECOND
PARTITIONS = 64  # the number of partitions that the low bits of an id can name
MAX_ID = (1 << 53) - 1  # the largest number that a JavaScript number holds exactly


def id_at(seconds: float) -> int:
    """Returns the id of a moment in partition 0: 0 before 2025, as in the scripts.

    Args:
        seconds: since 1970, as time.time() counts them.
    """
    return max(int((seconds - EPOCH_SECONDS) * TICKS_A_SECOND), 0) * PARTITIONS
