"""Walks through the items of a container in key order, the slot's changes among them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from mpaxos._native import Table

_FIRST_PAGE = 16
_LARGEST_PAGE = 1024


def scan(
    table: Table, start: bytes = b"", end: bytes | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """Items with start <= key < end, ascending. Values may be replaced meanwhile and are seen as
    they are; adding or removing keys makes the next step raise RuntimeError."""
    changes = table.changes
    recent = table.recent(start, end)
    keys = [key for key, _ in recent]

    def current(key: bytes, value: bytes) -> bytes:
        # Keys are as they were when the walk began, or it ends here; only values may differ.
        if table.changes != changes:
            raise RuntimeError(f"{table.name} changed during iteration: iterate over list(...)")
        return table.newest(key, value)

    at = 0
    for key, stored in _stored(table, start, end):
        upto = bisect_left(keys, key, at)
        for newer, value in recent[at:upto]:
            if value is not None:
                yield newer, current(newer, value)
        at = upto
        value = stored
        if at < len(keys) and keys[at] == key:
            value = recent[at][1]
            at += 1
        if value is not None:
            yield key, current(key, value)
    for newer, value in recent[at:]:
        if value is not None:
            yield newer, current(newer, value)


def _stored(table: Table, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    page = _FIRST_PAGE
    while True:
        rows = table.stored(start, end, page)
        yield from rows
        if len(rows) < page:
            return
        start = rows[-1][0] + b"\0"
        page = min(page * 4, _LARGEST_PAGE)
