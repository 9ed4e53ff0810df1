"""The state machine API: declaration, containers, rollback, deterministic errors."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpaxos import BadRequest, Context, StateMachine, command, query
from mpaxos.containers import Dict, Set, Value
from mpaxos.errors import ConfigError, InvariantViolated, StorageCorrupt
from mpaxos.machine.codec import after_prefix, key_codec
from mpaxos.machine.host import MAX_ERROR_TEXT, MachineHost, Running
from mpaxos.machine.inspection import inspect_machine
from tests.unit.fake_replica import FakeBatch, FakeEngine, FakeReplies

OK, FAILED, NOSPACE, BAD = 0, 1, 3, 6


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Unshowable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Zoo(StateMachine):
    numbers: Dict[str, int]
    points: Dict[tuple[str, int], Point]
    names: Set[str]
    total: Value[int]
    LIMIT: ClassVar[int] = 7

    @command
    def put(self, key: str, value: int) -> int | None:
        old = self.numbers.get(key)
        self.numbers[key] = value
        return old

    @command
    def put_then_fail(self, key: str, value: int, how: str) -> None:
        self.numbers[key] = value
        self.numbers.pop("a", None)
        self.names.add(key)
        self.total.set(99)
        errors: dict[str, BaseException] = {
            "value": ValueError(f"bad {key}"),
            "exit": SystemExit(3),
            "memory": MemoryError(),
            "address": KeyError(object()),
            "unshowable": Unshowable(),
            "long": RuntimeError("x" * 100_000),
            "base": BaseException("base"),
            "surrogate": ValueError("\ud800"),
        }
        raise errors[how]

    @command
    def recurse(self) -> int:
        self.names.add("deep")
        return self.recurse() + 1

    @command
    def returns_wrong(self, how: str) -> int:
        self.total.set(1)
        wrong: dict[str, Any] = {"object": object(), "str": "text", "huge": 1 << 70, "fine": 5}
        result: int = wrong[how]
        return result

    @command
    def stamp(self) -> tuple[int, int, int, str, list[float]]:
        c = self.context
        floats = [c.random.random() for _ in range(3)]
        return c.slot, c.index, c.time, c.datetime.isoformat(), floats

    @command
    def remember_all(self, items: dict[str, int]) -> int:
        self.numbers.update(items)
        return len(self.numbers)

    @command
    def run_test(self, name: str) -> None:
        TESTS[name](self)


TESTS: dict[str, Callable[[Zoo], None]] = {}


class Checked(Zoo):
    """Zoo with queries."""

    @query
    def number(self, key: str, default: int = -1) -> int:
        return self.numbers.get(key, default)

    @query
    def meddle(self, key: str) -> None:
        self.numbers[key] = 1


class World:
    """A host with helpers."""

    def __init__(self, machine: type[StateMachine] = Checked, limit: int = 1 << 20) -> None:
        self.engine = FakeEngine()
        self.host = MachineHost(self.engine, machine, limit, make_replies=FakeReplies)
        self.slot = 0

    def batch(self, *requests: bytes, time: int = 0, kind: int = 0) -> list[tuple[int, Any]]:
        self.slot += 1
        entries = FakeBatch([(1, i + 1, 1, kind, request) for i, request in enumerate(requests)])
        done = self.host.query(entries) if kind == 3 else self.host.apply(self.slot, time, entries)
        return [(status, payload) for _, _, status, payload in done.entries()]

    def call(self, *request: object, time: int = 0) -> tuple[int, Any]:
        return decoded(self.batch(msgspec.msgpack.encode(request), time=time)[0])

    def ask(self, *request: object) -> tuple[int, Any]:
        return decoded(self.batch(msgspec.msgpack.encode(request), kind=3)[0])

    def inside(self, test: Callable[[Any], None]) -> None:
        """Run a test function inside a command."""
        TESTS["test"] = test
        try:
            assert self.call("run_test", "test") == (OK, None)
        finally:
            TESTS.clear()

    def state(self) -> dict[str, dict[bytes, bytes]]:
        return dict(zip(self.engine.names, map(dict, self.engine.tables), strict=True))


def decoded(reply: tuple[int, bytes]) -> tuple[int, Any]:
    status, payload = reply
    if status in (OK, FAILED):
        return status, msgspec.msgpack.decode(payload)
    return status, payload.decode()


# ------------------------------------------------------------------ running commands


def test_commands_and_queries() -> None:
    world = World()
    assert world.call("put", "a", 5) == (OK, None)
    assert world.call("put", "a", 6) == (OK, 5)
    assert world.ask("number", "a", 0) == (OK, 6)
    assert world.ask("number", "b", 7) == (OK, 7)
    assert world.host.running is None


@pytest.mark.parametrize(
    "how, kind, text",
    [
        ("value", "ValueError", "bad k"),
        ("exit", "SystemExit", "3"),
        ("memory", "MemoryError", "out of memory"),
        ("address", "KeyError", "<object object>"),
        ("unshowable", "Unshowable", "(its text cannot be shown)"),
        ("base", "BaseException", "base"),
        ("surrogate", "ValueError", "\\ud800"),
    ],
)
def test_a_raising_command_rolls_back_alone(how: str, kind: str, text: str) -> None:
    world = World()
    encode = msgspec.msgpack.encode
    world.call("put", "a", 1)
    replies = world.batch(
        encode(["put", "b", 2]),
        encode(["put_then_fail", "k", 3, how]),
        encode(["put", "c", 4]),
        encode(["remember_all", {}]),
    )
    assert [status for status, _ in replies] == [OK, FAILED, OK, OK]
    assert decoded(replies[1])[1] == [kind, text]
    assert decoded(replies[3])[1] == 3
    state = world.state()
    assert sorted(state["numbers"]) == [b"a", b"b", b"c"]
    assert state["names"] == {} and state["total"] == {}


def test_keyboard_interrupt_is_not_an_answer() -> None:
    def interrupt(_: Zoo) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        World().inside(interrupt)


def test_long_error_texts_are_cut() -> None:
    _, (_, text) = World().call("put_then_fail", "k", 1, "long")
    assert len(text) == MAX_ERROR_TEXT and text.endswith("...")


def test_recursion_is_an_error_of_the_command() -> None:
    world = World()
    assert world.call("recurse") == (
        FAILED,
        ["RecursionError", "maximum recursion depth exceeded"],
    )
    assert world.state()["names"] == {}
    assert world.call("put", "a", 1) == (OK, None)


@pytest.mark.parametrize(
    "how, text",
    [
        ("object", "returns_wrong returned a object that cannot be encoded: Encoding objects of"),
        ("str", "returns_wrong returned a str that cannot be encoded: a str where int is due"),
        ("huge", "returns_wrong returned a int that cannot be encoded: OverflowError"),
    ],
)
def test_results_that_cannot_be_encoded(how: str, text: str) -> None:
    world = World()
    status, (kind, message) = world.call("returns_wrong", how)
    assert (status, kind) == (FAILED, "TypeError")
    assert message.startswith(text) and "0x" not in message
    assert world.state()["total"] == {}
    assert world.call("returns_wrong", "fine") == (OK, 5)


@pytest.mark.parametrize(
    "request_, status, text",
    [
        (["put", "a", "1"], FAILED, "Checked.put: Expected `int`, got `str` - at `value`"),
        (["put", "a"], FAILED, "Checked.put takes 2 arguments, not 1"),
        (["put", "a", 1, 2], FAILED, "Checked.put takes 2 arguments, not 3"),
        (["number", "a", 1], BAD, "Checked.number is a query, not a command"),
        (["fly"], BAD, "Checked has no such method; it has put, "),
        ([["put"]], BAD, "Checked has no such method; it has put, "),
        ([], BAD, "the request is not an array of method and arguments"),
        (5, BAD, "the request is not an array of method and arguments"),
    ],
)
def test_malformed_requests(request_: object, status: int, text: str) -> None:
    world = World()
    [reply] = world.batch(msgspec.msgpack.encode(request_))
    got, payload = decoded(reply)
    assert got == status
    assert (payload[1] if status == FAILED else payload).startswith(text)


@given(st.binary(max_size=60))
def test_garbage_is_answered(request_: bytes) -> None:
    [(status, _)] = World().batch(request_)
    assert status in (OK, FAILED, BAD)


def test_queries_cannot_write() -> None:
    world = World()
    status, (kind, text) = world.ask("meddle", "a")
    assert (status, kind) == (FAILED, "ReadOnly")
    assert text == "numbers cannot be changed in a query: use a @command"
    assert world.ask("put", "a", 1)[0] == BAD
    assert world.state()["numbers"] == {}


def test_nospace_only_when_growing() -> None:
    world = World(limit=64 + 1 + 1)
    assert world.call("put", "a", 1) == (OK, None)
    status, text = world.call("put", "b", 1)
    assert status == NOSPACE and text == "the state may have 66 bytes and would have 132"
    assert world.call("put", "a", 2) == (OK, 1)  # the same size
    assert world.call("put", "a", 1000)[0] == NOSPACE  # two bytes more
    assert world.ask("number", "a", 0) == (OK, 2)

    # Within one slot the growth of earlier commands counts, and what they freed.
    def clear(zoo: Zoo) -> None:
        zoo.numbers.clear()

    TESTS["clear"] = clear
    encode = msgspec.msgpack.encode
    replies = world.batch(
        encode(["put", "b", 1]), encode(["run_test", "clear"]), encode(["put", "b", 1])
    )
    TESTS.clear()
    assert [status for status, _ in replies] == [NOSPACE, OK, OK]
    assert world.state()["numbers"] == {b"b": b"\x01"}


def test_above_the_limit_everything_that_does_not_grow_goes_on() -> None:
    world = World(limit=10)
    world.engine.tables[0].update({b"a": b"\x01", b"b": b"\x02"})
    assert world.call("put", "a", 3) == (OK, 1)
    assert world.call("put", "c", 3)[0] == NOSPACE
    world.inside(lambda zoo: zoo.numbers.clear())
    assert world.state()["numbers"] == {}


def test_broken_storage_stops_the_replica_even_if_swallowed() -> None:
    def swallow(zoo: Zoo) -> None:
        try:
            zoo.numbers.get("a")
        except Exception:
            zoo.total.clear()

    world = World()
    world.engine.broken = StorageCorrupt("block 7")
    with pytest.raises(StorageCorrupt):
        world.inside(swallow)
    with pytest.raises(InvariantViolated):
        world.call("put", "a", 1)


def test_running_tells_what_runs() -> None:
    world = World()
    seen: list[Running | None] = []
    world.inside(lambda zoo: seen.append(world.host.running))
    assert seen[0] is not None
    assert (seen[0].slot, seen[0].command) == (1, "run_test")


def test_context_is_the_same_on_every_replica() -> None:
    time = 1_700_000_000_123_456_789
    replies = [World().call("stamp", time=time) for _ in range(2)]
    assert replies[0] == replies[1]
    status, (slot, index, stamp, text, floats) = replies[0]
    assert (status, slot, index, stamp) == (OK, 1, 0, time)
    assert datetime.fromisoformat(text) == datetime(2023, 11, 14, 22, 13, 20, 123456, UTC)
    world = World()
    world.call("put", "a", 1)
    again = world.call("stamp", time=time)[1][4]
    assert again != floats  # another slot
    assert floats == [random.Random(1 << 32).random(), *floats[1:]]


def test_bytes_machines() -> None:
    class Reverse(StateMachine):
        last: Value[bytes]

        def execute(self, request: bytes, context: Context) -> bytes:
            assert self.context is context
            self.last.set(request)
            if request == b"bad":
                raise BadRequest("not this")
            wrong: Any = "text"
            return wrong if request == b"wrong" else request[::-1]

    world = World(Reverse)
    assert world.batch(b"abc", b"bad", b"wrong") == [
        (OK, b"cba"),
        (BAD, b"not this"),
        (FAILED, msgspec.msgpack.encode(["TypeError", "execute must return bytes, not str"])),
    ]
    assert world.state() == {"last": {b"": b"abc"}}
    assert world.batch(b"q", kind=3) == [(BAD, b"Reverse answers no queries: send it as a command")]
    assert "execute bytes" in world.host.schema()


def test_instances_have_no_other_attributes() -> None:
    def assign(zoo: Any) -> None:
        with pytest.raises(AttributeError, match=r"only containers are replicated"):
            zoo.cache = 1
        with pytest.raises(AttributeError, match=r"only containers are replicated"):
            zoo.numbers = {}

    World().inside(assign)


# ------------------------------------------------------------------ containers


def test_dict_behaves_like_a_dict() -> None:
    def use(zoo: Zoo) -> None:
        d = zoo.numbers
        d["b"], d["a"], d["ab"] = 2, 1, 3
        assert list(d) == ["a", "ab", "b"] and list(d.values()) == [1, 3, 2]
        assert list(d.items()) == [("a", 1), ("ab", 3), ("b", 2)]
        assert dict(d) == {"a": 1, "ab": 3, "b": 2} and d == {"a": 1, "ab": 3, "b": 2}
        assert ("a", 1) in d.items() and len(d) == 3 and "c" not in d
        assert list(d.prefix("a")) == [("a", 1), ("ab", 3)]
        assert list(d.range("ab")) == [("ab", 3), ("b", 2)]
        assert list(d.range(None, "b")) == [("a", 1), ("ab", 3)]
        assert d.pop("ab") == 3 and d.pop("ab", 0) == 0 and d.setdefault("z", 9) == 9
        assert d.popitem() == ("a", 1)
        for wrong in (lambda: d[1], lambda: 1 in d, lambda: d.get(1)):  # type: ignore
            with pytest.raises(TypeError, match="keys of this container are str, not int"):
                wrong()
        with pytest.raises(KeyError):
            d["missing"]
        with pytest.raises(KeyError):
            del d["missing"]
        with pytest.raises(TypeError, match="a str where int is due"):
            d["a"] = "text"  # type: ignore[assignment]
        d.clear()
        assert len(d) == 0 and not d
        with pytest.raises(KeyError):
            d.popitem()

    World().inside(use)


def test_values_are_fresh_objects() -> None:
    def use(zoo: Zoo) -> None:
        zoo.points["a", 1] = Point(1)
        zoo.points["a", 1].x = 5
        assert zoo.points["a", 1] == Point(1)
        zoo.points["b", -1] = zoo.points["a", -2] = Point(2)
        assert list(zoo.points) == [("a", -2), ("a", 1), ("b", -1)]
        assert [key for key, _ in zoo.points.prefix(("a",))] == [("a", -2), ("a", 1)]

    World().inside(use)


def test_set_and_value() -> None:
    def use(zoo: Zoo) -> None:
        names = zoo.names
        names.add("b")
        names.add("a")
        names.add("a")
        assert list(names) == ["a", "b"] and len(names) == 2 and "a" in names
        assert names & {"a"} == {"a"} and names | {"c"} == {"a", "b", "c"}
        names.discard("x")
        names.remove("a")
        assert list(names) == ["b"]
        names.clear()
        assert not names
        assert zoo.total.get() is None and zoo.total.get(4) == 4
        zoo.total.set(3)
        assert zoo.total.get() == 3
        zoo.total.clear()
        assert zoo.total.get() is None

    World().inside(use)


def test_what_came_and_went_is_not_seen() -> None:
    world = World()
    world.call("remember_all", {"a": 1, "c": 3})

    def use(zoo: Zoo) -> None:
        for key in ("0", "b", "d"):
            zoo.numbers[key] = 9
        del zoo.numbers["0"], zoo.numbers["b"], zoo.numbers["d"], zoo.numbers["c"]
        assert list(zoo.numbers.items()) == [("a", 1)] and len(zoo.numbers) == 1

    world.inside(use)
    assert world.state()["numbers"] == {b"a": b"\x01"}


def test_changing_keys_during_iteration_is_noticed() -> None:
    def use(zoo: Zoo) -> None:
        d = zoo.numbers
        d.update({f"{i:03}": i for i in range(100)})
        for key in d:
            d[key] += 1
        for key, value in d.items():
            assert value == int(key) + 1
            d["099"] = 5
            break
        with pytest.raises(RuntimeError, match="numbers changed during iteration"):
            for key in d:
                del d[key]
        seen = []
        for value in d.values():
            d["050"] = -1
            seen.append(value)
        assert seen.count(-1) == 1

    World().inside(use)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "delete", "list", "len", "range", "fail", "slot"]),
        st.integers(0, 40),
        st.integers(0, 300),
    ),
    max_size=60,
)


@given(OPERATIONS)
def test_overlays_agree_with_a_plain_dict(operations: list[tuple[str, int, int]]) -> None:
    """Random commands over several slots, some raising, against a dict."""
    world = World()
    model = {f"{i:02}": i for i in range(0, 40, 2)}
    world.call("remember_all", model)
    commands: list[bytes] = []
    checks: list[Callable[[Zoo], None]] = []

    def check(zoo: Zoo) -> None:
        checks.pop(0)(zoo)

    def expect(kind: str, low: str, high: str) -> None:
        now = dict(sorted(model.items()))

        def compare(zoo: Zoo) -> None:
            if kind == "len":
                assert len(zoo.numbers) == len(now)
            elif kind == "list":
                assert list(zoo.numbers.items()) == list(now.items())
            else:
                inside = [(k, v) for k, v in now.items() if low <= k < high]
                assert list(zoo.numbers.range(low, high)) == inside

        checks.append(compare)
        commands.append(msgspec.msgpack.encode(["run_test", "check"]))

    def flush() -> None:
        statuses = world.batch(*commands)
        for request, (status, payload) in zip(commands, statuses, strict=True):
            expected = FAILED if b"put_then_fail" in request else OK
            assert status == expected, payload
        commands.clear()

    TESTS["check"] = check
    for kind, number, value in operations:
        key = f"{number:02}"
        if kind == "put":
            model[key] = value
            commands.append(msgspec.msgpack.encode(["put", key, value]))
        elif kind == "delete":
            model.pop(key, None)
            checks.append(lambda zoo, key=key: zoo.numbers.pop(key, None))  # type: ignore[misc]
            commands.append(msgspec.msgpack.encode(["run_test", "check"]))
        elif kind == "fail":
            commands.append(msgspec.msgpack.encode(["put_then_fail", key, value, "value"]))
        elif kind == "slot":
            flush()
        else:
            expect(kind, key, f"{number + value % 20:02}")
    flush()
    TESTS.clear()
    stored = {k.decode(): msgspec.msgpack.decode(v) for k, v in world.state()["numbers"].items()}
    assert stored == model


# ------------------------------------------------------------------ keys


KEYS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, st.text()),
    (bytes, st.binary()),
    (int, st.integers(-(1 << 63), (1 << 63) - 1)),
    (bool, st.booleans()),
    (tuple[bytes, int], st.tuples(st.binary(max_size=3), st.integers(-300, 300))),
    (tuple[str, bytes], st.tuples(st.text("\0\1\xff", max_size=4), st.binary(max_size=3))),
    (
        tuple[tuple[bytes, bool], bytes],
        st.tuples(st.tuples(st.binary(max_size=2), st.booleans()), st.binary(max_size=2)),
    ),
]


@pytest.mark.parametrize("hint, keys", KEYS)
def test_keys_keep_their_order(hint: Any, keys: st.SearchStrategy[Any]) -> None:
    codec = key_codec(hint)

    @given(keys, keys)
    def compare(left: Any, right: Any) -> None:
        first, second = codec.encode(left), codec.encode(right)
        assert codec.decode(first) == left
        assert (first < second) == (left < right) and (first == second) == (left == right)

    compare()


def test_key_errors_and_prefixes() -> None:
    with pytest.raises(OverflowError, match="at most 64 bit"):
        key_codec(int).encode(1 << 63)
    with pytest.raises(TypeError, match="are tuple\\[str, int\\], not tuple"):
        key_codec(tuple[str, int]).encode(("a",))
    for hint in (float, list[int], tuple[str, ...], tuple[float, int], None):
        with pytest.raises(ConfigError, match="cannot be a key"):
            key_codec(hint)
    assert after_prefix(b"a") == b"b" and after_prefix(b"a\xff\xff") == b"b"
    assert after_prefix(b"\xff") is None and after_prefix(b"") is None


# ------------------------------------------------------------------ declarations


def declared(**members: Any) -> type[StateMachine]:
    annotations = {k[2:]: members.pop(k) for k in list(members) if k.startswith("a_")}
    return type("Broken", (StateMachine,), {**members, "__annotations__": annotations})


@command
def good(self: Any) -> None: ...


def unannotated(self: Any, x) -> None: ...  # type: ignore[no-untyped-def]
def no_result(self: Any): ...  # type: ignore[no-untyped-def]
def starred(self: Any, *args: int) -> None: ...
def keyword(self: Any, *, x: int) -> None: ...
def custom(self: Any, x: Zoo) -> None: ...
def result_custom(self: Any) -> list[object]: ...  # type: ignore[empty-body]
def bad_default(self: Any, x: int = "a") -> None: ...  # type: ignore[assignment]
def unknown_name(self: Any, x: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037
def no_self() -> None: ...
async def waiting(self: Any) -> None: ...
def yielding(self: Any) -> Any:
    yield 1


@pytest.mark.parametrize(
    "members, text",
    [
        ({}, "Broken has no @command"),
        ({"f": query(lambda self: None)}, "Broken.f: annotate what it returns"),
        ({"f": command(unannotated)}, "Broken.f: annotate the type of parameter x"),
        ({"f": command(no_result)}, "Broken.f: annotate what it returns"),
        ({"f": command(starred)}, "Broken.f: parameter args is not positional"),
        ({"f": command(keyword)}, "Broken.f: parameter x is not positional"),
        ({"f": command(custom)}, "Broken.f: parameter x: Zoo cannot be encoded"),
        ({"f": command(result_custom)}, "Broken.f: what it returns: object cannot be encoded"),
        ({"f": command(bad_default)}, "Broken.f: the default of parameter x"),
        ({"f": command(unknown_name)}, "Broken.f: an annotation cannot be resolved"),
        ({"f": command(no_self)}, "Broken.f: its first parameter must be `self`"),
        ({"f": command(waiting)}, "Broken.f is async"),
        ({"f": command(yielding)}, "Broken.f is a generator"),
        ({"f": staticmethod(good)}, "Broken.f: @command belongs on a plain method"),
        ({"_f": good}, "Broken._f: a command cannot have this name"),
        ({"submit": good}, "Broken.submit: a command cannot have this name"),
        ({"f": good, "execute": lambda *a: b""}, "overrides execute\\(\\) and has @command f"),
        ({"f": good, "read": lambda *a: b""}, "overrides read\\(\\) without execute\\(\\)"),
        ({"f": good, "__init__": lambda self: None}, "Broken.__init__: a state machine has no"),
        ({"f": good, "a_x": int}, "Broken.x is no container"),
        ({"f": good, "a_x": dict[str, int]}, "Broken.x is no container"),
        ({"f": good, "a_x": Dict}, "Broken.x: say what is in it"),
        ({"f": good, "a_x": Dict[float, int]}, "Broken.x: float cannot be a key"),
        ({"f": good, "a_x": Dict[str, Zoo]}, "Broken.x: Zoo cannot be encoded"),
        ({"f": good, "a_x": Value[int], "x": 5}, "Broken.x is a container and has a value"),
        ({"f": good, "a_client": Value[int]}, "Broken.client: this name is taken"),
        ({"f": good, "a_x": "Nowhere"}, "Broken: an annotation cannot be resolved"),
        ({"f": good, "a_" + "x" * 64: Value[int]}, "at most 63 bytes"),
        ({"f": good} | {f"a_c{i}": Value[int] for i in range(65)}, "65 containers; 64 fit"),
    ],
)
def test_errors_in_classes_are_told(members: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        inspect_machine(declared(**members))


def test_more_errors_in_classes() -> None:
    for wrong in (5, int, StateMachine):
        with pytest.raises(ConfigError):
            inspect_machine(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="has @command and @query"):
        command(query(lambda self: None))
    with pytest.raises(ConfigError, match="plain method"):
        command(5)  # type: ignore[type-var]
    replaced = type("Sub", (Checked,), {"put": lambda self: None})
    with pytest.raises(ConfigError, match=r"Sub\.put replaces a @command"):
        inspect_machine(replaced)


def test_schema_is_stable() -> None:
    text = World().host.schema()
    lines = text.splitlines()
    assert lines[:5] == [
        "machine Checked",
        "container numbers: Dict[str, int]",
        "container points: Dict[tuple[str, int], Point]",
        "container names: Set[str]",
        "container total: Value[int]",
    ]
    assert "query number(key: str, default: int) -> int" in lines
    assert "command put(key: str, value: int) -> Union[int, None]" in lines or (
        "command put(key: str, value: int) -> UnionType[int, None]" in lines
    )


def test_sets_are_encoded_alike_in_every_process() -> None:
    program = (
        "from mpaxos.machine.codec import packed_codec\n"
        "print(packed_codec(set[str]).encode({str(i) for i in range(50)}).hex())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1
