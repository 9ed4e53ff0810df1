"""One simulated replica process: the product's loop, protocol and machine over simulated parts."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from mpaxos.core.messages import Accepted, Envelope, Promise, TakeOver
from mpaxos.core.output import (
    Decided,
    Event,
    LocalBatch,
    LocalReads,
    Output,
    ReadReady,
    Received,
    Resign,
)
from mpaxos.core.sessions import OPEN, OPENED, QUERY, REFUSED, Entry
from mpaxos.core.settings import SECOND, Settings
from mpaxos.core.types import Mark, ReplicaId, Slot
from mpaxos.machine.host import MachineHost
from mpaxos.machine.memory import MemoryEngine
from mpaxos.net.plane import Polled
from mpaxos.runtime.applier import Applier, Done, InlineApplier
from mpaxos.runtime.loop import Loop
from mpaxos.runtime.steady import native_steady
from mpaxos.sim.service import Ledger
from mpaxos.sim.steady import SimSteady
from mpaxos.sim.store import Crash, SimStore
from mpaxos.sim.transfer import Install, SimTransfers, finish_switch
from mpaxos.sim.values import SimBatch, SimReplies, noop

if TYPE_CHECKING:
    from mpaxos.sim.clients import Client
    from mpaxos.sim.world import World


class SimPlane:
    """A replica's connections: implements mpaxos.net.plane.Plane over the simulated network."""

    def __init__(self, world: World, node: Node, incarnation: int) -> None:
        self._world = world
        self._node = node
        self._incarnation = incarnation
        self._inbox: list[Event] = []
        self._commands: list[Entry] = []
        self._queries: list[Entry] = []
        self._batches = 0
        self._sessions: dict[int, Client] = {}
        self._tokens: dict[int, Client] = {}
        self.crash_on_send = False
        self.crash_after_vote = False

    def arrive(self, event: Event) -> None:
        self._inbox.append(event)

    def request(self, client: Client, entry: Entry) -> None:
        if entry[3] == OPEN:
            self._tokens[entry[1]] = client
        else:
            self._sessions[entry[0]] = client
        (self._queries if entry[3] == QUERY else self._commands).append(entry)

    def poll(self, output: Output) -> Polled:
        events, self._inbox = self._inbox, []
        if not output.quorum:
            refused = SimReplies()
            for entry in self._commands + self._queries:
                refused.add(entry[0], entry[1], REFUSED, b"")
            self._commands, self._queries = [], []
            self.deliver(refused)
        steady = self._node.steady
        room = output.room
        if steady is not None and steady.active:
            room = min(room, steady.room)
        if self._commands and room > 0:
            events.append(LocalBatch(self._seal(self._commands)))
            self._commands = []
        if self._queries:
            events.append(LocalReads(self._seal(self._queries)))
            self._queries = []
        now = self._node.clock()
        if steady is None or not steady.active or not events or now >= output.wake_at:
            return Polled(now, events, [], [])
        return self._take_ordinary(steady, now, events)

    def _take_ordinary(self, steady: SimSteady, now: int, events: list[Event]) -> Polled:
        """As native/src/plane_steady.cpp does: durable first, then told, then handed out."""
        taken, output = steady.take(now, events)
        store = self._node.store
        if output.writes:
            store.write(output.writes)
            steady.room_is(store.log_room)
        if output.messages:
            self.send(output.messages)
        self._world.ordinary_turns += taken > 0
        if output.decided or output.reads:
            self._node.applier.submit(output.decided, output.reads)
        return Polled(now, events[taken:], [], [])

    def _seal(self, entries: list[Entry]) -> SimBatch:
        self._batches += 1
        return SimBatch(self._node.id, self._incarnation, self._batches, entries)

    def send(self, messages: list[Envelope]) -> None:
        if self.crash_on_send and self._node.may_crash():
            raise Crash("after its writes and before its messages")
        self._world.checker.sending(self._node, messages)
        for envelope in messages:
            self._world.network.send(self._node.id, envelope, self._node.store.busy)
        if self.crash_after_vote and any(
            isinstance(envelope.message, Promise | Accepted) for envelope in messages
        ):
            self.crash_after_vote = False
            self._node.forget_vote()

    def deliver(self, replies: Any) -> None:
        for session, sequence, status, payload in replies.entries():
            client = self._sessions.get(session) if session else self._tokens.get(sequence)
            if client is None:
                continue
            if status == OPENED:
                self._sessions[int.from_bytes(payload, "little")] = client
            reply = (session, sequence, status, payload)
            self._world.network.reply(client, reply, self._node.store.busy)

    def answer(self, token: int, data: bytes) -> None:
        """Nobody asks."""

    def flush(self) -> None:
        """Nothing is buffered."""

    def wake(self) -> None:
        """Nothing waits."""

    def counters(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        """Nothing to let go of."""


class SimMachine:
    """The product's host of machines, watched, and able to die in the middle."""

    running = None

    def __init__(self, world: World, node: Node, host: MachineHost) -> None:
        self._world = world
        self._node = node
        self._host = host
        self.crash_in: str | None = None

    def apply(self, slot: Slot, time: int, batch: Any, /) -> Any:
        crash_in = self.crash_in if self._node.may_crash() else None
        if crash_in == "begun":
            self._node.engine.begin(slot, time, batch)
            raise Crash("in the middle of a slot")
        replies = self._host.apply(slot, time, batch)
        self._world.checker.applied(Mark(*self._node.engine.mark))
        if crash_in == "applied":
            raise Crash("after a slot was applied and before its replies")
        return replies

    def query(self, batch: Any, /) -> Any:
        return self._host.query(batch)

    @property
    def mark(self) -> tuple[int, int]:
        return self._node.engine.mark


class SlowApplier:
    """A machine that lags: it applies a few slots when it is asked what it has done."""

    def __init__(self, machine: SimMachine, rng: random.Random) -> None:
        self._inline = InlineApplier(machine)
        self._rng = rng
        self._backlog: deque[tuple[list[Decided], list[ReadReady]]] = deque()

    def submit(self, decided: list[Decided], reads: list[ReadReady]) -> None:
        self._backlog.extend(([item], []) for item in decided)
        self._backlog.append(([], reads))

    def collect(self) -> Done:
        for _ in range(self._rng.randrange(3)):
            if self._backlog:
                self._inline.submit(*self._backlog.popleft())
        return self._inline.collect()

    def waits(self) -> bool:
        return self._inline.waits() or self.lags

    def reached(self, slot: Slot) -> None:
        self._inline.reached(slot)

    def call(self, function: Callable[[], None]) -> None:
        self._inline.call(function)

    def stop(self, patience: float) -> bool:
        return self._inline.stop(patience)

    @property
    def lags(self) -> bool:
        return bool(self._backlog)


class WatchedApplier:
    """Tells the checker what is decided before it is applied."""

    def __init__(self, world: World, node: Node, inner: Applier) -> None:
        self._world = world
        self._node = node
        self._inner = inner
        self.collect = inner.collect
        self.call = inner.call
        self.waits = inner.waits
        self.reached = inner.reached
        self.stop = inner.stop

    def submit(self, decided: list[Decided], reads: list[ReadReady]) -> None:
        self._world.checker.deciding(self._node, decided)
        self._inner.submit(decided, reads)


class Node:
    """A replica across its lives: the store and the machine's state stay, all else is lost."""

    def __init__(self, world: World, id: ReplicaId) -> None:
        self.id = id
        self.life = 0
        self.alive = False
        self.lost = False
        """Its store is damaged: it never comes back."""
        self.frozen_until = 0
        self.recovered_slot: Slot = 0
        self.install: Install | None = None
        """What is durable of a state that is being received."""
        plan = world.plan
        self._world = world
        self.engine = self._empty_engine()
        self.store = SimStore(plan.log_size, self._applied, plan.durability)
        self.store.may_die = self.may_crash
        self.store.on_record = partial(world.checker.recorded, id, self.store)
        self._rate = 16
        self._offset = 0

    def start(self, *, reloaded: bool = False) -> None:
        """Begin a life with what the store and the machine kept. `reloaded`: without a crash
        before it, so that nothing was forgotten. Raises StorageCorrupt."""
        world, rng = self._world, self._world.rng
        self.life += 1
        if not reloaded:
            if self.store.life and not world.plan.keeps_state:
                self.engine = self._empty_engine()
                self.install = None
            self.store.begin_life()
        self.frozen_until = 0
        self._rate = rng.choice(world.plan.clock_rates)
        self._offset = rng.randrange(1 << 40)
        self.store.crash_after = None
        incarnation = rng.getrandbits(62)
        finish_switch(world, self)
        recovered = self.store.recovered()
        world.checker.restarted(self, recovered)
        self.recovered_slot = recovered.applied.slot
        self.replica = world.make_replica(
            self.settings(),
            recovered,
            self.store,
            incarnation=incarnation,
            make_noop=noop,
            epoch=0,
            seed=rng.getrandbits(32),
        )
        limit = world.plan.state_limit
        host = MachineHost(
            self.engine, Ledger, limit, make_replies=SimReplies, time=self.engine.time
        )
        self.machine = SimMachine(world, self, host)
        self.plane = SimPlane(world, self, incarnation)
        slow = rng.random() < world.plan.slow_share
        self._applier = SlowApplier(self.machine, rng) if slow else InlineApplier(self.machine)
        self.applier = WatchedApplier(world, self, self._applier)
        self.transfers = SimTransfers(world, self)
        self.steady = self._make_steady(incarnation)
        self.loop = Loop(
            self.plane,
            self.replica,
            self.store,
            self.applier,
            on_admin=lambda request: None,
            on_notice=lambda notice: None,
            background=self.transfers,
            steady=self.steady,
        )
        self.alive = True

    def _make_steady(self, incarnation: int) -> SimSteady | None:
        """In half of the lives; drawn apart, so that the other draws stay what they were."""
        world, settings = self._world, self.settings()
        if not world.steady or settings.early_accepts:
            return None
        if random.Random(f"{world.seed} {self.id} {self.life}").random() < 0.5:
            return None
        native = native_steady(
            settings, log_size=world.plan.log_size, epoch=0, incarnation=incarnation
        )
        return SimSteady(native, settings)

    def settings(self) -> Settings:
        plan = self._world.plan
        return Settings(
            replica=self.id,
            replicas=plan.replicas,
            window=plan.window,
            max_apply_lag=plan.max_apply_lag,
            mark_interval=4,
            catchup_slots=8,
            state_credit=2048,
            state_patience=2 * SECOND,
            early_accepts=plan.durability == "disk",
        )

    def clock(self) -> int:
        """This process's monotonic clock: it may be fast or slow."""
        return self._offset + self._world.now * self._rate // 16

    def turn(self) -> None:
        """One pass of the loop; a Crash inside ends the life, a StorageError as well."""
        self.store.busy = 0
        self.loop.turn()
        if self.store.busy:
            self.frozen_until = max(self.frozen_until, self._world.now + self.store.busy)
        self._world.checker.after_turn(self)

    def next_turn(self) -> int:
        """The world's time at which the protocol wants to be called at the latest."""
        if isinstance(self._applier, SlowApplier) and self._applier.lags:
            return self._world.now + 2_000_000
        wait = max(0, self.loop.output.wake_at - self.clock())
        return self._world.now + wait * 16 // self._rate + 1

    def crash(self) -> None:
        """The process is gone."""
        self.alive = False
        self.engine.abandon()

    @property
    def decided_upto(self) -> Slot:
        """How far it knows the log to be decided, under a mandate as well."""
        steady = self.steady
        known = self.replica.decided_upto
        return known if steady is None or not steady.active else max(known, steady.decided)

    @property
    def remembers(self) -> bool:
        """What it promised and accepted is still there, now or when it is back."""
        if self.lost or self.store.recovering:
            return False
        return self.alive or self.store.durability in ("pmem", "disk")

    def may_crash(self) -> bool:
        """Does the setting bear that this replica crashes now?"""
        if self._world.plan.reckless or self.store.durability in ("pmem", "disk"):
            return True
        return self._world.may_forget(self)

    def replace(self) -> None:
        """All it had is gone; an operator lets an empty one begin under its id."""
        self.engine = self._empty_engine()
        self.install = None
        self.store.replace()

    def forget_vote(self) -> None:
        """Die in the worst moment, and lose as much as the setting allows. Raises Crash."""
        if self._world.plan.replaces and self._world.may_forget(self):
            self.replace()
            raise Crash("after its vote was sent, and is replaced by an empty one")
        if self.may_crash():
            raise Crash("after its vote was sent")

    def stand(self) -> None:
        """Seek votes at once."""
        self.loop.inject(Received(self.id, TakeOver(self.replica.ballot)))

    def _empty_engine(self) -> MemoryEngine:
        sessions = self._world.plan.max_sessions
        return MemoryEngine(SimReplies, max_sessions=sessions, max_reply_slots=8 * sessions)

    def resign(self) -> None:
        self.loop.inject(Resign())

    def _applied(self) -> tuple[Mark, int]:
        return Mark(*self.engine.mark), self.engine.time
