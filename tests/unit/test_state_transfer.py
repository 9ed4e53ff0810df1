"""State transfer, message by message: the two sides of mpaxos.core without anything around."""

from __future__ import annotations

import random

import pytest

from mpaxos.core.acceptor import Acceptor
from mpaxos.core.catchup import Catchup
from mpaxos.core.invariant import InvariantViolated
from mpaxos.core.learner import Learner
from mpaxos.core.messages import (
    CatchupReply,
    CatchupRequest,
    StateChunk,
    StateRefused,
    StateRequest,
)
from mpaxos.core.output import WritePromise, WriteRecord
from mpaxos.core.settings import SECOND, Settings
from mpaxos.core.state_source import MAX_SERVED, StateSource
from mpaxos.core.transfer import StateTarget, carried_over
from mpaxos.core.transfer_io import (
    ChunkMade,
    CloseImage,
    DropInstall,
    ImageFailed,
    InstallChunk,
    Installed,
    InstallFailed,
    InstallFound,
    MakeChunk,
    Switch,
    TransferStep,
)
from mpaxos.core.turn import Turn
from mpaxos.core.types import Ballot, Record, Value
from tests.unit.core_world import FakeBatch, FakeLog

SIZE = 1000
CREDIT = 4 * SIZE


class Target:
    """Replica 0 of three: it has decided 10 slots, the others have truncated their first 50."""

    def __init__(self) -> None:
        self.now = SECOND
        settings = Settings(replica=0, replicas=3, state_credit=CREDIT)
        log = FakeLog()
        acceptor = Acceptor(settings, log.recovered(), log)
        self.learner = Learner(settings, log.recovered(), acceptor, lambda slot, value: None)
        self.learner.decided_upto = 10
        self.catchup = Catchup(settings, acceptor, self.learner, random.Random(1))
        self.part = StateTarget(settings, self.catchup, self.learner)
        turn = Turn(self.now, (1, 2))
        for peer in (1, 2):
            self.catchup.request(turn, [1, 2], 1, 10)
            self.catchup.received(turn, peer, CatchupReply(11, 50, 100, [], []))
        for _ in range(4):
            self.catchup.request(turn, [1, 2], 1, 10)
            self.catchup.received(turn, 1, CatchupReply(11, 50, 100, [], []))
            self.catchup.received(turn, 2, CatchupReply(11, 50, 100, [], []))

    def tick(self, after: int = 0, connected: tuple[int, ...] = (1, 2)) -> Turn:
        self.now += after
        turn = Turn(self.now, (1, 2))
        self.part.tick(turn, list(connected), 1)
        return turn

    def chunk(self, number: int, sender: int = 2, image: int = 7, final: bool = False) -> Turn:
        turn = Turn(self.now, (1, 2))
        data = bytes([number]) * SIZE
        message = StateChunk(image, number, 90, final, SIZE * (number + 1), 9 * SIZE, data)
        self.part.on_chunk(turn, sender, message)
        return turn

    def installed(self, upto: int, slot: int | None = None) -> None:
        turn = Turn(self.now, (1, 2))
        self.part.on_installed(turn, Installed(self.part._job, upto, slot))


def asked(turn: Turn) -> list[tuple[int, StateRequest]]:
    sent = [(e.to, e.message) for e in turn.output.messages]
    return [(to, message) for to, message in sent if isinstance(message, StateRequest)]


def numbers(turn: Turn) -> list[int]:
    return [s.number for s in turn.output.transfer if isinstance(s, InstallChunk)]


def kinds(steps: list[TransferStep]) -> list[type]:
    return [type(step) for step in steps]


def test_a_follower_is_asked_for_a_new_image() -> None:
    assert asked(Target().tick()) == [(2, StateRequest(0, 0, CREDIT, True))]


