"""The replicated session table: which request of which client was run, and what it was answered.

The rules are in docs/sessions.md. The native table in the extension means the same; this one serves
machines in plain memory and the simulated world, and is what the native one is tested against.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import msgspec

from mpaxos.core.invariant import invariant
from mpaxos.core.types import Slot

COMMAND, OPEN, CLOSE, QUERY = range(4)
"""Kinds of entries."""

OK, FAILED, EXPIRED, NOSPACE, REFUSED, OVERLOADED, BAD, OPENED = range(8)
"""Statuses of replies."""

MAX_WINDOW = 1024

_WINDOW = struct.Struct("<I")
_ID = struct.Struct("<Q")

Entry = tuple[int, int, int, int, bytes]
"""(session, sequence, lowest, kind, payload)"""


class Reply(NamedTuple):
    """What one entry is answered. For an opening `session` is 0 and `sequence` the token."""

    session: int
    sequence: int
    status: int
    payload: bytes


class ToRun(NamedTuple):
    """A command that has to be run; its reply is to be given to `Planned.finish`."""

    at: int
    """Index in the batch."""
    session: int
    sequence: int
    payload: bytes


class Session(msgspec.Struct):
    """One client's window of requests."""

    id: int
    window: int
    lowest: int
    used: int
    cells: dict[int, tuple[int, int, bytes]]
    """Cell number to (sequence, status, payload)."""

    def copy(self) -> Session:
        return Session(self.id, self.window, self.lowest, self.used, dict(self.cells))

    def stored(self, sequence: int) -> tuple[int, bytes] | None:
        """(status, payload) of a request that was run, if it is still kept."""
        cell = self.cells.get(sequence % self.window)
        return (cell[1], cell[2]) if cell is not None and cell[0] == sequence else None


class SessionTable:
    """All sessions, within two limits: their number, and the sum of their windows."""

    def __init__(self, max_sessions: int, max_reply_slots: int) -> None:
        self.max_sessions = max_sessions
        self.max_reply_slots = max_reply_slots
        self.sessions: dict[int, Session] = {}

    def copy(self) -> SessionTable:
        """An independent table; sessions are copied when they are changed."""
        table = SessionTable(self.max_sessions, self.max_reply_slots)
        table.sessions = {id: session.copy() for id, session in self.sessions.items()}
        return table

    def apply(self, slot: Slot, entries: list[Entry]) -> Planned:
        """Walk the entries of a slot; changes this table."""
        planned = Planned(self)
        for index, entry in enumerate(entries):
            used = slot << 16 | index
            kind = entry[3]
            if kind == COMMAND:
                self._command(planned, used, index, entry)
            elif kind == OPEN:
                self._open(planned, used, entry)
            elif kind == CLOSE:
                session, sequence = entry[:2]
                known = self.sessions.pop(session, None)
                status = EXPIRED if known is None else OK
                planned.answer(Reply(session, sequence, status, b""))
            else:
                planned.answer(Reply(entry[0], entry[1], BAD, b"query in a logged batch"))
        return planned

    def _open(self, planned: Planned, used: int, entry: Entry) -> None:
        token, payload = entry[1], entry[4]
        if len(payload) != _WINDOW.size:
            planned.answer(Reply(0, token, BAD, b"malformed open"))
            return
        window = min(max(_WINDOW.unpack(payload)[0], 1), MAX_WINDOW, self.max_reply_slots)
        while self.sessions and (
            len(self.sessions) >= self.max_sessions
            or sum(s.window for s in self.sessions.values()) + window > self.max_reply_slots
        ):
            oldest = min(self.sessions.values(), key=lambda session: session.used)
            del self.sessions[oldest.id]
        self.sessions[used] = Session(used, window, 0, used, {})
        planned.answer(Reply(0, token, OPENED, _ID.pack(used)))

    def _command(self, planned: Planned, used: int, index: int, entry: Entry) -> None:
        id, sequence, lowest, _, payload = entry
        session = self.sessions.get(id)
        if session is None:
            planned.answer(Reply(id, sequence, EXPIRED, b""))
            return
        session.used = used
        if lowest > sequence:
            planned.answer(Reply(id, sequence, BAD, b"lowest above sequence"))
            return
        session.lowest = max(session.lowest, lowest)
        if sequence < session.lowest:
            return
        if sequence >= session.lowest + session.window:
            planned.answer(Reply(id, sequence, BAD, b"sequence outside the window"))
            return
        stored = session.stored(sequence)
        if stored is not None:
            planned.answer(Reply(id, sequence, *stored))
        else:
            planned.run(session, ToRun(index, id, sequence, payload))


class Planned:
    """A slot's replies in the making: those known, and places for those of commands to be run."""

    def __init__(self, table: SessionTable) -> None:
        self._table = table
        self._replies: list[Reply | tuple[Session, int]] = []
        self._pending: dict[tuple[int, int], Session] = {}
        self.to_run: list[ToRun] = []

    def answer(self, reply: Reply) -> None:
        self._replies.append(reply)

    def run(self, session: Session, request: ToRun) -> None:
        """Run `request`, unless the same request of this batch is to be run already."""
        key = (session.id, request.sequence)
        if key not in self._pending or self._pending[key] is not session:
            self._pending[key] = session
            self.to_run.append(request)
        self._replies.append((session, request.sequence))

    def finish(self, outcomes: list[tuple[int, bytes]]) -> list[Reply]:
        """All replies in batch order, given (status, payload) of each command that was run."""
        invariant(len(outcomes) == len(self.to_run), "a command has no reply")
        known: dict[tuple[int, int], tuple[int, bytes]] = {}
        for request, outcome in zip(self.to_run, outcomes, strict=True):
            key = (request.session, request.sequence)
            known[key] = outcome
            session = self._pending[key]
            session.cells[request.sequence % session.window] = (request.sequence, *outcome)
        replies: list[Reply] = []
        for item in self._replies:
            if isinstance(item, Reply):
                replies.append(item)
            else:
                session, sequence = item
                replies.append(Reply(session.id, sequence, *known[(session.id, sequence)]))
        return replies
