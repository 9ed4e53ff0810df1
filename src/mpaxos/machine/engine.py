"""What a state machine's host asks of the engine beneath it.

`mpaxos._native.Engine` (persistent memory) and the engine in plain memory both fit; the host never
imports either. Sizes are bytes, times nanoseconds.
"""

from __future__ import annotations

from typing import Any, Protocol

Request = tuple[int, int, int, bytes]
"""Index in the batch, session, sequence, payload."""

Change = tuple[int, bytes, bytes | None]
"""Container number, key, new value or None to delete."""


class Replies(Protocol):
    """Replies on their way to clients; `mpaxos._native.ReplySet` or a stand-in."""

    def add(self, session: int, sequence: int, status: int, payload: bytes, /) -> None: ...
    def entries(self) -> list[tuple[int, int, int, bytes]]: ...
    def __len__(self) -> int: ...


class Requests(Protocol):
    """The part of a batch that the host reads: entries are (session, sequence, lowest, kind,
    payload)."""

    def entries(self) -> list[tuple[int, int, int, int, bytes]]: ...


class Engine(Protocol):
    """State, session table and applied position of one replica, changed one slot at a time."""

    def begin(self, slot: int, time: int, batch: Any, /) -> list[Request]:
        """The requests of `batch` that must be run, in order; duplicates are left out."""

    def finish(self, replies: list[tuple[int, bytes]], changes: list[Change], /) -> Any:
        """Make the slot begun last durable, with (status, payload) for each request to run;
        returns the Replies."""

    @property
    def mark(self) -> tuple[int, int]:
        """Slot and digest of the last applied slot."""

    def container(self, name: str, /) -> int: ...
    def get(self, container: int, key: bytes, /) -> bytes | None: ...
    def scan(
        self, container: int, start: bytes, end: bytes | None, limit: int, /
    ) -> list[tuple[bytes, bytes]]: ...
    def size(self, container: int, /) -> int: ...
    def state_used(self) -> int: ...
