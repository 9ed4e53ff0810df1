"""The seam between the protocol's writes and whatever makes them durable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mpaxos.core.output import Write
from mpaxos.core.types import Mark, Record, Recovered, Slot
from mpaxos.errors import StorageCorrupt

Position = Callable[[], tuple[Mark, int]]
"""Tells the machine's position and time (nanoseconds since the Unix epoch)."""


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


class LaterStore(Store, Protocol):
    """A store that can make writes durable while its caller goes on."""

    def submit(self, writes: list[Write]) -> int:
        """Begin to write; a ticket. read() and log_room know of the writes at once. Raises as
        write()."""

    def durable_upto(self) -> int:
        """The last ticket whose writes are durable, and with it all before. Raises
        StorageError."""

    def wait(self, ticket: int) -> None:
        """Return when what the ticket stands for is durable. Raises StorageError."""

    def fileno(self) -> int:
        """An eventfd, readable when durable_upto() has moved since it was read."""


class KeptLog(Protocol):
    """A log that outlives the state: it remembers how much of it is decided, so that a restarted
    replica applies that again without asking anybody."""

    @property
    def decided_upto(self) -> Slot:
        """Records up to here are decided; it may be too low."""

    def decided(self, upto: Slot) -> None:
        """Everything up to `upto` is decided, and its records are durable: to be remembered with
        one of the next writes."""

    def read(self, slot: Slot) -> Record | None: ...


def check_reach(truncated_upto: Slot, state: Slot) -> None:
    """Raise StorageCorrupt when a log begins after the state: then slots are missing that neither
    has."""
    if truncated_upto > state:
        raise StorageCorrupt(
            f"the log is truncated up to slot {truncated_upto}, but the state machine's newest "
            f"valid snapshot is of slot {state}: the slots between are lost here. Restore the "
            "snapshot, or replace the replica"
        )
