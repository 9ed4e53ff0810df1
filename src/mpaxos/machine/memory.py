"""The engine in plain memory: same calls and same results as the native one, nothing durable.

The simulated world runs on it, and users can test their machines with it. Slots are atomic here
too: what `begin` works on becomes the state only in `finish`.
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_left, insort
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from mpaxos._native import ITEM_OVERHEAD
from mpaxos.core.invariant import InvariantViolated, invariant
from mpaxos.core.sessions import Planned, Reply, Session, SessionTable
from mpaxos.core.types import Slot
from mpaxos.machine.engine import Change, Replies, Request

_POSITION = struct.Struct("<QQQQQ")
_REPLY = struct.Struct("<QQQQ")


def blake64(data: bytes) -> int:
    """A 64-bit digest that needs no extension."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


class DigestedBatch(Protocol):
    """What the engine needs of a batch."""

    @property
    def digest(self) -> int: ...
    def entries(self) -> list[tuple[int, int, int, int, bytes]]: ...


class _State(msgspec.Struct, array_like=True):
    names: list[str]
    items: list[dict[bytes, bytes]]
    used: int
    slot: Slot
    digest: int
    time: int
    sessions: list[Session]


class MemoryEngine:
    """State, session table and applied position in Python objects."""

    def __init__(
        self,
        make_replies: Callable[[], Replies],
        *,
        max_sessions: int = 16_384,
        max_reply_slots: int = 262_144,
        digest: Callable[[bytes], int] = blake64,
    ) -> None:
        """`digest` must be that of the replicas it is compared with: with
        mpaxos._native.digest64 the marks equal those of the native engine."""
        self._make_replies = make_replies
        self._digest = digest
        self._sessions = SessionTable(max_sessions, max_reply_slots)
        self._names: list[str] = []
        self._items: list[dict[bytes, bytes]] = []
        self._order: list[list[bytes]] = []
        self._used = 0
        self._mark = (0, 0)
        self._time = 0
        self._begun: tuple[Slot, int, int, SessionTable, Planned] | None = None

    def begin(self, slot: Slot, time: int, batch: DigestedBatch, /) -> list[Request]:
        """The requests of `batch` that must be run, in order; duplicates are left out."""
        invariant(self._begun is None, "a slot was begun and not finished")
        invariant(slot == self._mark[0] + 1, "a slot is applied out of order")
        table = self._sessions.copy()
        planned = table.apply(slot, batch.entries())
        self._begun = (slot, max(time, self._time), batch.digest, table, planned)
        return list(planned.to_run)

    def finish(self, replies: list[tuple[int, bytes]], changes: list[Change], /) -> Any:
        """Make the slot begun last the state; returns the replies."""
        if self._begun is None:
            raise InvariantViolated("finish without begin")
        slot, time, batch_digest, table, planned = self._begun
        self._begun = None
        answers = planned.finish(replies)
        for container, key, value in changes:
            self._change(container, key, value)
        self._sessions = table
        self._time = time
        self._mark = (slot, self._next_digest(slot, time, batch_digest, answers))
        result = self._make_replies()
        for answer in answers:
            result.add(*answer)
        return result

    def dump(self) -> bytes:
        """The whole state as bytes, for load()."""
        sessions = list(self._sessions.sessions.values())
        state = _State(self._names, self._items, self._used, *self._mark, self._time, sessions)
        return msgspec.msgpack.encode(state)

    @classmethod
    def load(cls, data: bytes, make_replies: Callable[[], Replies], **options: Any) -> MemoryEngine:
        """An engine with the state that dump() told; `options` as for the constructor. Raises
        msgspec.MsgspecError."""
        state = msgspec.msgpack.decode(data, type=_State)
        engine = cls(make_replies, **options)
        engine._names, engine._items = state.names, state.items
        engine._order = [sorted(items) for items in state.items]
        engine._used, engine._time = state.used, state.time
        engine._mark = (state.slot, state.digest)
        engine._sessions.sessions = {session.id: session for session in state.sessions}
        return engine

    def abandon(self) -> None:
        """Forget a slot that was begun: what a crash does."""
        self._begun = None

    @property
    def mark(self) -> tuple[int, int]:
        """(slot, digest) of the last applied slot."""
        return self._mark

    @property
    def time(self) -> int:
        """The largest time stamp applied, nanoseconds since the epoch."""
        return self._time

    @property
    def sessions(self) -> SessionTable:
        return self._sessions

    def container(self, name: str, /) -> int:
        if name not in self._names:
            self._names.append(name)
            self._items.append({})
            self._order.append([])
        return self._names.index(name)

    def get(self, container: int, key: bytes, /) -> bytes | None:
        return self._items[container].get(key)

    def scan(
        self, container: int, start: bytes, end: bytes | None, limit: int, /
    ) -> list[tuple[bytes, bytes]]:
        order, items = self._order[container], self._items[container]
        first = bisect_left(order, start)
        last = len(order) if end is None else bisect_left(order, end)
        return [(key, items[key]) for key in order[first : max(first, last)][:limit]]

    def size(self, container: int, /) -> int:
        return len(self._items[container])

    def state_used(self) -> int:
        return self._used

    def _change(self, container: int, key: bytes, value: bytes | None) -> None:
        items, order = self._items[container], self._order[container]
        old = items.get(key)
        if old is not None:
            self._used -= ITEM_OVERHEAD + len(key) + len(old)
        if value is not None:
            self._used += ITEM_OVERHEAD + len(key) + len(value)
            if old is None:
                insort(order, key)
            items[key] = value
        elif old is not None:
            del items[key]
            del order[bisect_left(order, key)]

    def _next_digest(self, slot: Slot, time: int, batch: int, answers: list[Reply]) -> int:
        replies = b"".join(
            _REPLY.pack(a.session, a.sequence, a.status, self._digest(a.payload)) for a in answers
        )
        return self._digest(_POSITION.pack(self._mark[1], slot, time, batch, self._digest(replies)))
