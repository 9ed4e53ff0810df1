"""Is a history of operations linearizable? A checker for any state machine, its own included.

An operation takes effect at one moment between its invocation and its response. A history is
linearizable when such moments can be chosen so that every response is what the machine, run
alone and in that order, would have answered (Herlihy and Wing, 1990). An operation without a
response may have taken effect at any time after its invocation, or never.

    history = [Operation("ann", ("put", "x", 1), None, 10, 20), ...]
    verdict = check(history, KeyValueModel(), key=lambda operation: operation.action[1])
    assert verdict.ok, verdict.text

The search is that of Wing and Gong ("Testing and Verifying Concurrent Objects", JPDC 1993) with the
memory of configurations of Lowe ("Testing for linearizability", 2017): a set of linearized
operations together with a state is never tried twice. Operations without an answer are only used
where they are needed, and of two configurations that differ in these alone, the one that has used
fewer is enough. Histories of independent keys are judged key by key (locality, Herlihy and Wing,
theorem 1).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import msgspec

State = Hashable


class Operation(msgspec.Struct, frozen=True, array_like=True):
    """One call of one client. Times are of one clock, in any unit."""

    process: str
    """Who called; a process calls one after the other, or its operations may overlap."""
    action: Any
    """What was asked, as the model understands it."""
    result: Any
    """What was answered; meaningless while `returned` is None."""
    invoked: int
    returned: int | None
    """None: no answer ever came, it may have happened or not."""


class Model(Protocol):
    """What a state machine does, as a function."""

    def initial(self) -> State:
        """The state before the first operation."""

    def step(self, state: State, action: Any) -> tuple[State, Any]:
        """The state after `action`, and its result."""


class KeyValueModel:
    """One key of mpaxos.services.kv: ("get", key), ("put", key, value), ("delete", key) and
    ("cas", key, expected, new), with the results of that service's client."""

    def initial(self) -> State:
        return None

    def step(self, state: State, action: Any) -> tuple[State, Any]:
        kind = action[0]
        if kind == "get":
            return state, state
        if kind == "put":
            return action[2], None
        if kind == "delete":
            return None, state is not None
        if kind == "cas":
            return (action[3], True) if state == action[2] else (state, False)
        raise ValueError(f"an unknown action {action!r}")


class Verdict(msgspec.Struct):
    """The answer of `check`."""

    ok: bool
    text: str
    """Why not, in words."""
    operations: int
    configurations: int
    """Sets of linearized operations with a state that were looked at."""
    seconds: float
    key: Any = None
    """The key whose operations cannot be ordered."""
    part: list[Operation] = []
    """Its operations, by invocation."""
    ordered: list[int] = []
    """The longest order found, as indices of `part`."""
    stuck: int | None = None
    """Index in `part` of the operation whose response fits nowhere after that."""


def check(
    history: Iterable[Operation],
    model: Model,
    *,
    key: Callable[[Operation], Hashable] | None = None,
    timeout: float = 60.0,
) -> Verdict:
    """Judge a history. `key` splits it into independent parts. More than `timeout` seconds of
    thinking about one part count as a failure: what is not known to be right is not right."""
    began = time.perf_counter()
    parts: dict[Hashable, list[Operation]] = {}
    for operation in history:
        parts.setdefault(key(operation) if key else None, []).append(operation)
    total = Verdict(True, "", sum(map(len, parts.values())), 0, 0.0)
    for name, part in parts.items():
        part.sort(key=lambda operation: operation.invoked)
        verdict = _check_part(part, model, timeout)
        total.configurations += verdict.configurations
        if not verdict.ok:
            total.ok, total.text = False, f"key {name!r}: {verdict.text}" if key else verdict.text
            total.key, total.part = name, part
            total.ordered, total.stuck = verdict.ordered, verdict.stuck
            break
    total.seconds = time.perf_counter() - began
    return total


def _check_part(part: list[Operation], model: Model, timeout: float) -> Verdict:
    search = _Search(part, model)
    deadline = time.perf_counter() + timeout
    stack = [_Frame(search.moves(0, model.initial()), None)]
    best: list[int] = []
    stuck: int | None = None
    while search.open:
        move = next(stack[-1].moves, None)
        if move is None:
            if len(stack) > len(best) or stuck is None:
                best = [frame.node.index for frame in stack if frame.node is not None]
                stuck = search.first_response()
            frame = stack.pop()
            if frame.node is None:
                text = f"no order explains the result of {part[stuck]}"
                return Verdict(
                    False, text, len(part), search.configurations, 0, ordered=best, stuck=stuck
                )
            search.put_back(frame.node)
            continue
        node, pending, state = move
        if search.is_new(node, pending, state):
            search.take(node)
            stack.append(_Frame(search.moves(pending, state), node))
        if search.configurations % 256 == 0 and time.perf_counter() > deadline:
            text = f"not decided within {timeout:g} s"
            return Verdict(False, text, len(part), search.configurations, 0, ordered=best)
    return Verdict(True, "", len(part), search.configurations, 0)


