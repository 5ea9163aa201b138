"""Memory that the supervisor and its workers share, so that the counts of a killed worker are not lost."""

import mmap
import os
import tempfile
from multiprocessing.reduction import DupFd
from typing import Any


class MetricsMemory:
    """Slots of memory, initially zero. Each worker writes to a slot of its own, and the supervisor reads all of them.

    Can be passed to a process that multiprocessing spawns, which inherits the descriptor of the memory.

    Args:
        slots: number of slots.
        slot_bytes: size of a slot.
        descriptor: the file of existing memory; None: new memory is created.
    """

    def __init__(self, slots: int, slot_bytes: int, descriptor: int | None = None) -> None:
        self.slots = slots
        self._slot_bytes = slot_bytes
        self._descriptor = _anonymous_file(slots * slot_bytes) if descriptor is None else descriptor
        self._memory = memoryview(mmap.mmap(self._descriptor, slots * slot_bytes))

    def __reduce__(self) -> tuple[Any, ...]:
        """Passes the descriptor to the process that is being spawned."""
        return _inherited, (self.slots, self._slot_bytes, DupFd(self._descriptor))

    def slot(self, number: int) -> memoryview:
        """Returns the memory of a slot."""
        return self._memory[number * self._slot_bytes : (number + 1) * self._slot_bytes]


def _inherited(slots: int, slot_bytes: int, descriptor: Any) -> MetricsMemory:
    return MetricsMemory(slots, slot_bytes, descriptor.detach())


def _anonymous_file(size: int) -> int:
    """Returns the descriptor of a file without a name; on Linux, the file is in memory."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("userservice-metrics")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
