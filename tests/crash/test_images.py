"""What the enumeration of images promises."""

from __future__ import annotations

import random

from tests.crash.check import Case
from tests.crash.images import (
    Base,
    Part,
    enumerate_images,
    from_text,
    own_lines,
    split,
    to_text,
    torn,
)
from tests.crash.shim import LINE, Event, Kind, Line


def line(number: int, *letters: bytes, flushed: int = 0) -> Line:
    return Line(number * LINE, tuple(letter * LINE for letter in letters), flushed)


def everything(event: Event, before: Event | None, budget: int) -> set[str]:
    lines = split(event, before, frozenset())
    images = enumerate_images(event, lines, budget, random.Random(1))
    return {to_text(image) for image in images}


def test_every_combination_of_few_lines() -> None:
    event = Event(Kind.FENCE, 0, tuple(line(i, b"a", flushed=1) for i in range(5)))
    found = everything(event, None, 1000)
    whole = {text for text in found if "/" not in text}
    assert len(whole) == 32 and {"-", "0:1,1:1,2:1,3:1,4:1"} <= whole
    assert found - whole, "no line was torn"


def test_a_line_written_twice_may_have_either() -> None:
    event = Event(Kind.FENCE, 0, (line(3, b"a", b"b", flushed=2),))
    assert {"-", "0:1", "0:2"} <= everything(event, None, 100)


def test_stale_lines_are_lost_and_kept_with_every_combination() -> None:
    stale = line(1, b"s"), line(2, b"t")
    before = Event(Kind.FENCE, 0, stale)
    event = Event(Kind.FENCE, 0, (*stale, line(7, b"n", flushed=1)))
    lines = split(event, before, frozenset())
    assert (lines.near, lines.stale) == ([2], [0, 1])
    expected = {"-", "2:1", "0:1,1:1", "2:1,0:1,1:1"}
    assert expected <= everything(event, before, 100)


def test_many_lines_are_sampled_within_the_budget() -> None:
    event = Event(Kind.FENCE, 0, tuple(line(i, b"a", flushed=1) for i in range(300)))
    found = everything(event, None, 200)
    assert 150 <= len(found) <= 230
    alone = [text for text in found if text.count(":") == 1 and "/" not in text]
    missing = [text for text in found if text.count(":") == 299 and "/" not in text]
    assert len(alone) > 20 and len(missing) > 20


def test_only_flushed_lines_become_durable_at_a_fence() -> None:
    base = Base(bytearray(4 * LINE), frozenset())
    base.settle(Event(Kind.MARK, 0, (line(0, b"a", flushed=1),)))
    assert base.line(0) == bytes(LINE), "a mark makes nothing durable"
    base.settle(Event(Kind.FENCE, 0, (line(0, b"a", b"b", flushed=1), line(1, b"c"))))
    assert base.line(0) == b"a" * LINE and base.line(LINE) == bytes(LINE)
    base.settle(Event(Kind.SYNC, 0, (line(1, b"c"),)))
    assert base.line(LINE) == b"c" * LINE


def test_equal_images_have_one_identity_on_every_way_to_them() -> None:
    event = Event(Kind.FENCE, 0, (line(0, b"a", flushed=1), line(1, b"b", flushed=1)))
    base = Base(bytearray(4 * LINE), frozenset({LINE}))
    one = base.identity_with(base.patches(event, (Part(0, 1),)))
    both = base.identity_with(base.patches(event, (Part(0, 1), Part(1, 1))))
    assert one == both != base.identity, "a line of libpmemobj's own makes no other image"
    base.settle(event)
    assert base.identity == one


def test_words_are_torn_and_texts_read_back() -> None:
    assert torn(b"a" * LINE, b"b" * LINE, 0b10000001) == b"b" * 8 + b"a" * 48 + b"b" * 8
    for text in ("-", "0:1", "0:1/ff", "12:3/7f,13:1"):
        assert to_text(from_text(text)) in (text, text.replace("/ff", ""))
    for case in (
        Case(3, "-"),
        Case(3, "0:1", again=(4, "1:2/3")),
        Case(3, "-", flip=(77, 3)),
        Case(3, "1:1", temporary=True),
    ):
        assert Case.parse(str(case)) == case


def test_own_lines_are_those_left_when_the_pool_was_open() -> None:
    opening = Event(Kind.FENCE, 0, (line(9, b"x"), line(1, b"y", flushed=1)))
    opened = Event(Kind.MARK, 0, (line(9, b"x"),))
    assert own_lines([opening, opened]) == frozenset({9 * LINE})
