"""Batches and replies of the simulated world: small Python objects."""

from __future__ import annotations

import struct

from mpaxos.core.sessions import Entry
from mpaxos.core.types import ReplicaId
from mpaxos.machine.memory import blake64

_HEADER = struct.Struct("<QQQ")
_ENTRY = struct.Struct("<QQQBI")


class SimBatch:
    """A batch that carries its entries and answers what the protocol may ask of one."""

    __slots__ = ("_entries", "count", "digest", "incarnation", "length", "number", "origin")

    def __init__(
        self, origin: ReplicaId, incarnation: int, number: int, entries: list[Entry]
    ) -> None:
        self.origin = origin
        self.incarnation = incarnation
        self.number = number
        self.count = len(entries)
        self._entries = entries
        data = _HEADER.pack(origin, incarnation, number) + b"".join(
            _ENTRY.pack(*entry[:4], len(entry[4])) + entry[4] for entry in entries
        )
        self.length = len(data)
        self.digest = blake64(data)

    def entries(self) -> list[Entry]:
        return self._entries

    def __repr__(self) -> str:
        return f"<{self.origin}#{self.number} x{self.count} {self.digest & 0xFFFF:04x}>"


def noop() -> SimBatch:
    """A batch without requests."""
    return SimBatch(0, 0, 0, [])


class SimReplies:
    """Replies on their way to clients."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, int, int, bytes]] = []

    def add(self, session: int, sequence: int, status: int, payload: bytes, /) -> None:
        self._entries.append((session, sequence, status, payload))

    def entries(self) -> list[tuple[int, int, int, bytes]]:
        return self._entries

    def __len__(self) -> int:
        return len(self._entries)
