"""The layout of ids: 47 bits of time and 6 bits of partition. store/scripts/_ids.lua has the same numbers."""

EPOCH_SECONDS = 1735689600  # 2025-01-01
TICKS_A_SECOND = 40_000
PARTITIONS = 64  # what the low bits of an id leave room for
MAX_ID = (1 << 53) - 1  # the largest number that a JavaScript number holds exactly


def id_at(seconds: float) -> int:
    """Returns the id of a moment in partition 0: 0 before 2025, as in the scripts.

    Args:
        seconds: since 1970, as time.time() counts them.
    """
    return max(int((seconds - EPOCH_SECONDS) * TICKS_A_SECOND), 0) * PARTITIONS
