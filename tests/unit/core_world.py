"""A few replicas of the bare protocol, driven message by message by a test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mpaxos.core import output as o
from mpaxos.core.messages import AnyMessage, Envelope
from mpaxos.core.replica import Replica
from mpaxos.core.settings import MILLISECOND, Settings
from mpaxos.core.types import ZERO_BALLOT, Ballot, Mark, Record, Recovered, ReplicaId, Slot


@dataclass(frozen=True)
class FakeBatch:
    """A batch that is nothing but its name."""

    digest: int
    length: int = 100
    count: int = 1
    origin: int = 0
    incarnation: int = 0
    number: int = 0


NOOP = FakeBatch(digest=0, length=32, count=0)


class FakeLog:
    """What one acceptor made durable."""

    def __init__(self) -> None:
        self.records: dict[Slot, Record] = {}
        self.promised = ZERO_BALLOT
        self.truncated_upto: Slot = 0
        self.applied = Mark(0, 0)
        self.snapshot: Slot | None = None
        self.log_survives = True
        self.room = 1 << 20

    def read(self, slot: Slot) -> Record | None:
        return self.records.get(slot)

    def recovered(self) -> Recovered:
        accepted = sorted((slot, record.ballot) for slot, record in self.records.items())
        return Recovered(
            self.promised,
            accepted,
            self.applied,
            0,
            self.truncated_upto,
            self.room,
            1 << 20,
            snapshot=self.snapshot,
            log_survives=self.log_survives,
        )

    def write(self, writes: list[o.Write]) -> None:
        for write in writes:
            match write:
                case o.WritePromise(ballot=ballot):
                    assert ballot > self.promised
                    self.promised = ballot
                case o.WriteRecord(record=record):
                    assert record.ballot >= self.promised
                    self.records[record.slot] = record
                case o.Truncate(upto=upto):
                    self.truncated_upto = upto
                    self.records = {s: r for s, r in self.records.items() if s > upto}


class World:
    """Replicas 0..n-1 whose messages wait in `wire` until the test delivers or drops them."""

    def __init__(self, replicas: int, **settings: Any) -> None:
        self.n = replicas
        self.now = 0
        self.settings = settings
        self.logs = [FakeLog() for _ in range(replicas)]
        self.decided: list[list[tuple[Slot, int]]] = [[] for _ in range(replicas)]
        self.reads: list[list[tuple[int, Slot]]] = [[] for _ in range(replicas)]
        self.wire: list[tuple[ReplicaId, Envelope]] = []
        self.outputs: list[o.Output] = [o.Output() for _ in range(replicas)]
        self.dead: set[ReplicaId] = set()
        self.lives = [0] * replicas
        self.replicas = [self._start(i) for i in range(replicas)]
        for i in range(replicas):
            self.step(i, *[o.PeerUp(j) for j in range(replicas) if j != i])

    def _start(self, i: ReplicaId) -> Replica:
        self.lives[i] += 1
        return Replica(
            Settings(replica=i, replicas=self.n, **self.settings),
            self.logs[i].recovered(),
            self.logs[i],
            incarnation=1000 * self.lives[i] + i,
            make_noop=lambda: NOOP,
            epoch=0,
            seed=i,
        )

    def step(self, i: ReplicaId, *events: o.Event) -> o.Output:
        """One step of replica `i`, its output carried out; what it decided is applied at once."""
        output = self.replicas[i].step(self.now, list(events))
        self.wire += [(i, envelope) for envelope in output.early]
        self.logs[i].write(output.writes)
        self.wire += [(i, envelope) for envelope in output.messages]
        self.decided[i] += [(d.slot, d.value.batch.digest) for d in output.decided]
        self.reads[i] += [(r.batch.digest, r.slot) for r in output.reads]
        self.outputs[i] = output
        if output.decided:
            marks = [Mark(d.slot, d.value.batch.digest) for d in output.decided]
            self.logs[i].applied = marks[-1]
            self.step(i, o.Applied(marks[-1], marks))
        return output

    def take(self, kind: type | None = None, to: int | None = None) -> list[tuple[int, Envelope]]:
        """Remove matching messages from the wire."""
        taken = [
            (sender, envelope)
            for sender, envelope in self.wire
            if (kind is None or isinstance(envelope.message, kind))
            and (to is None or envelope.to == to)
        ]
        self.wire = [item for item in self.wire if item not in taken]
        return taken

    def deliver(self, items: list[tuple[int, Envelope]]) -> None:
        for sender, envelope in items:
            if envelope.to not in self.dead and sender not in self.dead:
                self.step(envelope.to, o.Received(sender, envelope.message))

    def settle(self, rounds: int = 2000) -> None:
        """Deliver everything, and what follows from it, without time passing."""
        for _ in range(rounds):
            if not self.wire:
                return
            self.deliver(self.take())
        raise AssertionError("the replicas talk without end")

    def run(self, milliseconds: int) -> None:
        """Let time pass and deliver everything."""
        for _ in range(milliseconds):
            self.now += MILLISECOND
            for i in range(self.n):
                if i not in self.dead and self.now >= self.outputs[i].wake_at:
                    self.step(i)
            self.settle()

    def elect(self) -> ReplicaId:
        """Run until there is a leader."""
        for _ in range(5000):
            leaders = [
                i for i in range(self.n) if i not in self.dead and self.replicas[i].is_leader
            ]
            if leaders:
                top = max(leaders, key=lambda i: self.replicas[i].ballot)
                live = [i for i in range(self.n) if i not in self.dead]
                if all(self.replicas[i].leader == top for i in live):
                    return top
            self.run(1)
        raise AssertionError("no leader")

    def kill(self, i: ReplicaId) -> None:
        self.dead.add(i)
        self.wire = [(s, e) for s, e in self.wire if i not in (s, e.to)]
        for j in range(self.n):
            if j not in self.dead:
                self.step(j, o.PeerDown(i))

    def restart(self, i: ReplicaId) -> None:
        self.dead.discard(i)
        self.replicas[i] = self._start(i)
        for j in range(self.n):
            if j != i and j not in self.dead:
                self.step(j, o.PeerUp(i))
                self.step(i, o.PeerUp(j))

    def put(self, i: ReplicaId, digest: int, number: int | None = None) -> FakeBatch:
        """A client of replica `i` sends a batch."""
        batch = FakeBatch(
            digest, origin=i, incarnation=1000 * self.lives[i] + i, number=number or digest
        )
        self.step(i, o.LocalBatch(batch))
        return batch

    def tell(self, to: ReplicaId, sender: ReplicaId, message: AnyMessage) -> o.Output:
        return self.step(to, o.Received(sender, message))


def ballot(text: str) -> Ballot:
    round_, leader = text.split(".")
    return Ballot(int(round_), int(leader))
