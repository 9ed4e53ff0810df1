"""The simulated world with a volatile machine over a disk: writes become durable later, while the
loop goes on, and a crash takes the state back to a snapshot.

The product's own loop holds what depends on a write (mpaxos.runtime.held); the world's checks see
whether it does: a vote that is told must be in the durable image, and what is acknowledged must
survive. The log is truncated as far as snapshots allow; a replica whose log begins after its
snapshot could not start.
"""

from __future__ import annotations

from collections import deque
from copy import deepcopy
from typing import Any

import msgspec

from mpaxos.core.invariant import invariant
from mpaxos.core.output import Snapshotted, Truncate, Write, WriteLives, WriteRecord
from mpaxos.core.replica import Replica
from mpaxos.core.settings import MILLISECOND
from mpaxos.core.types import Ballot, LogReader, Record, Recovered, Slot
from mpaxos.errors import StorageFull
from mpaxos.machine.memory import MemoryEngine
from mpaxos.runtime.held import Held
from mpaxos.sim import Report
from mpaxos.sim.invariants import Checker
from mpaxos.sim.node import Node
from mpaxos.sim.store import SimStore
from mpaxos.sim.world import World


class LateStore:
    """Writes on their way to the device `inner`, of one life: a LaterStore. What is not there when
    the process dies is lost."""

    def __init__(self, world: LateWorld, node: LateNode, inner: SimStore) -> None:
        self._world = world
        self._node = node
        self._inner = inner
        self._pending: deque[tuple[int, int, list[Write]]] = deque()
        self._ticket = 0
        self._durable = 0

    def submit(self, writes: list[Write]) -> int:
        if self._inner.full and self._inner.may_die():
            raise StorageFull("the simulated device is full")
        rng = self._world.rng
        delay = rng.choice([0, 1, 1, 3, 20]) * rng.randrange(MILLISECOND)
        due = max(self._world.now + delay, self._pending[-1][0] if self._pending else 0)
        self._ticket += 1
        self._pending.append((due, self._ticket, writes))
        if any(isinstance(write, WriteLives) for write in writes):
            self.wait(self._ticket)
        elif delay:
            self._world.after(due - self._world.now, self._arrived, self._node.life)
        return self._ticket

    def _arrived(self, life: int) -> None:
        if self._node.alive and self._node.life == life:
            self._world.wake(self._node)

    def durable_upto(self) -> int:
        while self._pending and self._pending[0][0] <= self._world.now:
            self._write_one()
        return self._durable

    def wait(self, ticket: int) -> None:
        while self._durable < ticket:
            self._write_one()

    def _write_one(self) -> None:
        _, ticket, writes = self._pending.popleft()
        self._world.late_writes += 1
        self._inner.write(writes)
        self._durable = ticket

    def fileno(self) -> int:
        return -1

    @property
    def idle(self) -> bool:
        return not self._pending

    def read(self, slot: Slot) -> Record | None:
        if slot <= self._truncated_upto:
            return None
        return self._on_their_way().get(slot) or self._inner.read(slot)

    @property
    def log_room(self) -> int:
        records = self._inner.records | self._on_their_way()
        left = [record for slot, record in records.items() if slot > self._truncated_upto]
        taken = sum(record.value.batch.length + SimStore.OVERHEAD for record in left)
        return self._inner.log_size - taken

    @property
    def _truncated_upto(self) -> Slot:
        upto = [w.upto for w in self._waiting() if isinstance(w, Truncate)]
        return max([self._inner.truncated_upto, *upto])

    def _on_their_way(self) -> dict[Slot, Record]:
        """The newest record of each slot that is."""
        return {w.record.slot: w.record for w in self._waiting() if isinstance(w, WriteRecord)}

    def _waiting(self) -> list[Write]:
        return [write for _, _, writes in self._pending for write in writes]

    def recovered(self) -> Recovered:
        return self._inner.recovered()

    def write(self, writes: list[Write]) -> None:
        self.wait(self.submit(writes))

    def close(self) -> None:
        pass


