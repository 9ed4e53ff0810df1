"""Containers and methods over the engine in a pool: what is native, against plain Python."""

from __future__ import annotations

import enum
import gc
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpaxos import StateMachine, _native, command, query
from mpaxos._native import Batch, Engine, Items, Overlay, Pool
from mpaxos.containers import Dict, Set, Value
from mpaxos.errors import InvariantViolated, ReadOnly, StorageCorrupt
from mpaxos.machine.codec import key_codec, stored_codec
from mpaxos.machine.host import MachineHost
from tests.unit import pools

OK, FAILED, NOSPACE = 0, 1, 3
LIMIT = 1 << 20

TESTS: dict[str, Callable[[Any], None]] = {}


class Color(enum.IntEnum):
    RED = 1


class Text(str):
    """A key that is a str, but not exactly."""


class Shelf(StateMachine):
    texts: Dict[str, int]
    numbers: Dict[int, str]
    raw: Dict[bytes, bytes]
    flags: Dict[bool, float]
    pairs: Dict[tuple[str, int], dict[str, int]]
    names: Set[int]
    last: Value[bytes]

    @command
    def check(self, name: str) -> None:
        TESTS[name](self)

    @command
    def check_and_fail(self, name: str) -> None:
        TESTS[name](self)
        raise ValueError("as asked")

    @command
    def ten(
        self, a: int, b: str, c: bytes, d: bool, e: int, f: int, g: int, h: int, i: int, j: int
    ) -> tuple[int, str, bytes, bool, int]:
        return a, b, c, d, e + f + g + h + i + j

    @command
    def some(self, count: int, of: bytes = b"x") -> bytes:
        return of * count

    @query
    def look(self, name: str) -> None:
        TESTS[name](self)


class World:
    """A machine over a pool."""

    def __init__(self, path: Path) -> None:
        pools.make(path)
        self.path = path
        self.slot = 0
        self.limit = LIMIT
        self.open()
        opening = (0, 1, 0, _native.ENTRY_OPEN, struct.pack("<I", 16))
        self.session = struct.unpack("<Q", self.apply(opening)[0][1])[0]
        self.sequence = 0

    def open(self) -> None:
        self.pool: Pool = pools.reopen(self.path)
        self.engine = Engine(self.pool)
        self.host = MachineHost(self.engine, Shelf, self.limit)

    def reopen(self) -> None:
        self.pool.close()
        self.open()

    def apply(self, *entries: tuple[int, int, int, int, bytes]) -> list[tuple[int, bytes]]:
        self.slot += 1
        batch = Batch.build(0, 1, self.slot, list(entries))
        return [r[2:] for r in self.host.apply(self.slot, 0, batch).entries()]

    def call(self, *requests: tuple[object, ...]) -> list[tuple[int, Any]]:
        """Run commands in one slot."""
        entries = []
        for request in requests:
            self.sequence += 1
            payload = msgspec.msgpack.encode(request)
            entries.append((self.session, self.sequence, self.sequence, 0, payload))
        return [(s, msgspec.msgpack.decode(p) if s < 2 else p) for s, p in self.apply(*entries)]

    def inside(self, *tests: Callable[[Shelf], None], fail: bool = False) -> None:
        """Run functions inside commands of one slot."""
        TESTS.update({str(i): test for i, test in enumerate(tests)})
        name = "check_and_fail" if fail else "check"
        try:
            for status, payload in self.call(*((name, str(i)) for i in range(len(tests)))):
                assert (status, payload) == (
                    (FAILED, ["ValueError", "as asked"]) if fail else (OK, None)
                )
        finally:
            TESTS.clear()


@pytest.fixture
def world() -> Iterator[World]:
    with pools.scratch() as path:
        made = World(path / "pool")
        yield made
        made.pool.close()


# ------------------------------------------------------------------ containers

KEYS: dict[str, st.SearchStrategy[Any]] = {
    "texts": st.text(max_size=6),
    "numbers": st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-3, 3),
    "raw": st.binary(max_size=6),
    "flags": st.booleans(),
    "pairs": st.tuples(st.text(max_size=2), st.integers(-2, 2)),
}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "texts": st.integers(-(1 << 63), (1 << 63) - 1),
    "numbers": st.text(max_size=40),
    "raw": st.binary(max_size=300),
    "flags": st.floats(allow_nan=False),
    "pairs": st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=3),
}