def test_followers_that_just_start_to_be_connected_are_waited_for() -> None:
    """The leader, replica 1, is the busiest of all."""
    target = Target()
    assert asked(target.tick(connected=(1,))) == []
    assert target.part.wake_at() == target.now + SECOND // 5
    assert asked(target.tick(connected=(1, 2))) == [(2, StateRequest(0, 0, CREDIT, True))]
    target = Target()
    target.tick(connected=(1,))
    late = target.tick(after=SECOND // 5, connected=(1,))
    assert asked(late) == [(1, StateRequest(0, 0, CREDIT, True))], "nobody else comes"


def test_who_connects_is_asked_at_once_for_what_is_missing() -> None:
    target = Target()
    turn = Turn(target.now, (1, 2))
    target.catchup.request(turn, [1], 1, 10)
    assert turn.output.messages == [], "all were asked a moment ago"
    target.catchup.connected(2)
    target.catchup.request(turn, [1, 2], 1, 10)
    assert [(e.to, e.message) for e in turn.output.messages] == [(2, CatchupRequest(11, 100))]


def test_chunks_are_handed_on_in_their_order_and_acknowledged_once_durable() -> None:
    target = Target()
    target.tick()
    assert numbers(target.chunk(0)) == [0]
    assert numbers(target.chunk(2)) == []
    assert numbers(target.chunk(1)) == [1, 2]
    assert numbers(target.chunk(1)) == [], "it came again"
    assert asked(target.tick()) == [], "nothing is durable yet"
    target.installed(2)
    assert asked(target.tick()) == [(2, StateRequest(7, 2, CREDIT, False))]


def test_chunks_of_another_image_or_source_are_not_taken() -> None:
    target = Target()
    target.tick()
    assert numbers(target.chunk(0, sender=1)) == []
    assert numbers(target.chunk(0)) == [0]
    assert numbers(target.chunk(1, image=8)) == []
    assert numbers(target.chunk(1, sender=1)) == []
    assert numbers(target.chunk(1)) == [1]


def test_what_is_lost_is_asked_for_again() -> None:
    target = Target()
    target.tick()
    target.chunk(0)
    target.installed(1)
    target.tick()
    assert asked(target.tick(after=SECOND // 5)) == [(2, StateRequest(7, 1, CREDIT, True))]
    target.chunk(1)
    plain = StateRequest(7, 1, CREDIT, False)
    assert asked(target.tick(after=SECOND // 5)) == [(2, plain)], "it is being installed"


def test_a_refusal_and_silence_lead_to_another_source() -> None:
    target = Target()
    target.tick()
    turn = Turn(target.now, (1, 2))
    target.part.on_refused(turn, 2, StateRefused(0, "busy"))
    assert kinds(turn.output.transfer) == [DropInstall]
    assert asked(target.tick(after=SECOND)) == [(1, StateRequest(0, 0, CREDIT, True))]
    assert target.part.problem == "replica 2: busy"
    target.tick(after=11 * SECOND)
    assert target.part.problem == "replica 1 sent nothing for too long"


def test_a_source_that_is_not_connected_is_not_waited_for_as_long() -> None:
    target = Target()
    target.tick()
    target.tick(after=3 * SECOND, connected=(1,))
    assert target.part.problem is not None


def test_while_chunks_are_installed_nobody_is_too_slow() -> None:
    target = Target()
    target.tick()
    target.chunk(0, final=True)
    target.tick(after=60 * SECOND)
    assert target.part.problem is None
    turn = Turn(target.now, (1, 2))
    target.part.on_refused(turn, 2, StateRefused(7, "gone"))
    assert turn.output.transfer == [], "it is not needed any more"


def test_a_complete_state_is_switched_to() -> None:
    target = Target()
    target.tick()
    target.chunk(0, final=True)
    target.installed(1, slot=90)
    assert target.tick().output.transfer == [Switch(90)]


def test_an_older_state_than_the_own_one_is_dropped() -> None:
    target = Target()
    target.tick()
    target.chunk(0, final=True)
    target.installed(1, slot=90)
    target.learner.decided_upto = 90
    assert kinds(target.tick().output.transfer) == [DropInstall]
    assert not target.part.active


def test_a_log_that_reaches_back_again_ends_it() -> None:
    target = Target()
    target.tick()
    target.learner.decided_upto = target.learner.known_upto
    assert kinds(target.tick().output.transfer) == [DropInstall]


def test_a_failed_installation_begins_anew_with_its_own_job() -> None:
    target = Target()
    target.tick()
    target.chunk(0)
    job = target.part._job
    turn = Turn(target.now, (1, 2))
    target.part.on_failed(turn, InstallFailed(job, "no room"))
    assert target.part.problem == "it cannot be installed: no room"
    target.tick(after=SECOND)
    target.part.on_installed(turn, Installed(job, 1))  # late, of the one that was given up
    assert target.part._next == 0


def test_what_an_earlier_life_received_is_gone_on_with_by_whoever_has_it() -> None:
    target = Target()
    turn = Turn(target.now, (1, 2))
    target.part.on_found(turn, InstallFound(7, 5))
    assert asked(target.tick(connected=())) == []
    assert asked(target.tick()) == [(2, StateRequest(7, 5, CREDIT, True))]
    target.part.on_refused(turn, 2, StateRefused(7, "not mine"))
    assert asked(target.tick()) == [(1, StateRequest(7, 5, CREDIT, True))]
    assert numbers(target.chunk(5, sender=1)) == [5]


def test_what_nobody_has_is_dropped() -> None:
    target = Target()
    turn = Turn(target.now, (1, 2))
    target.part.on_found(turn, InstallFound(7, 5))
    for peer in (2, 1):
        target.tick()
        target.part.on_refused(turn, peer, StateRefused(7, "not mine"))
    target.tick(after=3 * SECOND)
    assert not target.part.active


# ------------------------------------------------------------------ the source


class Source:
    """Replica 2, whose images have chunks of SIZE bytes."""

    def __init__(self) -> None:
        self.now = SECOND
        self.own = Target()
        self.part = StateSource(Settings(replica=2, replicas=3), self.own.part)

    def request(self, image: int, next_: int, *, again: bool = False, sender: int = 0) -> Turn:
        turn = Turn(self.now, (0, 1))
        self.part.on_request(turn, sender, StateRequest(image, next_, CREDIT, again))
        return turn

    def made(self, number: int, job: int = 1, *, final: bool = False, image: int = 7) -> Turn:
        turn = Turn(self.now, (0, 1))
        size = SIZE * (number + 1)
        event = ChunkMade(job, image, number, 90, final, size, 9 * SIZE, bytes(SIZE))
        self.part.on_made(turn, event)
        return turn


def sent(turn: Turn) -> list[int | str]:
    found: list[int | str] = []
    for envelope in turn.output.messages:
        message = envelope.message
        if isinstance(message, StateChunk):
            found.append(message.number)
        elif isinstance(message, StateRefused):
            found.append(message.reason)
    return found


def test_chunks_are_made_as_far_as_the_credit_goes() -> None:
    source = Source()
    assert source.request(0, 0).output.transfer == [MakeChunk(1)]
    for number in range(3):
        turn = source.made(number)
        assert (sent(turn), turn.output.transfer) == ([number], [MakeChunk(1)])
    turn = source.made(3)
    assert (sent(turn), turn.output.transfer) == ([3], []), "the credit is used up"
    assert source.request(7, 2).output.transfer == [MakeChunk(1)]
    assert source.part.servings[0].kept == 2 * SIZE


def test_what_was_lost_is_sent_again_from_what_is_kept() -> None:
    source = Source()
    source.request(0, 0)
    source.made(0)
    source.made(1)
    assert sent(source.request(7, 1, again=True)) == [1]
    assert sent(source.request(7, 1)) == []
    assert sent(source.request(7, 0, again=True)) == [], "an old request that came late"
    assert sent(source.request(7, 9)) == [], "nonsense"


def test_the_end_of_an_image() -> None:
    source = Source()
    source.request(0, 0)
    assert source.made(0, final=True).output.transfer == []
    assert source.request(7, 1).output.transfer == [CloseImage(1)]
    assert source.part.servings == []
    assert "not kept" in str(sent(source.request(7, 1))[0])


def test_a_target_that_begins_anew_gets_a_new_image() -> None:
    source = Source()
    source.request(0, 0)
    source.made(0)
    assert source.request(0, 0, again=True).output.transfer == [], "asked twice: the same image"
    source.request(7, 1)
    assert kinds(source.request(0, 0).output.transfer) == [CloseImage, MakeChunk]
    assert sent(source.made(1)) == [], "of the image that was given up"


def test_refusals() -> None:
    source = Source()
    source.own.tick()
    assert sent(source.request(0, 0)) == ["it needs a state itself"]
    source.own.part._active = False
    for sender in range(MAX_SERVED):
        source.request(0, 0, sender=sender)
    assert sent(source.request(0, 0, sender=5)) == ["it gives its state to others already"]
    turn = Turn(source.now, (0, 1))
    source.part.on_failed(turn, ImageFailed(1, "outgrown"))
    assert sent(turn) == ["outgrown"]


def test_a_silent_target_loses_its_image() -> None:
    source = Source()
    source.request(0, 0)
    source.now += 11 * SECOND
    turn = Turn(source.now, (0, 1))
    source.part.tick(turn)
    assert turn.output.transfer == [CloseImage(1)]


# ------------------------------------------------------------------ what is carried over


def test_promise_and_records_above_the_image_are_carried_over() -> None:
    log = FakeLog()
    log.promised = Ballot(5, 1)
    for slot in (8, 9, 11, 12):
        log.records[slot] = Record(slot, Ballot(3, 0), Value(FakeBatch(slot), 1))
    writes = carried_over(log.recovered(), log, 9)
    assert writes == [
        WriteRecord(log.records[11]),
        WriteRecord(log.records[12]),
        WritePromise(Ballot(5, 1)),
    ]
    assert carried_over(FakeLog().recovered(), FakeLog(), 9) == []


def test_records_may_be_of_lower_ballots_than_the_promise() -> None:
    """A store refuses records below its promise, so the promise comes after them."""
    log = FakeLog()
    log.promised = Ballot(5, 1)
    log.records[11] = Record(11, Ballot(3, 0), Value(FakeBatch(11), 1))
    new = FakeLog()
    new.write(carried_over(log.recovered(), log, 9))
    assert (new.promised, new.records) == (log.promised, log.records)
    with pytest.raises((AssertionError, InvariantViolated)):
        new.write([WriteRecord(log.records[11])])
