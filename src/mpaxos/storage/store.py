"""The seam between the protocol's writes and whatever makes them durable."""

from __future__ import annotations

from typing import Protocol

from mpaxos.core.output import Write
from mpaxos.core.types import Record, Recovered, Slot


class Store(Protocol):
    """Durable memory of one acceptor: its promise, its log, its positions."""

    def recovered(self) -> Recovered:
        """What was found when the store was opened."""

    def write(self, writes: list[Write]) -> None:
        """Make all of `writes` durable, in their order; durable on return.

        Raises StorageFull when there is no room: then nothing of it was written.
        """

    def read(self, slot: Slot) -> Record | None:
        """The newest record of `slot`, checksum verified; None when there is none.

        Raises StorageCorrupt.
        """

    @property
    def log_room(self) -> int:
        """Free bytes of the log."""

    def close(self) -> None: ...
