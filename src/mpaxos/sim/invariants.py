"""What must hold after every event, whatever happens. InvariantViolated where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaxos.core.invariant import invariant
from mpaxos.core.messages import Accept, Accepted, Envelope, Promise
from mpaxos.core.output import Decided
from mpaxos.core.replica import Replica
from mpaxos.core.types import (
    ZERO_BALLOT,
    Ballot,
    Mark,
    Record,
    Recovered,
    ReplicaId,
    Slot,
    Value,
    majority,
)
from mpaxos.sim.memory import MemoryChecker, fail

if TYPE_CHECKING:
    from mpaxos.sim.node import Node
    from mpaxos.sim.store import SimStore


class Checker:
    """Watches all replicas of one world, across their crashes."""

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas
        self._majority = majority(replicas)
        self.memory = MemoryChecker(replicas)
        self.decided: dict[Slot, Value] = {}
        self._proposed: dict[tuple[Slot, Ballot], Value] = {}
        self._acceptors: dict[tuple[Slot, Ballot], int] = {}
        self._chosen: dict[Slot, Value] = {}
        self._digests: dict[Slot, int] = {}
        self._spins: dict[ReplicaId, int] = {}
        self._emitted: dict[tuple[ReplicaId, int], Slot] = {}
        self._positions: dict[tuple[ReplicaId, int], tuple[Slot, Slot]] = {}
        self._told: dict[ReplicaId, Ballot] = {}

    def restarted(self, node: Node, recovered: Recovered) -> None:
        """What a replica told of its promises before a crash, it knows after it, unless it is one
        that forgets."""
        self.memory.started(node)
        if node.store.durability == "epoch" or node.store.replaced:
            return
        told = self._told.get(node.id, ZERO_BALLOT)
        if recovered.promised < told:
            fail(f"node {node.id} promised {told} and recovered {recovered.promised}")

    def recorded(self, replica: ReplicaId, store: SimStore, record: Record) -> None:
        """One ballot has one value per slot, in whatever store; it was promised before. And what
        a majority of stores holds in one ballot is the slot's value for ever, known or not."""
        if record.ballot > store.promised:
            fail(f"{record} is accepted above the promise {store.promised}")
        key = (record.slot, record.ballot)
        known = self._proposed.setdefault(key, record.value)
        if not known.same_as(record.value):
            fail(f"two values in one ballot: {known} and {record}")
        self._acceptors[key] = holders = self._acceptors.get(key, 0) | 1 << replica
        if holders.bit_count() >= self._majority:
            chosen = self._chosen.setdefault(record.slot, record.value)
            if not chosen.same_as(record.value):
                fail(f"slot {record.slot} is chosen twice: {chosen} and {record}")

    def sending(self, node: Node, envelopes: list[Envelope]) -> None:
        """Nothing leaves before what it tells is durable."""
        store = node.store
        for envelope in envelopes:
            message = envelope.message
            self.memory.sending(node, message)
            if isinstance(message, Promise):
                if store.promised < message.ballot:
                    fail(f"{message} sent before its write")
                self._told[node.id] = max(message.ballot, self._told.get(node.id, ZERO_BALLOT))
            elif isinstance(message, Accepted):
                if store.promised < message.ballot:
                    fail(f"{message} sent before its promise")
                for slot in message.slots:
                    self._is_durable(node, slot, message.ballot, message)
            elif isinstance(message, Accept) and message.vote:
                self._is_durable(node, message.slot, message.ballot, message)
            elif isinstance(message, Accept) and store.promised < message.ballot:
                fail(f"{message} sent before its promise")

    def _is_durable(self, node: Node, slot: Slot, ballot: Ballot, message: object) -> None:
        if slot <= node.replica.decided_upto:
            return  # voting again for what is decided needs no record
        record = node.store.records.get(slot)
        # Of a later ballot if that came in the same turn: its write followed this one's.
        if record is None or record.ballot < ballot:
            fail(f"{message} sent before its write")

    def deciding(self, node: Node, decided: list[Decided]) -> None:
        """One value per slot for ever, held by a majority; in order, no gaps, once per life."""
        for item in decided:
            life = (node.id, node.life)
            last = self._emitted.get(life, node.recovered_slot)
            invariant(item.slot == last + 1, f"slot {item.slot} was handed out after {last}")
            self._emitted[life] = item.slot
            known = self.decided.get(item.slot)
            if known is None:
                self.decided[item.slot] = item.value
                chosen = self._chosen.get(item.slot)
                if chosen is None or not chosen.same_as(item.value):
                    fail(f"slot {item.slot}: decided {item.value}, while a majority holds {chosen}")
                continue
            if not known.same_as(item.value):
                fail(f"slot {item.slot} is decided twice: {known} and {item.value}")

    def applied(self, mark: Mark) -> None:
        """Equal digests at equal positions; nothing is applied that is not decided."""
        invariant(mark.slot in self.decided, f"slot {mark.slot} is applied and not decided")
        known = self._digests.setdefault(mark.slot, mark.digest)
        invariant(known == mark.digest, f"states differ at slot {mark.slot}")

    def after_turn(self, node: Node) -> None:
        """Positions grow and fit together; queues stay within their bounds."""
        replica = node.replica
        key = (node.id, node.life)
        before = self._positions.get(key, (0, 0))
        decided, applied = now = (node.decided_upto, node.engine.mark[0])
        if decided < before[0] or applied < before[1]:
            fail(f"positions went back: {before} {now}")
        if not replica.truncated_upto <= applied <= decided:
            fail(f"truncated {replica.truncated_upto}, applied {applied}, decided {decided}")
        self._positions[key] = now
        self._is_stored(node)
        self._queues_are_bounded(replica)
        self._does_not_spin(node)

    def _is_stored(self, node: Node) -> None:
        """What the protocol remembers is what the store does."""
        if node.replica.ballot != node.store.promised:
            fail(f"promised {node.replica.ballot} and stored {node.store.promised}")
        self.memory.after_turn(node, self._chosen_with)

    def _chosen_with(self, replica: ReplicaId) -> Iterator[Record]:
        for (slot, ballot), holders in self._acceptors.items():
            if holders >> replica & 1 and holders.bit_count() >= self._majority:
                yield Record(slot, ballot, self._proposed[slot, ballot])

    def _does_not_spin(self, node: Node) -> None:
        """A turn that asked for nothing must not ask for the next one at once, again and again."""
        output = node.loop.output
        busy = output.messages or output.writes or output.decided or output.reads
        if busy or output.wake_at > node.clock():
            self._spins[node.id] = 0
            return
        self._spins[node.id] = spins = self._spins.get(node.id, 0) + 1
        if spins >= 100:
            fail(f"the protocol of node {node.id} wakes without anything to do")

    def _queues_are_bounded(self, replica: Replica) -> None:
        local = replica.settings.local_batches
        lengths = replica.queue_lengths
        if (
            lengths["outbox"] > local
            or lengths["proposals"] > 4096 + 2 * local * self._replicas
            or lengths["reads"] > 4096
        ):
            fail(f"queues beyond their bounds: {lengths}")


