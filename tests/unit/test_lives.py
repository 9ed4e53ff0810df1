"""Lives beside a store: durable in their place among the other writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpaxos.core.output import Truncate, Write, WriteLives, WritePromise
from mpaxos.core.types import ZERO_BALLOT, Ballot, Mark, Recovered
from mpaxos.storage.files import Identity
from mpaxos.storage.lives import Lives, LivesFile, LivesLaterStore, LivesStore

IDENTITY = Identity(b"c" * 16, 0)


class Recorder:
    """A store that notes what is asked of it, and what the file of lives says then."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.seen: list[tuple[str, Any, tuple[int, ...]]] = []
        self.submitted = 0
        self.durable = 0

    def _note(self, what: str, detail: Any) -> None:
        known = LivesFile.open(self._directory, IDENTITY).lives.known
        self.seen.append((what, detail, known))

    def write(self, writes: list[Write]) -> None:
        self._note("write", writes)

    def submit(self, writes: list[Write]) -> int:
        self._note("submit", writes)
        self.submitted += 1
        return self.submitted

    def wait(self, ticket: int) -> None:
        self._note("wait", ticket)
        self.durable = max(self.durable, ticket)

    def durable_upto(self) -> int:
        return self.durable

    def fileno(self) -> int:
        return 7

    def recovered(self) -> Recovered:
        return Recovered(ZERO_BALLOT, [], Mark(0, 0), 0, 0, 1, 1)

    def read(self, slot: int) -> None:
        return None

    log_room = 5

    def close(self) -> None:
        self.seen.append(("close", None, ()))


PROMISE = WritePromise(Ballot(1, 0))


def test_what_it_adds_to_what_is_recovered(tmp_path: Path) -> None:
    file = LivesFile.create(tmp_path, IDENTITY, Lives(life=3, recovering=True, known=(3, 1, 2)))
    recovered = LivesStore(Recorder(tmp_path), file).recovered()
    assert (recovered.life, recovered.lives, recovered.recovering) == (3, (3, 1, 2), True)


def test_lives_are_written_in_their_place(tmp_path: Path) -> None:
    inner = Recorder(tmp_path)
    store = LivesStore(inner, LivesFile.create(tmp_path, IDENTITY, Lives()))
    store.write([PROMISE, WriteLives((1, 2, 1), False), Truncate(1), Truncate(2)])
    assert inner.seen == [
        ("write", [PROMISE], ()),
        ("write", [Truncate(1), Truncate(2)], (1, 2, 1)),
    ]
    inner.seen.clear()
    store.write([WriteLives((1, 3, 1), True)])
    assert inner.seen == []
    lives = LivesFile.open(tmp_path, IDENTITY).lives
    assert (lives.known, lives.recovering) == ((1, 3, 1), True)
    assert store.read(1) is None and store.log_room == 5
    store.close()


def test_they_wait_for_all_that_was_submitted_before(tmp_path: Path) -> None:
    inner = Recorder(tmp_path)
    store = LivesLaterStore(inner, LivesFile.create(tmp_path, IDENTITY, Lives()))
    assert store.submit([PROMISE]) == 1
    assert store.durable_upto() == 0
    # That a recovery is done must not be found without what it learned, which ticket 1 holds.
    assert store.submit([WriteLives((2, 1, 1), False)]) == 1
    assert inner.seen == [("submit", [PROMISE], ()), ("wait", 1, ())]
    assert LivesFile.open(tmp_path, IDENTITY).lives.known == (2, 1, 1)
    assert store.submit([PROMISE]) == 2
    assert store.fileno() == 7
    store.wait(2)
    assert store.durable_upto() == 2
