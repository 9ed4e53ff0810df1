"""The changes of the slot that is being applied, laid over the engine.

Commands write into memory first: the command's own layer joins the slot's layer when it returned
and vanishes when it raised, so a raising command rolls back alone. The slot's layer goes to the
engine as one list of changes, in one transaction with the replies. Reads look through the layers
from the top: command, slot, engine.

Sizes are logical, so that every replica decides alike whether a command fits: an item counts
ITEM_OVERHEAD + len(key) + len(value).
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Iterator

from mpaxos.errors import InvariantViolated, MpaxosError, StorageError, invariant
from mpaxos.machine.engine import Change, Engine

MAX_KEY = 64 << 10
"""Bytes of one key, encoded."""

ITEM_OVERHEAD = 64
"""Bytes that each item counts beside its key and value."""

_FIRST_PAGE = 16
_LARGEST_PAGE = 1024


class ReadOnly(MpaxosError):
    """Something that may not change the state tried to: a query, or code outside a command."""


class Mode(enum.Enum):
    """What may be done with the containers at this moment."""

    CLOSED = "outside a command"
    READ = "in a query"
    WRITE = "in a command"


class Overlay:
    """All containers of one state machine, with the changes not yet given to the engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.tables: list[Table] = []
        self.mode = Mode.CLOSED
        self.grown = 0
        """Bytes by which the running command has grown the state (negative: shrunk)."""
        self.used = 0
        """Bytes of the state before the running command."""
        self.fault: BaseException | None = None
        """A failure of the storage while a command read: it must stop the replica even if the
        command swallowed the exception, or its reply would differ from the other replicas'."""

    def table(self, name: str) -> Table:
        """The container called `name`, created in the engine when it is new."""
        table = Table(self, self.engine.container(name), name)
        self.tables.append(table)
        return table

    def begin_slot(self) -> None:
        self.rollback()
        for table in self.tables:
            table.slot.clear()
            table.slot_growth = 0
        self.used = self.engine.state_used()
        self.fault = None

    def merge(self) -> None:
        """The command succeeded: its changes become the slot's."""
        for table in self.tables:
            if table.command:
                table.slot.update(table.command)
                table.slot_growth += table.command_growth
                table.command.clear()
                table.command_growth = 0
        self.used += self.grown
        self.grown = 0

    def rollback(self) -> None:
        """The command failed: nothing of it remains."""
        for table in self.tables:
            if table.command:
                table.command.clear()
                table.command_growth = 0
                table.changes += 1
        self.grown = 0

    def changes(self) -> list[Change]:
        """The merged changes of the slot. Deletions of what the engine never had are left out."""
        merged: list[Change] = []
        for table in self.tables:
            invariant(not table.command, "changes asked for in the middle of a command")
            number = table.number
            merged.extend(
                (number, key, value)
                for key, value in table.slot.items()
                if value is not None or self.engine.get(number, key) is not None
            )
        return merged

    def end_slot(self) -> None:
        """The engine has the changes now."""
        for table in self.tables:
            table.slot.clear()
            table.slot_growth = 0


class Table:
    """One container as bytes: an ordered map over engine, slot layer and command layer."""

    __slots__ = (
        "changes",
        "command",
        "command_growth",
        "name",
        "number",
        "overlay",
        "slot",
        "slot_growth",
    )

    def __init__(self, overlay: Overlay, number: int, name: str) -> None:
        self.overlay = overlay
        self.number = number
        self.name = name
        self.slot: dict[bytes, bytes | None] = {}
        self.command: dict[bytes, bytes | None] = {}
        self.slot_growth = 0
        self.command_growth = 0
        self.changes = 0
        """Counts additions and removals of keys, to notice them during an iteration."""

    def get(self, key: bytes) -> bytes | None:
        if key in self.command:
            return self.command[key]
        if key in self.slot:
            return self.slot[key]
        try:
            return self.overlay.engine.get(self.number, key)
        except (StorageError, InvariantViolated) as fault:
            self.overlay.fault = fault
            raise

    def put(self, key: bytes, value: bytes) -> None:
        """Set an item. Raises ValueError when the key is too long for the engine's map."""
        if len(key) > MAX_KEY:
            raise ValueError(f"a key takes at most {MAX_KEY} bytes, not {len(key)}")
        old = self._writable(key)
        size = len(value)
        # No call from here on: a RecursionError in between would leave the layer half changed.
        if old is None:
            self.overlay.grown += ITEM_OVERHEAD + len(key) + size
            self.command_growth += 1
            self.changes += 1
        else:
            self.overlay.grown += size - len(old)
        self.command[key] = value

    def delete(self, key: bytes) -> bool:
        """Remove `key`; False when it was not there."""
        old = self._writable(key)
        if old is None:
            return False
        self.overlay.grown -= ITEM_OVERHEAD + len(key) + len(old)
        self.command_growth -= 1
        self.changes += 1
        self.command[key] = None
        return True

    def _writable(self, key: bytes) -> bytes | None:
        mode = self.overlay.mode
        if mode is not Mode.WRITE:
            raise ReadOnly(f"{self.name} cannot be changed {mode.value}: use a @command")
        return self.get(key)

    def __len__(self) -> int:
        try:
            stored = self.overlay.engine.size(self.number)
        except (StorageError, InvariantViolated) as fault:
            self.overlay.fault = fault
            raise
        return stored + self.slot_growth + self.command_growth

    def scan(self, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Items with start <= key < end, ascending. Values may be replaced meanwhile and are seen
        as they are; adding or removing keys makes the next step raise RuntimeError."""
        changes = self.changes
        recent = {**self.slot, **self.command}
        keys = sorted(k for k in recent if k >= start and (end is None or k < end))
        at = 0
        for key, stored in self._stored(start, end):
            upto = bisect_left(keys, key, at)
            for newer in keys[at:upto]:
                if recent[newer] is not None:
                    yield newer, self._current(newer, recent[newer], changes)
            at = upto
            value: bytes | None = stored
            if at < len(keys) and keys[at] == key:
                value = recent[key]
                at += 1
            if value is not None:
                yield key, self._current(key, value, changes)
        for newer in keys[at:]:
            if recent[newer] is not None:
                yield newer, self._current(newer, recent[newer], changes)

    def _current(self, key: bytes, value: bytes | None, changes: int) -> bytes:
        # Keys are as they were when the iteration began, or it ends here; only values may differ.
        if self.changes != changes:
            raise RuntimeError(f"{self.name} changed during iteration: iterate over list(...)")
        value = self.command.get(key, value)
        invariant(value is not None, "a key vanished without being counted")
        return value or b""

    def _stored(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        page = _FIRST_PAGE
        while True:
            try:
                rows = self.overlay.engine.scan(self.number, start, end, page)
            except (StorageError, InvariantViolated) as fault:
                self.overlay.fault = fault
                raise
            yield from rows
            if len(rows) < page:
                return
            start = rows[-1][0] + b"\0"
            page = min(page * 4, _LARGEST_PAGE)
