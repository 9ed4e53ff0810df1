"""Depth-first search over every run of a small world.

A state of the world is what each replica knows and has stored, and which messages were ever sent.
Messages are never taken away: at any time any of them may be delivered, once, again or never. So
every order of delivery, every loss and any number of duplicates is among the runs, without a bound.
This is how Paxos is usually specified (Lamport, "The TLA+ Hyperbook"); here the transitions are not
a specification's but those of the product's code.

Two things make it fast enough. A turn depends only on the replica's state and the event, so each
pair is run once in the real code and remembered. And replicas that never start an election are
alike until the first message reaches them: of several such with the same messages waiting, only the
first is looked at (renaming them turns one run into the other).

Checked at every state: one value per slot and ballot; what a majority of stores ever accepted in
one ballot is the slot's value for ever; only that is decided, in order, without gaps; promises only
grow, also in a crash; nothing is accepted above the promise or sent before its write.
"""

from __future__ import annotations

import pickle
import random
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from mpaxos.core.invariant import InvariantViolated
from mpaxos.core.output import Event, Received
from mpaxos.core.types import Ballot, ReplicaId, Slot, majority
from mpaxos.sim.exhaustive.node import Accepts, Name, Node, _freeze, freeze
from mpaxos.sim.exhaustive.scope import Scope

REST, SEEK = -1, -2
"""In place of a message: nothing (a crash at rest), and an election."""

LONGEST_WALK = 300
"""Steps; where replicas ask each other again and again, a walk would not end by itself."""

_BITS = 24


def _bits(mask: int) -> Iterator[int]:
    """The numbers of the bits that are set."""
    while mask:
        bit = mask & -mask
        mask ^= bit
        yield bit.bit_length() - 1


class Outcome(msgspec.Struct):
    """How a search went."""

    scope: str
    states: int = 0
    transitions: int = 0
    finished: bool = False
    """False: the bound on states was reached first."""
    deepest: int = 0
    node_states: int = 0
    messages: int = 0
    turns: int = 0
    """Turns of the real code that were run; all others were known already."""
    seconds: float = 0.0
    violation: str | None = None


class State(NamedTuple):
    """One state of the world; node states and messages by number."""

    nodes: tuple[int, ...]
    sent: int
    """Bit set of messages."""
    elections: int
    """Bit set of the scope's elections that are still to come."""
    crashes: int
    """How many are still allowed."""


class Action(NamedTuple):
    """What leads to the next state."""

    replica: ReplicaId
    message: int
    crash_after: int | None


class Turned(NamedTuple):
    """The remembered result of a turn."""

    node: int
    sent: int
    decided: tuple[tuple[Slot, Name], ...]
    violation: str | None


