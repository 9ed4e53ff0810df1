"""A whole cluster in one process, under one clock and one seed.

Nothing here depends on the real time, on threads or on hash(): a seed gives the same run, event by
event, on any machine and under any PYTHONHASHSEED. A run has two phases. First the nemesis strikes
while clients work, and safety is checked at every step. Then everything is healed, and the
cluster has to come back: answer all, agree on all, within a bound.
"""

from __future__ import annotations

import heapq
import random
import zlib
from collections.abc import Callable
from typing import Any

import msgspec

from mpaxos.core.invariant import InvariantViolated, invariant
from mpaxos.core.replica import Replica
from mpaxos.core.settings import MILLISECOND, SECOND
from mpaxos.core.types import majority
from mpaxos.errors import MpaxosError, StorageCorrupt, StorageError, StorageFull
from mpaxos.sim.clients import Client
from mpaxos.sim.invariants import Checker, History
from mpaxos.sim.nemesis import Nemesis
from mpaxos.sim.network import Network
from mpaxos.sim.node import Node
from mpaxos.sim.store import DURABILITIES, FORGETFUL, Crash
from mpaxos.sim.transfer import switch_store

HEALED_BOUND = 30 * SECOND
"""Simulated time within which a healed cluster must have answered and agreed."""


class Plan(msgspec.Struct, frozen=True):
    """What a run is made of, drawn from its seed."""

    replicas: int
    window: int
    max_apply_lag: int
    log_size: int
    state_limit: int
    max_sessions: int
    rot: bool
    """Bits may be flipped in the stores of a minority."""
    clients: int
    client_window: int
    faults_for: int
    pace: int
    """Milliseconds between two faults, at most; also for how long a crashed replica is away."""
    slow_share: float
    clock_rates: list[int]
    """Sixteenths of the world's clock."""
    durability: str = "pmem"
    replaces: bool = False
    """Replicas may lose everything and be replaced by empty ones."""
    keeps_state: bool = True
    """The state survives a crash; otherwise a restarted replica begins with an empty one."""
    reckless: bool = False
    """More may forget at once than the setting bears: then all may stand still, but no promise of
    safety may break."""

    @property
    def forgets(self) -> bool:
        """Some replica may come back with less than it knew."""
        return self.durability in FORGETFUL or self.replaces


class Report(msgspec.Struct):
    """How a run went."""

    seed: int
    replicas: int
    durability: str = "pmem"
    events: int = 0
    decided: int = 0
    acknowledged: int = 0
    simulated_seconds: float = 0.0
    recoveries: int = 0
    """How often a replica that had forgotten votes took part again."""
    ordinary_turns: int = 0
    """Turns taken under a mandate."""
    stood_still: bool = False
    """More had forgotten than the setting bears, and rightly nobody went on."""
    faults: dict[str, int] = {}
    trace_digest: int = 0
    failure: str | None = None


def draw_plan(rng: random.Random, memory: random.Random, replicas: int, durability: str) -> Plan:
    """The make of a run; `durability` empty: drawn as well. `memory` draws what was added later,
    so that the other draws stay what they were."""
    durability = durability or memory.choice(DURABILITIES)
    keeps_log = durability in ("pmem", "disk")
    rot = replicas > 1 and rng.random() < 0.2 and keeps_log
    # Many short runs and a few long ones find more than equal ones do.
    longest = rng.choice([300, 600, 600, 1000, 2500])
    return Plan(
        replicas=replicas,
        window=rng.choice([1, 2, 4, 16]),
        max_apply_lag=rng.choice([4, 32, 512]),
        # With a replica lost for ever, another one must never be too far behind.
        log_size=1 << 20
        if rot or durability == "none"
        else rng.choice([8 << 10, 32 << 10, 256 << 10]),
        state_limit=rng.choice([1 << 30, 1 << 30, 4096]),
        max_sessions=rng.choice([3, 6, 6]),
        rot=rot,
        clients=rng.randrange(1, 6),
        client_window=rng.choice([1, 2, 8]),
        faults_for=rng.randrange(100, longest) * MILLISECOND,
        pace=rng.choice([50, 100, 250]),
        slow_share=rng.choice([0.0, 0.3]),
        clock_rates=rng.choice([[16], [16], [8, 16, 32], [14, 16, 18]]),
        durability=durability,
        replaces=keeps_log and not rot and replicas > 1 and memory.random() < 0.4,
        keeps_state=keeps_log or memory.random() < 0.5,
        reckless=durability in FORGETFUL and memory.random() < 0.15,
    )