class _Node:
    """An invocation or a response in the list of what is not linearized yet."""

    __slots__ = ("before", "index", "next", "response")

    def __init__(self, index: int) -> None:
        self.index = index
        self.response: _Node | None = None
        """Of an invocation: the other end."""
        self.before: _Node | None = None
        self.next: _Node | None = None


Move = tuple[_Node, int, State]
"""An answered operation that can come next, the unanswered ones that happened by then (a bit
set), and the state afterwards."""


class _Frame(NamedTuple):
    moves: Iterator[Move]
    node: _Node | None
    """What was linearized to come here."""


class _Search:
    """The answered operations of one part as a list by time; the unanswered ones beside it."""

    def __init__(self, part: list[Operation], model: Model) -> None:
        self.open = 0
        """Answered operations that are not linearized."""
        self.configurations = 0
        self._part = part
        self._model = model
        self._done = 0
        self._seen: dict[tuple[int, State], list[int]] = {}
        self._pending = [i for i, operation in enumerate(part) if operation.returned is None]
        self._head = self._link()

    def _link(self) -> _Node:
        events: list[tuple[int, int, _Node]] = []
        for index, operation in enumerate(self._part):
            if operation.returned is None:
                continue
            self.open += 1
            call = _Node(index)
            call.response = _Node(index)
            events.append((operation.invoked, 0, call))
            events.append((operation.returned, 1, call.response))
        # At equal times invocations come first: the operations overlap, which allows more.
        events.sort(key=lambda event: event[:2])
        head = last = _Node(-1)
        for _, _, node in events:
            last.next, node.before = node, last
            last = node
        return head

    def moves(self, pending: int, state: State) -> Iterator[Move]:
        """What can come next: answered operations as they are, then those that fit after some
        unanswered ones have happened, as few as possible."""
        candidates: list[_Node] = []
        node = self._head.next
        while node is not None and node.response is not None:
            candidates.append(node)
            node = node.next
        if node is None:
            return
        step = self._model.step
        for call in candidates:
            operation = self._part[call.index]
            after, result = step(state, operation.action)
            if result == operation.result:
                yield call, pending, after
        until = self._part[node.index].returned
        for also, reached in self._closure(pending, state, until or 0):
            for call in candidates:
                operation = self._part[call.index]
                after, result = step(reached, operation.action)
                if result == operation.result:
                    yield call, also, after

    def _closure(self, pending: int, state: State, until: int) -> Iterator[tuple[int, State]]:
        """States that unanswered operations invoked up to `until` lead to, fewest first. A state
        that was reached with a part of them is not reached again with more: those that are left
        over can only help later on."""
        reached: dict[State, list[int]] = {state: [pending]}
        frontier = deque([(pending, state)])
        while frontier:
            before, start = frontier.popleft()
            for number, index in enumerate(self._pending):
                operation = self._part[index]
                if before >> number & 1 or operation.invoked > until:
                    continue
                after, _ = self._model.step(start, operation.action)
                also = before | 1 << number
                known = reached.setdefault(after, [])
                if any(other & ~also == 0 for other in known):
                    continue
                known.append(also)
                frontier.append((also, after))
                yield also, after

    def is_new(self, node: _Node, pending: int, state: State) -> bool:
        """False when this configuration, or one with more left to come, was tried before."""
        known = self._seen.setdefault((self._done | 1 << node.index, state), [])
        if any(other & ~pending == 0 for other in known):
            return False
        known.append(pending)
        self.configurations += 1
        return True

    def first_response(self) -> int:
        """The operation that has to be linearized before any later one can be invoked."""
        node = self._head.next
        while node is not None and node.response is not None:
            node = node.next
        return -1 if node is None else node.index

    def take(self, node: _Node) -> None:
        """Linearize an operation."""
        self._done |= 1 << node.index
        self.open -= 1
        for end in (node, node.response):
            if end is not None and end.before is not None:
                end.before.next = end.next
                if end.next is not None:
                    end.next.before = end.before

    def put_back(self, node: _Node) -> None:
        """Undo the last take()."""
        self._done &= ~(1 << node.index)
        self.open += 1
        for end in (node.response, node):
            if end is not None and end.before is not None:
                end.before.next = end
                if end.next is not None:
                    end.next.before = end
