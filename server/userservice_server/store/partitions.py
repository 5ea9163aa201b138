"""Numbers of partitions, and the hash tags that distribute partitions over the slots of a cluster.

The tag of a partition is chosen so that its slot lies in the middle of one of P equal ranges of slots. The ranges are
used in bit-reversed order, so that a cluster that assigns contiguous ranges of slots to its masters gives each master
almost the same number of partitions. The tags are part of the storage format and never change.
"""

from binascii import crc_hqx

SLOTS = 16384
PARTITION_COUNTS = (1, 16, 64)
CLUSTER_PARTITIONS = 16  # the default of a new store in a cluster

# Partition p of P has the tag "p.n"; n is the number below 1000 whose slot is nearest to the middle of the range.
_NUMBERS = {
    16: (200, 280, 754, 139, 208, 465, 54, 567, 674, 954, 362, 159, 416, 496, 587, 151),
    64: (
        *(321, 706, 675, 563, 329, 112, 750, 870, 13, 138, 615, 20, 161, 981, 730, 426),
        *(811, 731, 344, 792, 389, 672, 701, 326, 967, 647, 128, 313, 970, 190, 872, 752),
        *(676, 956, 716, 331, 753, 445, 701, 64, 726, 806, 272, 789, 603, 515, 357, 68),
        *(981, 161, 883, 752, 837, 717, 47, 686, 434, 722, 357, 781, 941, 661, 712, 335),
    ),
}


def tags(partitions: int) -> tuple[str, ...]:
    """Returns the hash tags of all partitions of a store; a store with one partition has the tag ``0``."""
    if partitions == 1:
        return ("0",)
    return tuple(f"{partition}.{number}" for partition, number in enumerate(_NUMBERS[partitions]))


def slot_of(key: bytes) -> int:
    """Returns the slot of a key in a cluster: CRC16 of the hash tag, or of the whole key if it has none."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS
