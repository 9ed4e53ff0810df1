"""What a crash may leave: the choice of a version for each line that was not durable.

At an event the lines fall into kinds. Those that were *flushed*, or written since the event
before (*fresh*): every combination of them is an image, up to LIMIT combinations. Those that were
written earlier and never flushed (*stale*): lost
together, kept together, and some combinations at random. Beyond LIMIT combinations: all lost, all
kept, each one alone lost and alone kept, and combinations at random. Some images tear lines: words
of 8 bytes, the unit that is never torn, each old or new.

Lines that libpmemobj keeps for itself are lost or kept together (see Base).

An image is written as a text, so that a failure can be replayed: `index:version` of each line that
is not as before, separated by commas, with `/mask` (hexadecimal) for the words of a torn one; `-`
when all are as before. Version 0 is the durable one, 1 the first since.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

from tests.crash.shim import LINE, Event, Kind, Line

WORDS = LINE // 8
ALL_WORDS = (1 << WORDS) - 1

LIMIT = 1 << 12
"""Combinations of one event that are all enumerated: twelve lines of one version."""


@dataclass(frozen=True)
class Part:
    """Line `index` of an event reached memory in `version`, or the words of it in `mask` did."""

    index: int
    version: int
    mask: int = ALL_WORDS


Image = tuple[Part, ...]


def to_text(image: Image) -> str:
    """The image as a text; from_text() reads it."""
    parts = [
        f"{part.index}:{part.version}" + ("" if part.mask == ALL_WORDS else f"/{part.mask:x}")
        for part in image
    ]
    return ",".join(parts) or "-"


def from_text(text: str) -> Image:
    """The image that to_text() wrote. Raises ValueError."""
    parts = []
    for word in text.split(",") if text != "-" else []:
        place, _, mask = word.partition("/")
        index, _, version = place.partition(":")
        parts.append(Part(int(index), int(version), int(mask, 16) if mask else ALL_WORDS))
    return tuple(parts)


def torn(old: bytes, new: bytes, mask: int) -> bytes:
    """`old` with the words of `mask` from `new`."""
    words = [(new if mask >> word & 1 else old)[8 * word : 8 * word + 8] for word in range(WORDS)]
    return b"".join(words)


def fingerprint(offset: int, data: bytes) -> int:
    """64 bits of one line; the exclusive or over all lines tells images apart."""
    return int.from_bytes(blake2b(data, digest_size=8, key=offset.to_bytes(8, "big")).digest())


class Base:
    """The durable contents of the pool as events pass, and what is certain after each.

    `own` are offsets of lines in which libpmemobj keeps run-time state that it initialises at each
    opening and never flushes. They are kept or lost like others, but images that differ in them
    alone count as one.
    """

    def __init__(self, contents: bytearray, own: frozenset[int], identity: int = 0) -> None:
        self.contents = contents
        self.own = own
        self.identity = identity

    def line(self, offset: int) -> bytes:
        """The durable contents of a line."""
        return bytes(self.contents[offset : offset + LINE])

    def settle(self, event: Event) -> list[tuple[int, bytes]]:
        """Make durable what is durable after `event`; returns what changed."""
        changes: list[tuple[int, bytes]] = []
        if event.kind not in (Kind.FENCE, Kind.SYNC):
            return changes
        for line in event.lines:
            last = len(line.versions) if event.kind is Kind.SYNC else line.flushed
            if last > 0:
                changes.append((line.offset, line.versions[last - 1]))
        self.identity = self.identity_with(changes)
        for offset, data in changes:
            self.contents[offset : offset + LINE] = data
        return changes

    def identity_with(self, patches: list[tuple[int, bytes]]) -> int:
        """The fingerprint of the durable contents with `patches` over them."""
        made = self.identity
        for offset, data in patches:
            if offset not in self.own:
                made ^= fingerprint(offset, self.line(offset)) ^ fingerprint(offset, data)
        return made

    def patches(self, event: Event, image: Image) -> list[tuple[int, bytes]]:
        """(offset, bytes) to write over the durable contents to get the image."""
        made = []
        for part in image:
            line = event.lines[part.index]
            data = line.versions[part.version - 1]
            if part.mask != ALL_WORDS:
                data = torn(self.line(line.offset), data, part.mask)
            made.append((line.offset, data))
        return made


def own_lines(events: list[Event]) -> frozenset[int]:
    """What libpmemobj keeps for itself: what nobody had flushed when the pool was open and nothing
    had been done with it yet."""
    for event in events:
        if event.kind is Kind.MARK:
            return frozenset(line.offset for line in event.lines if line.flushed == 0)
    return frozenset()


@dataclass(frozen=True)
class Split:
    """Indexes of an event's lines: flushed or fresh, stale, libpmemobj's own."""

    near: list[int]
    stale: list[int]
    own: list[int]


def split(event: Event, before: Event | None, own: frozenset[int]) -> Split:
    """Tell the lines of an event apart."""
    known: dict[int, bytes] = {}
    for line in before.lines if before is not None else ():
        known[line.offset] = line.versions[-1]
    made = Split([], [], [])
    for index, line in enumerate(event.lines):
        if line.offset in own:
            made.own.append(index)
        elif line.flushed == 0 and known.get(line.offset) == line.versions[-1]:
            made.stale.append(index)
        else:
            made.near.append(index)
    return made


def candidates(line: Line) -> list[int]:
    """Versions that are tried of a line: the durable one, those that were flushed, the newest. A
    line that is written again and again without a flush has hundreds between; at_random() takes
    one of those now and then."""
    newest = len(line.versions)
    flushed = range(max(1, line.flushed - 2), line.flushed + 1)
    return sorted({0, *flushed, newest})


def combinations(event: Event, lines: Split) -> int:
    """How many images it takes to exhaust an event."""
    tried = math.prod(len(candidates(event.lines[i])) for i in lines.near)
    return tried * (2 if lines.stale else 1)


def enumerate_images(
    event: Event, lines: Split, budget: int, rng: random.Random
) -> Iterator[Image]:
    """About `budget` images of a crash at `event`: all combinations when there are fewer, and a
    few at random beyond them (stale lines, torn lines). Repeats an image now and then."""
    own = latest(event, lines.own)
    for image in without_own(event, lines, budget, rng):
        yield image + (own if rng.random() < 0.5 else ())


def without_own(event: Event, lines: Split, budget: int, rng: random.Random) -> Iterator[Image]:
    """enumerate_images(), leaving libpmemobj's own lines as they were."""
    near, kept = lines.near, latest(event, lines.stale)
    total = combinations(event, lines)
    if total <= min(budget, 2 * LIMIT):
        for versions in itertools.product(*[candidates(event.lines[i]) for i in near]):
            chosen = pick(near, versions)
            yield chosen
            if kept:
                yield chosen + kept
    else:
        yield from sampled(event, near, kept, budget, rng)
    if near or kept:
        for _ in range(max(2, min(budget, total) // 8)):
            yield at_random(event, near + lines.stale, rng)


def latest(event: Event, indexes: list[int]) -> Image:
    """The image in which these lines have reached memory as they are."""
    return tuple(Part(i, len(event.lines[i].versions)) for i in indexes)


def pick(near: list[int], versions: tuple[int, ...]) -> Image:
    """The image in which the lines of `near` have the versions."""
    return tuple(Part(i, version) for i, version in zip(near, versions, strict=True) if version)


def sampled(
    event: Event, near: list[int], kept: Image, budget: int, rng: random.Random
) -> Iterator[Image]:
    """`budget` images of an event that has too many."""
    everything = latest(event, near)
    fixed: list[Image] = [(), everything, kept, everything + kept]
    for at in rng.sample(range(len(near)), min(len(near), budget // 4)):
        fixed += [(everything[at],), everything[:at] + everything[at + 1 :]]
    yield from fixed[:budget]
    for _ in range(budget - len(fixed)):
        share = rng.choice([0.1, 0.5, 0.9])
        versions = tuple(
            rng.choice(candidates(event.lines[i])[1:]) if rng.random() < share else 0 for i in near
        )
        yield pick(near, versions) + (kept if rng.random() < 0.5 else ())


def at_random(event: Event, indexes: list[int], rng: random.Random) -> Image:
    """Any version of any line, some of them torn."""
    parts = []
    tear = rng.random() < 0.7
    for index in sorted(indexes):
        if rng.random() < 0.5:
            continue
        version = rng.randint(1, len(event.lines[index].versions))
        mask = rng.randrange(1, ALL_WORDS + 1) if tear and rng.random() < 0.5 else ALL_WORDS
        parts.append(Part(index, version, mask))
    return tuple(parts)