class LateChecker(Checker):
    """The protocol runs ahead of what is durable; what it says may not."""

    def _is_durable(self, node: Node, slot: Slot, ballot: Ballot, message: object) -> None:
        store = node.store
        if slot > node.replica.decided_upto:
            super()._is_durable(node, slot, ballot, message)
        elif slot > store.truncated_upto:
            # Voting again for what is decided needs no new record, but there must be one.
            invariant(slot in store.records, f"{message} sent before its write")

    def _is_stored(self, node: Node) -> None:
        assert isinstance(node, LateNode)
        if node.late.idle:
            super()._is_stored(node)
        else:
            invariant(node.replica.ballot >= node.store.promised, "a promise was forgotten")


class LateNode(Node):
    """A replica whose state is durable in snapshots only."""

    def __init__(self, world: LateWorld, id: int) -> None:
        super().__init__(world, id)
        self._late_world = world
        self.snapshot: MemoryEngine = deepcopy(self.engine)
        self.late: LateStore
        self._own = self.store

    def start(self, *, reloaded: bool = False) -> None:
        world = self._late_world
        self._notice_switch()
        if reloaded:
            self.snapshot = deepcopy(self.engine)
        elif world.rng.random() < 0.5:
            # Otherwise the log has told of all that was decided, and it was applied again.
            self.engine = deepcopy(self.snapshot)
            world.set_back += self.life > 0
        invariant(
            self.store.truncated_upto <= self.snapshot.mark[0],
            f"the log begins after slot {self.store.truncated_upto}, beyond the snapshot",
        )
        super().start(reloaded=reloaded)
        # The loop that start() made waits for its store; this one need not.
        self.loop._store = self.late
        self.loop._held = world.make_held(self.late)

    def _notice_switch(self) -> None:
        """A state that was installed is durable, as a snapshot is."""
        if self.store is not self._own:
            self._own = self.store
            self.snapshot = deepcopy(self.engine)

    def recovers(self, recovered: Recovered) -> Recovered:
        """What the protocol begins with: called in the middle of start()."""
        self._notice_switch()
        self.late = LateStore(self._late_world, self, self.store)
        return msgspec.structs.replace(recovered, snapshot=self.snapshot.mark[0])

    def turn(self) -> None:
        super().turn()
        rng = self._late_world.rng
        if rng.random() < 0.05 and self.engine.mark[0] > self.snapshot.mark[0]:
            self.snapshot = deepcopy(self.engine)
            self.loop.inject(Snapshotted(self.snapshot.mark[0]))

    def replace(self) -> None:
        super().replace()
        self._own = self.store
        self.snapshot = deepcopy(self.engine)


class LateWorld(World):
    """One run."""

    def __init__(self, seed: int, replicas: int = 3, **options: Any) -> None:
        self.late_writes = 0
        self.set_back = 0
        """How often a replica began with the state of a snapshot."""
        inner = options.pop("make_replica", Replica)
        super().__init__(seed, replicas, **({"durability": "disk"} | options))
        self.checker = LateChecker(replicas)
        self.nodes = [LateNode(self, id) for id in range(replicas)]
        self.checker.memory.nodes = self.nodes

        def make(settings: Any, recovered: Recovered, log: LogReader, **more: Any) -> Replica:
            node = self.nodes[settings.replica]
            assert isinstance(node, LateNode)
            changed = node.recovers(recovered)
            replica: Replica = inner(settings, changed, node.late, **more)
            return replica

        self.make_replica = make

    def make_held(self, store: LateStore) -> Held:
        """For tests that put a broken one in its place. The world's time stands still in a turn, so
        a device that is waited for would always be quick."""
        return Held(store, quick=0)


def run(seed: int, replicas: int = 3) -> tuple[Report, LateWorld]:
    """One run to its end."""
    world = LateWorld(seed, replicas)
    return world.run(), world