class World:
    """One run."""

    def __init__(
        self,
        seed: int,
        replicas: int = 3,
        *,
        durability: str = "",
        trace: Callable[[str], None] | None = None,
        make_replica: Callable[..., Replica] = Replica,
        steady: bool = True,
    ) -> None:
        """`durability`: one of DURABILITIES, or empty: drawn from the seed. `trace` gets a line for
        everything that happens. `make_replica` is for tests that put a broken protocol in place of
        the real one. `steady`: half of the lives of replicas take ordinary turns by mandate."""
        self.seed = seed
        self.now = 0
        self.rng = random.Random(seed * 8 + replicas)
        memory = random.Random(f"memory of {seed} with {replicas}")
        self.plan = draw_plan(self.rng, memory, replicas, durability)
        self.make_replica = make_replica
        self.steady = steady
        self.ordinary_turns = 0
        self.history = History()
        self.checker = Checker(replicas)
        self.network = Network(self)
        self.nemesis = Nemesis(self)
        self._trace = trace
        self._trace_digest = 0
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self._events = 0
        self.recoveries = 0
        self._planned: dict[int, int] = {}
        self.nodes = [Node(self, id) for id in range(replicas)]
        self.checker.memory.nodes = self.nodes
        self.clients = [Client(self, i, self.plan.client_window) for i in range(self.plan.clients)]

    # -- time ------------------------------------------------------------------------------

    def after(self, delay: int, function: Callable[..., None], *arguments: Any) -> None:
        """Call `function` in `delay` nanoseconds."""
        self._sequence += 1
        heapq.heappush(self._queue, (self.now + delay, self._sequence, function, arguments))

    def trace(self, line: str) -> None:
        """Something happened that a reader of the run wants to know."""
        text = f"{self.now / 1e6:10.3f} ms  {line}"
        self._trace_digest = zlib.crc32(text.encode(), self._trace_digest)
        if self._trace is not None:
            self._trace(text)

    def _run_until(self, end: int, done: Callable[[], bool] = lambda: False) -> None:
        while self._queue and self._queue[0][0] <= end:
            self.now, _, function, arguments = heapq.heappop(self._queue)
            self._events += 1
            function(*arguments)
            if self._events % 64 == 0 and done():
                return
        self.now = max(self.now, min(end, self._queue[0][0] if self._queue else end))

    # -- nodes -----------------------------------------------------------------------------

    def wake(self, node: Node, at: int | None = None) -> None:
        """Give `node` a turn, soon or at a time; the earliest wish counts."""
        at = self.now + 5_000 if at is None else at
        planned = self._planned.get(node.id)
        if planned is None or at < planned:
            self._planned[node.id] = at
            self.after(at - self.now, self._turn, node, node.life, at)

    def _turn(self, node: Node, life: int, at: int) -> None:
        if self._planned.get(node.id) != at:
            return  # an earlier wish was granted
        del self._planned[node.id]
        if not node.alive or node.life != life:
            return
        if node.frozen_until > self.now:
            self.wake(node, node.frozen_until)
            return
        decided = node.decided_upto
        leader = node.replica.is_leader
        recovering = node.store.recovering
        try:
            node.turn()
            if node.transfers.switch is not None:
                self._switch(node)
                return
        except Crash as crash:
            self.crash(node, str(crash))
            return
        except StorageError as error:
            self.stopped(node, error)
            return
        if node.decided_upto != decided:
            self.trace(f"node {node.id} decided up to {node.decided_upto}")
        if node.replica.is_leader != leader:
            self.trace(f"node {node.id} is {node.replica.role}, ballot {node.replica.ballot}")
        if recovering and not node.store.recovering:
            self.recoveries += 1
            self.trace(f"node {node.id} recovered in life {node.store.life}")
        self.wake(node, max(self.now + 1, node.next_turn()))

    def _switch(self, node: Node) -> None:
        """`node` has received a state: it begins a new life with it."""
        switch_store(self, node, self.rng)
        self.trace(f"node {node.id} switched to the state at slot {node.engine.mark[0]}")
        node.crash()
        self._planned.pop(node.id, None)
        self.network.disconnect(node.id)
        node.start(reloaded=True)
        self._arrived(node)

    def may_forget(self, node: Node) -> bool:
        """True when a majority of the others has all its memory."""
        intact = [other for other in self.nodes if other is not node and other.remembers]
        return len(intact) >= majority(self.plan.replicas)

    def crash(self, node: Node, how: str) -> None:
        """`node` dies, and will be restarted after a while, unless it may not come back."""
        self.trace(f"node {node.id} crashed: {how}")
        node.crash()
        self._planned.pop(node.id, None)
        self.network.disconnect(node.id)
        node.lost |= self.plan.durability == "none"
        # One that forgets is often back before its last words have arrived.
        soon = self.plan.forgets and self.rng.random() < 0.5
        longest = 20 if soon else 3 * self.plan.pace
        self.after(self.rng.randrange(1, longest) * MILLISECOND, self.restart, node)

    def stopped(self, node: Node, error: StorageError) -> None:
        """`node` stops by itself: a state that cannot be right, or no room, is not gone on with."""
        if isinstance(error, StorageCorrupt) and node.store.damaged:
            node.lost = True
        elif not (isinstance(error, StorageFull) and node.store.full):
            raise error
        self.crash(node, f"{type(error).__name__}: {error}")

    def restart(self, node: Node) -> None:
        if node.alive or node.lost:
            return
        self._planned.pop(node.id, None)
        try:
            node.start()
        except StorageError as error:
            self.stopped(node, error)
            return
        self._arrived(node)

    def _arrived(self, node: Node) -> None:
        how = ", recovering" if node.store.recovering else ""
        self.trace(f"node {node.id} started at slot {node.recovered_slot}{how}")
        self.network.connect(node.id)
        self.wake(node)

    def _tick_clients(self) -> None:
        for client in self.clients:
            client.tick()
        self.after(self.rng.randrange(2, 25) * MILLISECOND, self._tick_clients)

    # -- the run -----------------------------------------------------------------------------

    def run(self) -> Report:
        """Run both phases. Failures are in the report, not raised."""
        report = Report(self.seed, self.plan.replicas, self.plan.durability)
        try:
            self._phases()
        except (InvariantViolated, MpaxosError) as error:
            where = f"{self.now / 1e6:.3f} ms"
            report.failure = f"at {where}: {type(error).__name__}: {error}"
            self.trace(f"FAILED {report.failure}")
        report.events = self._events
        report.decided = len(self.checker.decided)
        report.acknowledged = len(self.history.acknowledged)
        report.simulated_seconds = self.now / 1e9
        report.recoveries = self.recoveries
        report.ordinary_turns = self.ordinary_turns
        report.stood_still = self._stands_still
        report.faults = self.nemesis.strikes
        report.trace_digest = self._trace_digest
        return report

    def _phases(self) -> None:
        for node in self.nodes:
            self.restart(node)
        self.after(0, self._tick_clients)
        self.after(self.rng.randrange(10, 400) * MILLISECOND, self.nemesis.strike)
        self._run_until(self.plan.faults_for)
        self.trace("healed")
        self.nemesis.stop()
        self._run_until(self.now + SECOND // 8)
        for client in self.clients:
            client.asking = False
        self._run_until(self.now + HEALED_BOUND, self._is_settled)
        self._judge_end()

    @property
    def _stands_still(self) -> bool:
        """Too many have forgotten: nobody can ever take part again who does not now."""
        if not self.plan.reckless or not all(node.alive for node in self.nodes):
            return False
        return sum(node.remembers for node in self.nodes) < majority(self.plan.replicas)

    def _is_settled(self) -> bool:
        if self._stands_still:
            return not any(node.replica.is_leader for node in self.nodes)
        if not all(client.idle for client in self.clients):
            return False
        nodes = [node for node in self.nodes if not node.lost]
        if not all(node.alive for node in nodes):
            return False
        if any(node.store.recovering for node in nodes):
            return False
        applied = {node.engine.mark[0] for node in nodes}
        equal = len(applied | {node.decided_upto for node in nodes}) == 1
        return equal and any(node.replica.is_leader for node in nodes)

    def _judge_end(self) -> None:
        invariant(
            self._is_settled(),
            "the healed cluster did not come back: "
            + ", ".join(
                f"{n.id} {n.replica.role} decided {n.decided_upto} applied "
                f"{n.engine.mark[0]}" + (f" waits for {n.replica.waits_for}" * n.store.recovering)
                for n in self.nodes
                if not n.lost
            )
            + f"; unanswered clients {[c.id for c in self.clients if not c.idle]}",
        )
        if self._stands_still:
            return  # perhaps nobody has the state any more
        engines = [node.engine for node in self.nodes if not node.lost]
        newest = max(engines, key=lambda engine: engine.mark[0])
        runs = newest.scan(newest.container("runs"), b"", None, 1 << 30)
        invariant(all(value == b"\x01" for _, value in runs), "an addition was run twice")
        names = {key for key, _ in runs}
        missing = [n for n in self.history.acknowledged if n.to_bytes(8, "big") not in names]
        invariant(not missing, f"acknowledged additions are lost: {missing}")
        refused = [n for n in self.history.refused if n.to_bytes(8, "big") in names]
        invariant(not refused, f"refused additions were run: {refused}")
