"""The checker: histories that are known to be good or bad, and a comparison with brute force."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpaxos.sim.linearizability import KeyValueModel, Operation, check
from mpaxos.sim.timeline import timeline

X = "x"


def op(who: str, action: tuple[Any, ...], result: Any, invoked: int, returned: int | None) -> Any:
    kind, *rest = action
    return Operation(who, (kind, X, *rest), result, invoked, returned)


def ok(*history: Operation) -> bool:
    return check(history, KeyValueModel(), key=lambda o: o.action[1]).ok


GOOD = {
    "one after the other": [op("a", ("put", 1), None, 0, 1), op("b", ("get",), 1, 2, 3)],
    "a read beside a write sees the old value": [
        op("a", ("put", 1), None, 0, 10),
        op("b", ("get",), None, 1, 2),
    ],
    "a read beside a write sees the new value": [
        op("a", ("put", 1), None, 0, 10),
        op("b", ("get",), 1, 1, 2),
    ],
    "a pending write was seen": [
        op("a", ("put", 1), None, 0, None),
        op("b", ("get",), 1, 50, 51),
    ],
    "a pending write was not seen yet, then seen": [
        op("a", ("put", 1), None, 0, None),
        op("b", ("get",), None, 50, 51),
        op("b", ("get",), 1, 60, 61),
    ],
    "a pending write never happened": [
        op("a", ("put", 1), None, 0, None),
        op("b", ("get",), None, 50, 51),
    ],
    "swap and delete": [
        op("a", ("cas", None, 1), True, 0, 1),
        op("b", ("cas", None, 2), False, 2, 3),
        op("b", ("delete",), True, 4, 5),
        op("b", ("delete",), False, 6, 7),
    ],
}

BAD = {
    "a stale read": [
        op("a", ("put", 1), None, 0, 1),
        op("a", ("put", 2), None, 2, 3),
        op("b", ("get",), 1, 4, 5),
    ],
    "a read from the future": [op("b", ("get",), 1, 0, 1), op("a", ("put", 1), None, 2, 3)],
    "a lost update": [op("a", ("put", 1), None, 0, 1), op("b", ("get",), None, 2, 3)],
    "two swaps of the same value": [
        op("a", ("cas", None, 1), True, 0, 10),
        op("b", ("cas", None, 2), True, 0, 10),
    ],
    "a write applied twice": [
        op("a", ("put", 1), None, 0, 1),
        op("b", ("put", 2), None, 2, 3),
        op("c", ("get",), 2, 4, 5),
        op("c", ("get",), 1, 6, 7),
    ],
    "a pending write seen and unseen": [
        op("a", ("put", 1), None, 0, None),
        op("b", ("get",), 1, 10, 11),
        op("b", ("get",), None, 12, 13),
    ],
    "two readers that disagree on the order": [
        op("a", ("put", 1), None, 0, 100),
        op("b", ("put", 2), None, 0, 100),
        op("c", ("get",), 1, 10, 11),
        op("c", ("get",), 2, 12, 13),
        op("d", ("get",), 2, 10, 11),
        op("d", ("get",), 1, 14, 15),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str) -> None:
    assert ok(*GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_bad(name: str) -> None:
    verdict = check(BAD[name], KeyValueModel(), key=lambda o: o.action[1])
    assert not verdict.ok and "'x'" in verdict.text
    assert "<svg" in timeline(verdict)


def brute_force(history: list[Operation]) -> bool:
    """Every order of every choice of the pending operations."""
    done = [o for o in history if o.returned is not None]
    pending = [o for o in history if o.returned is None]
    for count in range(len(pending) + 1):
        for chosen in itertools.combinations(pending, count):
            if any(fits(order) for order in itertools.permutations([*done, *chosen])):
                return True
    return False


def fits(order: tuple[Operation, ...]) -> bool:
    model = KeyValueModel()
    state = model.initial()
    for position, operation in enumerate(order):
        if any(o.returned is not None and o.returned < operation.invoked for o in order[position:]):
            return False
        state, result = model.step(state, operation.action)
        if operation.returned is not None and result != operation.result:
            return False
    return True


ACTIONS = st.sampled_from(
    [("get",), ("put", 1), ("put", 2), ("delete",), ("cas", None, 1), ("cas", 1, 2)]
)
OPERATIONS = st.builds(
    lambda action, result, invoked, length: op(
        f"p{invoked}", action, result, invoked, None if length == 0 else invoked + length
    ),
    ACTIONS,
    st.sampled_from([None, 1, 2, True, False]),
    st.integers(0, 12),
    st.integers(0, 6),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(OPERATIONS, max_size=5))
def test_the_checker_agrees_with_brute_force(history: list[Operation]) -> None:
    assert ok(*history) == brute_force(history)


def true_history(seed: int, count: int, keys: int, clients: int) -> list[Operation]:
    """What clients of a real register would see: each operation happens at one moment."""
    rng = random.Random(seed)
    model = KeyValueModel()
    states: dict[str, Any] = {}
    free = [0] * clients
    pending = []
    for number in range(count):
        client = rng.randrange(clients)
        invoked = free[client] + rng.randrange(5)
        moment = invoked + rng.randrange(1, 30)
        free[client] = moment + rng.randrange(1, 30)
        key = f"k{rng.randrange(keys)}"
        kind = rng.choice(["get", "put", "cas", "delete"])
        action = {
            "get": ("get", key),
            "put": ("put", key, number),
            "cas": ("cas", key, rng.choice([None, number - 1, number - 2]), number),
            "delete": ("delete", key),
        }[kind]
        pending.append((moment, rng.random(), client, action, invoked, free[client]))
    history = []
    for _, _, client, action, invoked, returned in sorted(pending, key=lambda p: p[:2]):
        name = str(action[1])
        states[name], result = model.step(states.get(name), action)
        lost = rng.random() < 0.03
        history.append(Operation(f"c{client}", action, result, invoked, None if lost else returned))
    return history


def test_a_long_true_history_is_judged_fast_and_one_wrong_answer_is_found() -> None:
    history = true_history(1, 10_000, 10, 10)
    key = lambda o: o.action[1]  # noqa: E731
    verdict = check(history, KeyValueModel(), key=key)
    assert verdict.ok, verdict.text
    assert verdict.operations == 10_000 <= verdict.configurations
    rng = random.Random(2)
    reads = [i for i, o in enumerate(history) if o.action[0] == "get" and o.returned and o.result]
    for index in rng.sample(reads, 8):
        old = history[index]
        history[index] = Operation(
            old.process, old.action, "never written", old.invoked, old.returned
        )
        assert not check(history, KeyValueModel(), key=key, timeout=3).ok
        history[index] = old


def test_thinking_too_long_is_a_failure() -> None:
    history = [op(f"p{n}", ("put", n), None, 0, 1000) for n in range(24)]
    history.append(op("r", ("get",), "never written", 500, 600))
    verdict = check(history, KeyValueModel(), timeout=0.2)
    assert not verdict.ok and "not decided within 0.2 s" in verdict.text
