"""The acceptor's rules as a table over all combinations of what they depend on.

Written down from the two rules of the module's head (Lamport 2001, section 2.2) and the bounds on
the log, not from the code: a disagreement is a mistake in one of them.
"""

from __future__ import annotations

import itertools

import pytest

from mpaxos.core.acceptor import Acceptor
from mpaxos.core.invariant import InvariantViolated
from mpaxos.core.output import Truncate, WritePromise, WriteRecord
from mpaxos.core.settings import Settings
from mpaxos.core.turn import Turn
from mpaxos.core.types import Ballot, Mark, Record, Recovered, Slot, Value
from tests.unit.core_world import FakeBatch, FakeLog

LOW, PROMISED, HIGH = Ballot(3, 0), Ballot(5, 1), Ballot(7, 2)
BALLOTS = {"lower": LOW, "equal": PROMISED, "higher": HIGH}

WINDOW = 4
SETTLED: Slot = 10
TRUNCATED: Slot = 6
SLOTS: dict[str, Slot] = {
    "truncated": TRUNCATED,
    "settled": SETTLED,
    "next": SETTLED + 1,
    "far": SETTLED + 2 * WINDOW,
    "beyond": SETTLED + 2 * WINDOW + 1,
}
HELD = {
    "nothing": None,
    "older": Ballot(2, 2),
    "promised": PROMISED,
}
"""Ballot of the record held for the slot: from a life before, so that it is read from the log."""

NEW = Value(FakeBatch(77), 1)
OLD = Value(FakeBatch(33), 1)


def acceptor(held: Ballot | None, slot: Slot, room: bool) -> Acceptor:
    log = FakeLog()
    log.promised = PROMISED
    if held is not None and slot > TRUNCATED:
        log.records[slot] = Record(slot, held, OLD)
    free = 1 << 16 if room else 10
    recovered = Recovered(
        promised=PROMISED,
        accepted=sorted((s, r.ballot) for s, r in log.records.items() if s > SETTLED),
        applied=Mark(SETTLED, 1),
        applied_time=0,
        truncated_upto=TRUNCATED,
        log_room=free,
        log_size=1 << 16,
    )
    return Acceptor(Settings(replica=1, replicas=3, window=WINDOW), recovered, log)


def effects(turn: Turn) -> list[str]:
    """What a turn writes, in words."""
    words = []
    for write in turn.output.writes:
        match write:
            case WritePromise(ballot=ballot):
                words.append(f"promise {ballot}")
            case WriteRecord(record=record):
                words.append(f"record {record.slot} {record.ballot} {record.value.batch.digest}")
            case Truncate(upto=upto):
                words.append(f"truncate {upto}")
    return words


@pytest.mark.parametrize("ballot", BALLOTS)
def test_promise(ballot: str) -> None:
    #         ballot    given    written
    table = {
        "lower": (False, []),
        "equal": (False, []),
        "higher": (True, ["promise 7.2"]),
    }
    made, turn = acceptor(None, SETTLED + 1, True), Turn(0, ())
    given, written = table[ballot]
    assert made.promise(turn, BALLOTS[ballot]) is given
    assert effects(turn) == written
    assert made.promised == max(PROMISED, BALLOTS[ballot])


def expected_accept(ballot: str, slot: str, held: str, room: bool) -> tuple[bool, list[str]]:
    """Whether the vote may be told, and what has to be written first."""
    promise = ["promise 7.2"] if ballot == "higher" else []
    if ballot == "lower":
        return False, []  # promised not to
    if slot in ("truncated", "settled"):
        return True, promise  # decided: any later leader proposes the same value
    if slot == "beyond" or not room:
        return False, []  # not voting is always safe
    return True, [*promise, f"record {SLOTS[slot]} {BALLOTS[ballot]} 77"]


ACCEPTS = list(itertools.product(BALLOTS, SLOTS, HELD, (True, False)))


@pytest.mark.parametrize(("ballot", "slot", "held", "room"), ACCEPTS)
def test_accept(ballot: str, slot: str, held: str, room: bool) -> None:
    made, turn = acceptor(HELD[held], SLOTS[slot], room), Turn(0, ())
    told, written = expected_accept(ballot, slot, held, room)
    assert made.accept(turn, BALLOTS[ballot], SLOTS[slot], NEW) is told
    assert effects(turn) == written
    if any(word.startswith("record") for word in written):
        found = made.record(SLOTS[slot])
        assert found is not None and found.ballot == BALLOTS[ballot]
    assert made.promised == (HIGH if "promise 7.2" in written else PROMISED)


def test_accept_again_in_the_same_ballot_writes_nothing_new() -> None:
    made, turn = acceptor(None, SETTLED + 1, True), Turn(0, ())
    assert made.accept(turn, PROMISED, SETTLED + 1, NEW)
    again = Turn(0, ())
    assert made.accept(again, PROMISED, SETTLED + 1, NEW)
    assert effects(again) == []
    assert made.accept(again, HIGH, SETTLED + 1, NEW)
    assert effects(again) == ["promise 7.2", "record 11 7.2 77"]


def expected_learn(ballot: str, held: str, room: bool) -> tuple[bool, list[str]]:
    """`ballot` is that in which the source holds the decided value of the next slot."""
    recorded = max(PROMISED, BALLOTS[ballot])
    if held == "promised" and recorded == PROMISED:
        return True, []  # held in the highest ballot already: then it is the same value
    if not room:
        return False, []
    promise = ["promise 7.2"] if ballot == "higher" else []
    return True, [*promise, f"record {SETTLED + 1} {recorded} 77"]


@pytest.mark.parametrize(
    ("ballot", "held", "room"), list(itertools.product(BALLOTS, HELD, (True, False)))
)
def test_learn(ballot: str, held: str, room: bool) -> None:
    made, turn = acceptor(HELD[held], SETTLED + 1, room), Turn(0, ())
    done, written = expected_learn(ballot, held, room)
    assert made.learn(turn, SETTLED + 1, BALLOTS[ballot], NEW) is done
    assert effects(turn) == written


@pytest.mark.parametrize("slot", SLOTS)
def test_truncate(slot: str) -> None:
    made, turn = acceptor(None, SETTLED + 1, True), Turn(0, ())
    if SLOTS[slot] > SETTLED:
        with pytest.raises(InvariantViolated, match="undecided"):
            made.truncate(turn, SLOTS[slot])
        assert effects(turn) == []
    else:
        made.truncate(turn, SLOTS[slot])
        assert effects(turn) == [f"truncate {SLOTS[slot]}"]
        assert made.truncated_upto == SLOTS[slot]


def test_promises_report_what_is_held_and_not_truncated() -> None:
    for slot, held, start in itertools.product(SLOTS, HELD, SLOTS.values()):
        made = acceptor(HELD[held], SLOTS[slot], True)
        reported = [record.slot for record in made.accepted_from(start)]
        there = HELD[held] is not None and SLOTS[slot] > TRUNCATED and SLOTS[slot] >= start
        assert reported == ([SLOTS[slot]] if there else []), (slot, held, start)


def test_the_table_is_complete() -> None:
    assert len(ACCEPTS) == len(BALLOTS) * len(SLOTS) * len(HELD) * 2 == 90
