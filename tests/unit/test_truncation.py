"""How far a log is truncated: by what all have applied, by snapshots, under pressure."""

from __future__ import annotations

from mpaxos.core import output as o
from mpaxos.core.messages import Accepted, HeartbeatReply
from mpaxos.core.replica import Replica
from mpaxos.core.settings import Settings
from mpaxos.core.types import Ballot, Mark, Record, ReplicaId, Slot, Value
from tests.unit.core_world import NOOP, FakeBatch, FakeLog

PRESSED = 1 << 17
"""Less than a quarter of the log."""


def alone(
    applied: Slot, snapshot: Slot | None, *, survives: bool = True, replicas: int = 1
) -> tuple[Replica, FakeLog]:
    """Replica 0 with a log of 100 slots."""
    log = FakeLog()
    for slot in range(1, 101):
        log.records[slot] = Record(slot, Ballot(1, 0), Value(FakeBatch(slot), 0))
    log.promised = Ballot(1, 0)
    log.applied = Mark(applied, 1)
    log.snapshot, log.log_survives = snapshot, survives
    replica = Replica(
        Settings(replica=0, replicas=replicas),
        log.recovered(),
        log,
        incarnation=1,
        make_noop=lambda: NOOP,
        epoch=0,
        seed=1,
    )
    return replica, log


def step(replica: Replica, log: FakeLog, *events: o.Event, now: int = 1 << 40) -> o.Output:
    output = replica.step(now, list(events))
    log.write(output.writes)
    return output


def lead(replica: Replica, log: FakeLog) -> None:
    """A cluster of one leads as soon as it seeks votes; then all it has applied is applied by
    all."""
    step(replica, log, now=0)
    step(replica, log)
    assert replica.is_leader
    step(replica, log)


def test_without_snapshots_all_that_is_applied_by_all_goes() -> None:
    replica, log = alone(100, None)
    lead(replica, log)
    assert log.truncated_upto == 100


def test_a_snapshot_bounds_it() -> None:
    replica, log = alone(100, 40)
    lead(replica, log)
    assert log.truncated_upto == 40
    step(replica, log, o.Snapshotted(70))
    step(replica, log)
    assert log.truncated_upto == 70


def test_no_pressure_moves_that_bound() -> None:
    replica, log = alone(100, 40, replicas=3)
    for _ in range(10):
        step(replica, log, o.LogRoom(PRESSED), now=1)
    assert log.truncated_upto == 40
    step(replica, log, o.LogRoom(PRESSED), o.Snapshotted(80), now=1)
    assert 60 <= log.truncated_upto <= 80


def test_pressure_truncates_what_a_replica_that_is_away_has_not() -> None:
    replica, log = alone(100, None, replicas=3)
    step(replica, log, o.LogRoom(PRESSED), now=1)
    assert log.truncated_upto == 50


def told(replica: Replica, log: FakeLog) -> set[Slot]:
    """What a follower tells the leader to have applied."""
    from mpaxos.core.messages import Accept, Heartbeat

    ballot, leader = Ballot(2, 1), ReplicaId(1)
    beat = Heartbeat(ballot, 1, 100, 0, Mark(0, 0))
    accept = Accept(ballot, 101, 100, [Value(FakeBatch(101), 0)])
    output = step(replica, log, o.Received(leader, beat), o.Received(leader, accept), now=1)
    return {
        envelope.message.applied_upto
        for envelope in output.messages
        if isinstance(envelope.message, Accepted | HeartbeatReply)
    }


def test_a_log_that_does_not_survive_is_needed_of_the_others() -> None:
    assert told(*alone(100, 40, replicas=3)) == {100}
    replica, log = alone(100, 40, survives=False, replicas=3)
    assert told(replica, log) == {40}
    step(replica, log, o.Snapshotted(90), now=2)
    assert told(replica, log) == {90}
    # Its own log is of no use after a crash: when it must, it gives it up.
    step(replica, log, o.LogRoom(PRESSED), now=3)
    assert log.truncated_upto == 50