class Search:
    """One search; `run` it once."""

    def __init__(self, scope: Scope, seed: int = 0) -> None:
        """`seed`: of the order in which the states are visited. It says what a search that is cut
        off has seen; one that finishes has seen everything in any order."""
        self.scope = scope
        self._rng = random.Random(seed)
        self._majority = majority(scope.replicas)
        replicas = range(scope.replicas)
        self._node_ids: list[dict[object, int]] = [{} for _ in replicas]
        self._blobs: list[list[bytes]] = [[] for _ in replicas]
        self._accepts: list[list[int]] = [[] for _ in replicas]
        self._accepts_ids: dict[Accepts, int] = {}
        self._message_ids: dict[object, int] = {}
        self._messages: list[tuple[ReplicaId, Event, str]] = []
        self._shapes: list[int] = []
        self._shape_ids: dict[object, int] = {}
        self._to = [0] * scope.replicas
        self._turned: list[dict[int, Turned]] = [{} for _ in replicas]
        self._crashed: list[dict[int, list[Turned]]] = [{} for _ in replicas]
        self._chosen: dict[tuple[int, ...], dict[Slot, Name] | str] = {}
        self.outcome = Outcome(scope.name)

    def run(self, limit: int, progress: Callable[[int], None] | None = None) -> Outcome:
        """Look at up to `limit` states. `progress` is told the number of states now and then."""
        outcome = self.outcome
        began = time.perf_counter()
        first = self._first()
        visited = {self._key(first)}
        stack = [(first, self._shuffled(first), Action(0, REST, None))]
        try:
            while stack and len(visited) < limit:
                if not stack[-1][1]:
                    stack.pop()
                    continue
                outcome.transitions += 1
                action, state, turned = stack[-1][1].pop()
                problem = turned.violation or self._judge(state, turned)
                if problem is not None:
                    outcome.violation = self._story([*(s[2] for s in stack[1:]), action], problem)
                    break
                key = self._key(state)
                if key not in visited:
                    visited.add(key)
                    stack.append((state, self._shuffled(state), action))
                    outcome.deepest = max(outcome.deepest, len(stack))
                    if progress is not None and len(visited) % 8192 == 0:
                        progress(len(visited))
        finally:
            outcome.states = len(visited)
            outcome.finished = not stack
            outcome.node_states = sum(map(len, self._blobs))
            outcome.messages = len(self._messages)
            outcome.seconds = time.perf_counter() - began
        return outcome

    def wander(self, walks: int) -> Outcome:
        """Take random walks instead, each from the first state on until nothing can happen:
        finds mistakes sooner than a search that is cut off, and proves nothing."""
        outcome = self.outcome
        began = time.perf_counter()
        first = self._first()
        seen = {self._key(first)}
        for _ in range(walks):
            state = first
            path: list[Action] = []
            while outcome.violation is None and len(path) < LONGEST_WALK:
                if (step := self._any(state)) is None:
                    break
                action, state, turned = step
                path.append(action)
                outcome.transitions += 1
                seen.add(self._key(state))
                problem = turned.violation or self._judge(state, turned)
                if problem is not None:
                    outcome.violation = self._story(path, problem)
            outcome.deepest = max(outcome.deepest, len(path))
        outcome.states = len(seen)
        outcome.seconds = time.perf_counter() - began
        return outcome

    def _any(self, state: State) -> tuple[Action, State, Turned] | None:
        """One random step that changes something; None when there is none."""
        rng = self._rng
        if state.crashes and rng.random() < 0.05:
            replica = rng.randrange(self.scope.replicas)
            messages = [REST, *_bits(state.sent & self._to[replica])]
            if crashes := list(self._crashes(state, replica, rng.choice(messages))):
                return rng.choice(crashes)
        choices = [
            (replica, message, state.elections)
            for replica in range(self.scope.replicas)
            for message in _bits(state.sent & self._to[replica])
        ]
        for number, replica in enumerate(self.scope.elections):
            if state.elections >> number & 1:
                choices.append((replica, SEEK, state.elections & ~(1 << number)))
        rng.shuffle(choices)
        for replica, message, elections in choices:
            turned = self._turn(replica, state.nodes[replica], message)
            if turned.violation or self._changes(state, replica, turned):
                after = self._after(state, replica, turned, elections, state.crashes)
                return Action(replica, message, None), after, turned
        return None

    def _first(self) -> State:
        first = State(
            tuple(self._intern(r, Node(self.scope, r)) for r in range(self.scope.replicas)),
            0,
            (1 << len(self.scope.elections)) - 1,
            self.scope.crashes,
        )
        self._untouched = first.nodes
        return first

    # -- what can happen -------------------------------------------------------------------

    def _shuffled(self, state: State) -> list[tuple[Action, State, Turned]]:
        steps = list(self._successors(state))
        self._rng.shuffle(steps)
        return steps

    def _successors(self, state: State) -> Iterator[tuple[Action, State, Turned]]:
        for replica in range(self.scope.replicas):
            if self._has_twin(state, replica):
                continue
            waiting = state.sent & self._to[replica]
            if state.crashes:
                yield from self._crashes(state, replica, REST)
            for message in _bits(waiting):
                turned = self._turn(replica, state.nodes[replica], message)
                if turned.violation or self._changes(state, replica, turned):
                    after = self._after(state, replica, turned, state.elections, state.crashes)
                    yield Action(replica, message, None), after, turned
                if state.crashes:
                    yield from self._crashes(state, replica, message)
        for number, replica in enumerate(self.scope.elections):
            if state.elections >> number & 1:
                turned = self._turn(replica, state.nodes[replica], SEEK)
                left = state.elections & ~(1 << number)
                if turned.violation or self._changes(state, replica, turned):
                    after = self._after(state, replica, turned, left, state.crashes)
                    yield Action(replica, SEEK, None), after, turned

    def _crashes(
        self, state: State, replica: ReplicaId, message: int
    ) -> Iterator[tuple[Action, State, Turned]]:
        node = state.nodes[replica]
        for writes, turned in enumerate(self._crash(replica, node, message)):
            if turned.node != node or turned.violation:
                after = self._after(state, replica, turned, state.elections, state.crashes - 1)
                yield Action(replica, message, writes), after, turned

    def _changes(self, state: State, replica: ReplicaId, turned: Turned) -> bool:
        return turned.node != state.nodes[replica] or bool(turned.sent & ~state.sent)

    def _after(
        self, state: State, replica: ReplicaId, turned: Turned, elections: int, crashes: int
    ) -> State:
        nodes = (*state.nodes[:replica], turned.node, *state.nodes[replica + 1 :])
        return State(nodes, state.sent | turned.sent, elections, crashes)

    def _has_twin(self, state: State, replica: ReplicaId) -> bool:
        """True when an earlier replica is in the very same situation."""
        if replica in self.scope.elections or state.nodes[replica] != self._untouched[replica]:
            return False
        mine: set[int] | None = None
        for other in range(replica):
            if other in self.scope.elections or state.nodes[other] != self._untouched[other]:
                continue
            mine = self._shapes_of(state.sent & self._to[replica]) if mine is None else mine
            if mine == self._shapes_of(state.sent & self._to[other]):
                return True
        return False

    def _shapes_of(self, messages: int) -> set[int]:
        return {self._shapes[message] for message in _bits(messages)}

    # -- turns of the real code ------------------------------------------------------------

    def _turn(self, replica: ReplicaId, node: int, message: int) -> Turned:
        key = node << 16 | message + 2
        known = self._turned[replica].get(key)
        if known is None:
            known = self._turned[replica][key] = self._run(replica, node, message, None)
        return known

    def _crash(self, replica: ReplicaId, node: int, message: int) -> list[Turned]:
        key = node << 16 | message + 2
        known = self._crashed[replica].get(key)
        if known is None:
            writes = 0
            if message != REST:
                live: Node = pickle.loads(self._blobs[replica][node])
                writes = live.writes_of(self._event(live, message))
                if writes == 0:
                    known = []  # the same as a crash at rest, before the message came
            if known is None:
                known = [self._run(replica, node, message, k) for k in range(writes + 1)]
            self._crashed[replica][key] = known
        return known

    def _run(self, replica: ReplicaId, node: int, message: int, crash: int | None) -> Turned:
        live: Node = pickle.loads(self._blobs[replica][node])
        self.outcome.turns += 1
        promised = live.store.promised
        try:
            if message == REST:
                step = live.restart()
            else:
                step = live.turn(self._event(live, message), crash)
            forgets = self.scope.durability == "epoch" and live.store.recovering
            if live.store.promised < promised and not forgets:
                return Turned(node, 0, (), f"the promise {promised} was taken back")
        except InvariantViolated as error:
            return Turned(node, 0, (), str(error))
        sent = 0
        for envelope in step.messages:
            sent |= 1 << self._message(replica, envelope.to, envelope.message)
        return Turned(self._intern(replica, live), sent, tuple(step.decided), None)

    def _event(self, live: Node, message: int) -> Event:
        return live.seek_votes() if message == SEEK else self._messages[message][1]

    def _intern(self, replica: ReplicaId, node: Node) -> int:
        value = freeze(node)
        known = self._node_ids[replica].get(value)
        if known is None:
            known = self._node_ids[replica][value] = len(self._blobs[replica])
            self._blobs[replica].append(pickle.dumps(node, pickle.HIGHEST_PROTOCOL))
            number = self._accepts_ids.setdefault(node.accepts, len(self._accepts_ids))
            self._accepts[replica].append(number)
        return known

    def _message(self, sender: ReplicaId, to: ReplicaId, message: object) -> int:
        shape = (sender, type(message).__name__, _freeze(message, "", set()))
        known = self._message_ids.get((to, shape))
        if known is None:
            known = self._message_ids[(to, shape)] = len(self._messages)
            text = f"{sender} -> {to}  {message}"
            self._messages.append((to, Received(sender, message), text))  # type: ignore[arg-type]
            self._shapes.append(self._shape_ids.setdefault(shape, len(self._shape_ids)))
            self._to[to] |= 1 << known
        return known

    # -- what must hold ----------------------------------------------------------------------

    def _judge(self, state: State, turned: Turned) -> str | None:
        accepts = tuple(self._accepts[r][node] for r, node in enumerate(state.nodes))
        chosen = self._chosen.get(accepts)
        if chosen is None:
            chosen = self._chosen[accepts] = self._choose(accepts)
        if isinstance(chosen, str):
            return chosen
        for slot, name in turned.decided:
            if chosen.get(slot) != name:
                return f"slot {slot}: decided {name}, while a majority holds {chosen.get(slot)}"
        return None

    def _choose(self, accepts: tuple[int, ...]) -> dict[Slot, Name] | str:
        """Per slot the value that a majority accepted in one ballot, or what is wrong."""
        votes: dict[tuple[Slot, Ballot], list[Name]] = {}
        known = list(self._accepts_ids)
        for of_one in (known[number] for number in accepts):
            for slot, ballot, name in of_one:
                votes.setdefault((slot, ballot), []).append(name)
        chosen: dict[Slot, Name] = {}
        for (slot, ballot), names in votes.items():
            if len(set(names)) > 1:
                return f"slot {slot} has two values in ballot {ballot}: {sorted(set(names))}"
            if len(names) >= self._majority:
                first = chosen.setdefault(slot, names[0])
                if first != names[0]:
                    return f"slot {slot} is chosen twice: {first} and {names[0]}"
        return chosen

    def _key(self, state: State) -> int:
        key = state.sent
        for node in state.nodes:
            key = key << _BITS | node
        return key << 16 | state.elections << 8 | state.crashes

    def _story(self, actions: list[Action], problem: str) -> str:
        lines: list[str] = []
        for replica, message, crash in actions:
            if message == REST:
                what = f"{replica} crashes and recovers"
            elif message == SEEK:
                what = f"{replica} seeks votes"
            else:
                what = self._messages[message][2]
            if crash is not None and message != REST:
                what += f", and {replica} crashes after {crash} of its writes"
            lines.append(f"{len(lines) + 1:4}. {what}")
        return "\n".join([*lines, f"  => {problem}"])


def search(
    scope: Scope,
    limit: int = 1 << 62,
    progress: Callable[[int], None] | None = None,
    *,
    seed: int = 0,
) -> Outcome:
    """Search `scope` up to `limit` states; a broken promise is in the outcome, not raised."""
    return Search(scope, seed).run(limit, progress)