class History:
    """What clients of the Ledger saw, judged as it comes: a counter is easily judged.

    Each addition's total is above every total acknowledged before it began, and no two are alike;
    a read is at least as new as every addition acknowledged before it began, and knows
    none that was not begun.
    """

    def __init__(self) -> None:
        self.begun = 0
        self.acknowledged: dict[int, int] = {}
        """Name of an addition to its total."""
        self.refused: list[int] = []
        """Names of additions that were answered "no space": they must never be run."""
        self._newest = 0
        self._totals: dict[int, int] = {}

    def invoked_add(self) -> int:
        """Returns the floor: what the answer must be above."""
        self.begun += 1
        return self._newest

    def invoked_read(self) -> int:
        return self._newest

    def add_answered(self, name: int, floor: int, total: int, runs: int) -> None:
        invariant(runs == 1, f"addition {name} was run {runs} times")
        invariant(total > floor, f"addition {name} answered {total}, below {floor} before it")
        other = self._totals.setdefault(total, name)
        invariant(other == name, f"additions {other} and {name} both answered {total}")
        self.acknowledged[name] = total
        self._newest = max(self._newest, total)

    def read_answered(self, floor: int, total: int) -> None:
        invariant(total >= floor, f"a read saw {total}; {floor} was acknowledged before it")
        invariant(total <= self.begun, f"a read saw {total}; only {self.begun} were begun")
