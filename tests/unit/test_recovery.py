"""Recovery of a replica that has forgotten votes, told as short stories (docs/recovery.md)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mpaxos.core import messages as m
from mpaxos.core import output as o
from mpaxos.core.invariant import InvariantViolated
from mpaxos.core.replica import Replica
from mpaxos.core.types import ZERO_BALLOT, Mark, Recovered, ReplicaId, Value
from mpaxos.storage.disk import DiskStore
from mpaxos.storage.pmem import PmemStore
from tests.unit.core_world import FakeBatch, FakeLog, World, ballot


class ForgetfulLog(FakeLog):
    """A store that knows of lives and can be made to forget."""

    def __init__(self) -> None:
        super().__init__()
        self.life = 1
        self.lives: tuple[int, ...] = ()
        self.recovering = False
        self.all_writes: list[o.Write] = []

    def forget(self, what: str) -> None:
        """`view`: keeps the promise. `epoch`: nothing but lives. `replaced`: nothing at all."""
        self.records.clear()
        self.life += 1
        self.recovering = True
        if what != "view":
            self.promised = ZERO_BALLOT
        if what == "replaced":
            self.applied, self.truncated_upto, self.lives = Mark(0, 0), 0, ()

    def recovered(self) -> Recovered:
        found = super().recovered()
        return Recovered(
            found.promised,
            found.accepted,
            found.applied,
            0,
            found.truncated_upto,
            found.log_room,
            found.log_size,
            life=self.life,
            lives=self.lives,
            recovering=self.recovering,
        )

    def write(self, writes: list[o.Write]) -> None:
        super().write(writes)
        self.all_writes += writes
        for write in writes:
            if isinstance(write, o.WriteLives):
                self.lives, self.recovering = write.lives, write.recovering


class ForgetfulWorld(World):
    """Replicas over such stores."""

    def _start(self, i: ReplicaId) -> Replica:
        if not isinstance(self.logs[i], ForgetfulLog):
            self.logs[i] = ForgetfulLog()
        return super()._start(i)

    def log(self, i: ReplicaId) -> ForgetfulLog:
        found = self.logs[i]
        assert isinstance(found, ForgetfulLog)
        return found

    def come_back(self, i: ReplicaId, what: str) -> None:
        """Kill replica `i` if it lives, and restart it without its memory."""
        if i not in self.dead:
            self.kill(i)
        self.log(i).forget(what)
        self.restart(i)

    def said(self, sender: ReplicaId, *kinds: type) -> list[m.AnyMessage]:
        """Messages of these kinds on the wire from `sender`."""
        return [e.message for s, e in self.wire if s == sender and isinstance(e.message, kinds)]


VOTES = (m.Promise, m.Accepted, m.HeartbeatReply, m.PreVoteReply, m.PreVote, m.Prepare)


def led(replicas: int, commands: int = 3) -> tuple[ForgetfulWorld, ReplicaId, list[ReplicaId]]:
    """A world with a leader and some decided slots; the leader; the others."""
    world = ForgetfulWorld(replicas)
    leader = world.elect()
    for n in range(1, commands + 1):
        world.put(leader, n)
        world.settle()
    world.run(120)
    others = [i for i in range(replicas) if i != leader]
    assert all(world.replicas[i].decided_upto == commands for i in range(replicas))
    return world, leader, others


@pytest.mark.parametrize("replicas", [3, 5])
@pytest.mark.parametrize("what", ["view", "epoch", "replaced"])
def test_it_asks_all_waits_promises_catches_up_and_takes_part(what: str, replicas: int) -> None:
    world, leader, others = led(replicas, 0)
    world.kill(others[0])
    for n in range(1, 9):
        world.put(leader, n)
        world.settle()
    world.come_back(others[0], what)
    replica, log = world.replicas[others[0]], world.log(others[0])
    assert replica.role == "recovering" and replica.waits_for is not None
    assert (
        "answers of" in replica.waits_for and f"of the {replicas - 1} others" in replica.waits_for
    )
    asked = {e.to for s, e in world.wire if e.message == m.Recover(2) and s == others[0]}
    assert asked == set(range(replicas)) - {others[0]}
    world.run(300)
    assert replica.role == "follower" and replica.waits_for is None
    assert world.decided[others[0]] == [(n, n) for n in range(1, 9)]
    kinds = [type(write) for write in log.all_writes]
    first = kinds[: kinds.index(o.WriteLives)]
    assert first.count(o.WriteRecord) == 8, "that the recovery is done is written last"
    assert log.lives[others[0]] == 2 and not log.recovering
    assert log.promised == world.replicas[leader].ballot
    world.dead = set(others[1 : 1 + (replicas - 1) // 2])
    world.put(leader, 99)
    world.run(50)
    assert world.decided[leader][-1][1] == 99, "its vote counts again"


def test_while_it_recovers_it_gives_no_vote_of_any_kind() -> None:
    world, leader, others = led(3)
    victim = others[0]
    world.come_back(victim, "epoch")
    world.take()
    high = ballot(f"9.{others[1]}")
    world.tell(victim, others[1], m.PreVote(high, 3))
    world.tell(victim, others[1], m.Prepare(high, 1))
    now = world.replicas[leader].ballot
    world.tell(victim, leader, m.Heartbeat(now, 7, 3, 3, Mark(0, 0)))
    world.tell(victim, leader, m.Accept(now, 4, 3, [Value(FakeBatch(50), 7)]))
    world.tell(victim, leader, m.TakeOver(now))
    world.tell(victim, others[1], m.Recover(2))
    for _ in range(40):
        world.now += 100_000_000
        world.step(victim)
    assert not world.said(victim, *VOTES, m.RecoverReply)
    assert not world.logs[victim].records
    assert world.replicas[victim].leader is None, "a leader that fell silent is none"


def test_recovering_it_rejects_what_is_below_its_promise() -> None:
    """`view`: the promise is still known, and a leader below it has to seek a higher ballot."""
    world, leader, others = led(3)
    victim = others[0]
    world.log(victim).promised = ballot(f"5.{others[1]}")
    world.come_back(victim, "view")
    world.take()
    world.tell(victim, leader, m.Heartbeat(world.replicas[leader].ballot, 7, 3, 3, Mark(0, 0)))
    assert world.said(victim, m.Reject) == [m.Reject(ballot(f"5.{others[1]}"))]
    world.run(3000)
    assert world.replicas[victim].role != "recovering"
    assert world.replicas[world.elect()].ballot > ballot(f"5.{others[1]}")


@pytest.mark.parametrize("replicas", [3, 5])
def test_a_majority_of_the_others_must_answer(replicas: int) -> None:
    world, _leader, others = led(replicas)
    victim, *rest = others
    away = rest[: (replicas - 1) // 2]
    for peer in away:
        world.kill(peer)
    world.come_back(victim, "epoch")
    world.run(5000)
    waits_for = world.replicas[victim].waits_for
    assert waits_for is not None and "answers of 1 more replica:" in waits_for
    for peer in away:
        world.restart(peer)
    world.run(3000)
    assert world.replicas[victim].role != "recovering"


def test_who_recovers_itself_does_not_answer() -> None:
    """Three of five forget at once: more than the setting bears. Nobody takes part, nobody lies."""
    world, _leader, others = led(5)
    for victim in others[:3]:
        world.kill(victim)
    for victim in others[:3]:
        world.come_back(victim, "epoch")
    world.run(5000)
    assert [world.replicas[victim].role for victim in others[:3]] == ["recovering"] * 3
    assert not any(world.replicas[i].is_leader for i in range(5))


def test_the_leader_of_the_highest_ballot_must_answer_as_leader() -> None:
    world, leader, others = led(3)
    victim, other = others
    high = ballot(f"8.{other}")
    world.come_back(victim, "epoch")
    world.take()
    replica = world.replicas[victim]
    world.tell(victim, leader, m.RecoverReply(2, ballot(f"1.{leader}"), True, 3, 3, [1, 1, 1]))
    world.tell(victim, other, m.RecoverReply(2, high, False, 0, 3, [1, 1, 1]))
    assert replica.role == "recovering" and replica.ballot < high
    assert (
        replica.waits_for is not None
        and f"a leader: nobody answers as that of the highest ballot, {high}" in replica.waits_for
    )
    world.tell(victim, other, m.RecoverReply(2, high, True, 3, 3, [1, 1, 1]))
    assert replica.ballot == high, "promised again, at once"


def test_it_catches_up_with_all_that_the_leader_had_proposed() -> None:
    """Not only with what is decided: its forgotten vote may be what decides the rest."""
    world, leader, others = led(5)
    victim, *_rest = others
    world.put(leader, 50)
    world.deliver(world.take(m.Accept, to=victim))
    world.wire.clear()  # the vote is under way, nobody else has the record
    world.come_back(victim, "view")
    lost = world.take(m.Accept) + world.take(m.Heartbeat)
    world.settle()
    replica = world.replicas[victim]
    assert replica.role == "recovering", "slot 4 is proposed and not decided"
    assert replica.waits_for is not None and "catching up with slot 4" in replica.waits_for
    world.deliver(lost)
    world.run(500)
    assert world.decided[victim][-1] == (4, 50) and replica.role == "follower"


def test_a_leader_that_dies_meanwhile_does_not_hold_it_up() -> None:
    world, leader, others = led(5)
    victim, *_rest = others
    world.put(leader, 50)
    world.wire.clear()  # nobody has the record, and nobody ever will
    world.come_back(victim, "epoch")
    world.take(m.Accept)
    world.settle()
    waits_for = world.replicas[victim].waits_for
    assert waits_for is not None and "catching up with slot 4" in waits_for
    world.kill(leader)
    world.run(2000)
    assert world.replicas[victim].role == "follower"
    assert world.replicas[victim].decided_upto == 3


def test_answers_to_an_earlier_life_do_not_count() -> None:
    world, _leader, others = led(3)
    victim, _other = others
    world.come_back(victim, "epoch")
    world.deliver(world.take(m.Recover))
    old = world.take(m.RecoverReply, to=victim)
    assert len(old) >= 2
    world.log(victim).forget("epoch")
    world.replicas[victim] = world._start(victim)
    world.deliver(old)
    waits_for = world.replicas[victim].waits_for
    assert waits_for is not None and "answers of 2 more" in waits_for


def test_a_new_life_is_durable_before_it_is_answered() -> None:
    world, _leader, others = led(3)
    asker, answerer = others
    output = world.tell(answerer, asker, m.Recover(7))
    expected = [1, 1, 1]
    expected[asker] = 7
    assert output.writes == [o.WriteLives(tuple(expected), False)]
    [reply] = [e.message for e in output.messages]
    assert isinstance(reply, m.RecoverReply)
    assert (reply.life, reply.lives, reply.leads) == (7, expected, False)
    again = world.tell(answerer, asker, m.Recover(7))
    assert not again.writes and [e.message for e in again.messages] == [reply]
    older = world.tell(answerer, asker, m.Recover(3))
    assert not older.writes
    [told] = [e.message for e in older.messages]
    assert isinstance(told, m.RecoverReply) and told.lives[asker] == 7
    world.restart(answerer)
    assert world.replicas[answerer]._lives.of(asker) == 7


def test_an_old_copy_of_a_replica_stops() -> None:
    world, _leader, others = led(3)
    victim, other = others
    world.come_back(victim, "epoch")
    with pytest.raises(InvariantViolated, match=r"others have seen it in life 4.*Replace it"):
        world.tell(victim, other, m.RecoverReply(2, ballot("1.0"), False, 0, 0, [4, 4, 4]))
    with pytest.raises(InvariantViolated, match="number of lives went back"):
        world.log(other).lives = (3, 3, 3)
        world.restart(other)


@pytest.mark.parametrize("noted", [True, False])
def test_a_promise_of_a_forgotten_life_does_not_count(noted: bool) -> None:
    """Five replicas. The candidate has its own promise and that of a voter, which forgets it and
    recovers with the help of three others, in a lower ballot. One of these promises next. Had
    the voter not recovered, that would be a majority."""
    world, leader, others = led(5)
    candidate, voter, third, fourth = others
    world.step(candidate, o.Received(candidate, m.TakeOver(world.replicas[leader].ballot)))
    world.deliver(world.take(m.Prepare, to=voter))
    promise = world.take(m.Promise, to=candidate)
    world.deliver(promise)
    prepares = world.take(m.Prepare)
    if noted:
        world.kill(voter)
        world.log(voter).forget("epoch")
        world.dead.discard(voter)
        world.replicas[voter] = world._start(voter)
        for peer in (leader, third, fourth):
            world.step(peer, o.Received(voter, m.Recover(2)))
            world.deliver(world.take(m.RecoverReply, to=voter))
        assert world.replicas[voter].role != "recovering"
        assert world.replicas[voter].ballot == world.replicas[leader].ballot
        world.take()
    world.deliver([item for item in prepares if item[1].to == third])
    world.deliver(world.take(m.Promise, to=candidate))
    assert world.replicas[candidate].is_leader == (not noted)
    if noted:
        world.deliver([item for item in prepares if item[1].to == fourth])
        world.deliver(world.take(m.Promise, to=candidate))
        assert world.replicas[candidate].is_leader, "three that remember are a majority"


@pytest.mark.parametrize("what", ["view", "epoch"])
def test_lost_records_are_not_told_as_if_there_had_been_none(what: str) -> None:
    """A candidate that missed slots 1 to 3 must not find them free."""
    world, leader, others = led(3, 0)
    victim, candidate = others
    world.kill(candidate)  # so that nobody truncates
    for n in range(1, 4):
        world.put(leader, n)
        world.settle()
    world.restart(candidate)
    world.come_back(victim, what)
    world.settle()
    assert world.replicas[victim].role == "follower" and world.logs[victim].applied.slot == 3
    assert world.logs[victim].truncated_upto == 0
    output = world.tell(victim, candidate, m.Prepare(ballot(f"9.{candidate}"), 2))
    [promise] = [e.message for e in output.messages]
    assert isinstance(promise, m.Promise)
    assert promise.truncated_upto >= 3 and promise.lives[victim] == 2


def test_with_all_memory_nothing_is_asked_nor_written() -> None:
    world, leader, _others = led(3)
    world.kill(leader)
    world.run(2000)
    world.restart(leader)
    world.run(500)
    for i in range(3):
        assert not any(isinstance(w, o.WriteLives) for w in world.log(i).all_writes)
        assert world.replicas[i].role in ("leader", "follower")


def test_stores_without_a_place_for_lives_say_so() -> None:
    nothing: Any = None
    write = o.WriteLives((1, 2, 1), False)
    with pytest.raises(InvariantViolated, match="no place"):
        PmemStore(nothing).write([write])
    disk: Any = DiskStore(SimpleNamespace(write=list, decided_upto=0), lambda: (Mark(0, 0), 0))  # type: ignore[arg-type]
    with pytest.raises(InvariantViolated, match="no place"):
        disk.write([write])