@st.composite
def operations(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    name = draw(st.sampled_from(sorted(KEYS)))
    keys = draw(st.lists(KEYS[name], min_size=1, max_size=6))
    one = st.tuples(
        st.sampled_from(["put", "put", "delete", "get", "fail", "slot", "restart", "all"]),
        st.sampled_from(keys),
        VALUES[name],
    )
    return [(name,), *draw(st.lists(one, max_size=40))]


@settings(max_examples=60, deadline=None)
@given(operations())
def test_containers_agree_with_dictionaries(steps: list[tuple[Any, ...]]) -> None:
    """Random commands in slots of several, some raising, with restarts between, over a pool."""
    (name,), *steps = steps
    model: dict[Any, Any] = {}
    with pools.scratch() as path:
        world = World(path / "pool")
        commands: list[tuple[str, str]] = []

        def flush() -> None:
            for (kind, _), (status, payload) in zip(commands, world.call(*commands), strict=True):
                assert status == (OK if kind == "check" else FAILED), payload
            commands.clear()
            TESTS.clear()

        def add(kind: str, test: Callable[[Any], None]) -> None:
            commands.append((kind, str(len(commands))))
            TESTS[commands[-1][1]] = test

        for what, key, value in steps:
            before = dict(model)
            if what in ("put", "fail"):
                add(
                    "check" if what == "put" else "check_and_fail",
                    lambda m, k=key, v=value: getattr(m, name).__setitem__(k, v),  # type: ignore[misc]
                )
                if what == "put":
                    model[key] = value
            elif what == "delete":
                add("check", lambda m, k=key: getattr(m, name).pop(k, None))  # type: ignore[misc]
                model.pop(key, None)
            elif what == "get":

                def look(m: Any, k: Any = key, before: dict[Any, Any] = before) -> None:
                    d = getattr(m, name)
                    assert d.get(k) == before.get(k) and (k in d) == (k in before)
                    assert d.get(k, default="none") == before.get(k, "none")
                    assert len(d) == len(before)
                    if k not in before:
                        with pytest.raises(KeyError):
                            d[k]
                        with pytest.raises(KeyError):
                            del d[k]

                add("check", look)
            elif what == "all":

                def compare(m: Any, before: dict[Any, Any] = before) -> None:
                    assert list(getattr(m, name).items()) == sorted(before.items(), key=first)

                add("check", compare)
            else:
                flush()
                if what == "restart":
                    world.reopen()
        flush()
        world.inside(lambda m: compare_all(getattr(m, name), model))
        world.pool.close()


def first(item: tuple[Any, Any]) -> Any:
    return item[0]


def compare_all(container: Any, model: dict[Any, Any]) -> None:
    assert dict(container.items()) == model


def test_keys_and_values_that_are_not_exactly_of_the_type(world: World) -> None:
    def use(m: Shelf) -> None:
        m.texts[Text("a")] = Color.RED
        assert m.texts["a"] == 1 and type(m.texts["a"]) is int and Text("a") in m.texts
        m.numbers[Color.RED] = "red"
        m.numbers[True] = "also one"
        assert list(m.numbers.items()) == [(1, "also one")]
        wrong: list[tuple[Any, Any, Any, type[Exception], str]] = [
            (m.texts, 5, 1, TypeError, "keys of this container are str, not int"),
            (m.texts, "k", True, TypeError, "bool where int is due"),
            (m.texts, "k", 1 << 70, OverflowError, "64"),
            (m.texts, "\ud800", 1, UnicodeEncodeError, "surrogates not allowed"),
            (m.numbers, "1", "", TypeError, "int, not str"),
            (m.numbers, 1 << 63, "", OverflowError, "at most 64 bit"),
            (m.raw, bytearray(b"k"), b"", TypeError, "bytes, not bytearray"),
            (m.raw, b"k", bytearray(b"v"), TypeError, "bytes, not bytearray"),
            (m.raw, b"k" * 65537, b"", ValueError, "at most 65536 bytes, not 65537"),
            (m.flags, 1, 1.0, TypeError, "bool, not int"),
            (m.pairs, ("a",), {}, TypeError, "tuple"),
        ]
        for container, key, value, error, text in wrong:
            with pytest.raises(error, match=text):
                container[key] = value
        for container, key, _, error, _ in wrong:
            if key not in ("k", b"k", b"k" * 65537):
                with pytest.raises(error):
                    container.get(key)
                with pytest.raises(error):
                    key in container  # noqa: B015
                with pytest.raises(error):
                    del container[key]
        assert m.raw.get(b"k" * 65537) is None
        with pytest.raises(KeyError):
            del m.raw[b"k" * 65537]
        for arguments in ((), (1, 2, 3)):
            with pytest.raises(TypeError, match="takes a key"):
                m.texts.get(*arguments)
        with pytest.raises(TypeError, match="takes a key"):
            m.texts.get("a", other=1)  # type: ignore[call-overload]

    world.inside(use)


def test_a_command_that_fails_leaves_nothing(world: World) -> None:
    def fill(m: Shelf) -> None:
        m.texts.update({"a": 1, "b": 2})
        m.names.add(7)
        m.last.set(b"one")

    def meddle(m: Shelf) -> None:
        m.texts["a"] = 10
        m.texts["a"] = 11
        del m.texts["b"]
        m.texts["b"] = 12
        m.texts["c"] = 13
        del m.texts["c"]
        m.names.discard(7)
        m.names.add(8)
        m.last.clear()
        assert dict(m.texts) == {"a": 11, "b": 12} and set(m.names) == {8}
        assert len(m.texts) == 2 and m.last.get() is None

    def unchanged(m: Shelf) -> None:
        assert dict(m.texts) == {"a": 1, "b": 2} and len(m.texts) == 2
        assert set(m.names) == {7} and len(m.names) == 1 and m.last.get(b"none") == b"one"

    world.inside(fill)
    before = world.engine.state_digest(), world.engine.state_used()
    world.inside(meddle, meddle, fail=True)
    world.inside(unchanged)
    world.reopen()
    world.inside(unchanged)
    assert world.engine.state_used() == before[1]
    world.inside(meddle, meddle_again)
    assert world.engine.state_used() == before[1] + 2  # b"three" for b"one"


def meddle_again(m: Shelf) -> None:
    assert dict(m.texts) == {"a": 11, "b": 12} and set(m.names) == {8}
    m.last.set(b"three")


def test_the_limit_counts_what_failed_commands_left(world: World) -> None:
    """Many commands that fail, or do not fit, in one slot: what fits is the same as without."""
    size = LIMIT // 4

    def put(key: bytes) -> Callable[[Shelf], None]:
        return lambda m: m.raw.__setitem__(key, bytes(size))

    TESTS.update({"a": put(b"a"), "b": put(b"b"), "c": put(b"c"), "d": put(b"d")})
    TESTS["less"] = lambda m: m.raw.__setitem__(b"a", b"")
    requests = [("check", "a"), ("check_and_fail", "b"), ("check", "b"), ("check_and_fail", "d")]
    requests += [("check", "c"), ("check", "d"), ("check", "less"), ("check", "d")]
    found = world.call(*requests)
    TESTS.clear()
    assert [s for s, _ in found] == [OK, FAILED, OK, FAILED, OK, NOSPACE, OK, OK]
    assert found[5][1].startswith(b"the state may have 1048576 bytes and would have")
    assert world.engine.state_used() == 4 * 65 + 3 * size
    assert world.engine.size(world.engine.container("raw")) == 4


def test_outside_of_commands_containers_cannot_be_changed(world: World) -> None:
    kept: list[Shelf] = []
    world.inside(kept.append, lambda m: m.texts.__setitem__("a", 1))
    shelf = kept[0]
    assert shelf.texts["a"] == 1  # reading harms nobody
    changes: tuple[Callable[[], None], ...] = (
        lambda: shelf.texts.__setitem__("a", 2),
        lambda: shelf.texts.__delitem__("a"),
        lambda: shelf.names.add(1),
        lambda: shelf.last.set(b""),
    )
    for change in changes:
        with pytest.raises(ReadOnly, match=r"outside a command: use a @command"):
            change()
    TESTS["q"] = lambda m: m.texts.__setitem__("a", 2)
    payload = msgspec.msgpack.encode(("look", "q"))
    reads = Batch.build(0, 1, 1, [(world.session, 1, 0, _native.ENTRY_QUERY, payload)])
    ((_, _, status, reply),) = world.host.query(reads).entries()
    TESTS.clear()
    assert (
        status == FAILED and b"ReadOnly" in reply and b"texts cannot be changed in a query" in reply
    )


def test_a_large_slot_is_no_burden_for_the_next(world: World) -> None:
    def many(m: Shelf) -> None:
        for i in range(5000):
            m.numbers[i] = "x"

    world.inside(many, lambda m: m.numbers.clear())
    world.inside(lambda m: m.numbers.update({1: "y"}), lambda m: compare_all(m.numbers, {1: "y"}))


def test_items_are_made_once_and_before_they_are_used(world: World) -> None:
    overlay = Overlay(world.engine)
    table = overlay.table("texts")
    items = Items[str, int](table, key_codec(str), stored_codec(int))
    with pytest.raises(InvariantViolated, match="made once"):
        items.__init__(table, key_codec(str), stored_codec(int))  # type: ignore[misc]
    for use in (len, lambda x: x.get("a"), lambda x: "a" in x):
        with pytest.raises(InvariantViolated, match="before its __init__"):
            use(Items.__new__(Items))
    with pytest.raises(TypeError):
        Items(1, key_codec(str), stored_codec(int))  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        Items(table, 1, 2)  # type: ignore[arg-type]


def test_hosts_are_collected_with_all_that_they_have() -> None:
    def kept() -> int:
        gc.collect()
        kinds = (Items, Overlay, _native.Methods, _native.Table, Shelf)
        return sum(isinstance(thing, kinds) for thing in gc.get_objects())

    before = kept()
    with pools.scratch() as path:
        world = World(path / "pool")
        world.inside(lambda m: m.raw.__setitem__(b"a", b"b"))
        assert kept() > before
        world.pool.close()
        del world
        assert kept() == before


# ------------------------------------------------------------------ methods


def test_methods_with_many_arguments_and_with_defaults(world: World) -> None:
    ten = ("ten", 1, "two", b"3", True, 1, 2, 3, 4, 5, 6)
    assert world.call(ten, ("some", 3, b"ab"))[1] == (OK, b"ababab")
    assert world.call(ten) == [(OK, [1, "two", b"3", True, 21])]
    status, text = world.call(("ten", 1))[0]
    assert status == FAILED and text == ["ValidationError", "Shelf.ten takes 10 arguments, not 1"]
    status, text = world.call(("some", "x", b""))[0]
    assert status == FAILED and "Shelf.some" in text[1] and "`count`" in text[1]


def test_what_runs_is_told_while_it_runs(world: World) -> None:
    seen: list[Any] = []
    assert world.host.running is None
    world.inside(lambda m: seen.append(world.host.running))
    assert seen[0].command == "check" and seen[0].slot == world.slot and seen[0].started > 0
    world.inside(lambda m: None, fail=True)
    assert world.host.running is None


def test_a_damaged_item_stops_the_replica_even_if_the_command_goes_on(world: World) -> None:
    value = b"a value that is easily found"
    world.inside(lambda m: m.raw.__setitem__(b"key", value))
    world.pool.close()
    data = world.path.read_bytes()
    world.path.write_bytes(data.replace(value, value.replace(b"easily", b"hardly")))
    world.open()

    def swallow(m: Shelf) -> None:
        with pytest.raises(StorageCorrupt):
            m.raw[b"key"]

    TESTS["swallow"] = swallow
    with pytest.raises(StorageCorrupt):
        world.call(("check", "swallow"))
    TESTS.clear()
