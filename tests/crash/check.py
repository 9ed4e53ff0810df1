"""Opening one image in the real code and judging it."""

from __future__ import annotations

import ctypes
import mmap
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mpaxos.errors import StorageError, StorageMissing
from tests.crash.images import (
    Base,
    enumerate_images,
    from_text,
    own_lines,
    split,
    to_text,
)
from tests.crash.record import Recording
from tests.crash.replica import SIZE, Create, Reopen, Replica, View
from tests.crash.shim import Event, Kind, Shim, read_trace

POSITION = 6
"""Where the audit's list of bytes that count has the applied position: header, promise, four
words, and then this."""

NESTED_BUDGET = 12
"""Images of each crash point of a recovery that is itself crashed."""

CHECKED_BEFORE = 0.15
CHECKED_AFTER = 0.1
"""Shares of the images that pmemobj_check looks at, as they were left and recovered: it takes as
long as all the rest."""


class Wrong(Exception):
    """An image was not recovered as it must be; says how."""


@dataclass(frozen=True)
class Case:
    """One image of a recording, as a text: EVENT IMAGE [again EVENT IMAGE] [flip OFFSET.BIT],
    with `temporary` when a crash would leave it under the temporary name."""

    event: int
    image: str
    again: tuple[int, str] | None = None
    flip: tuple[int, int] | None = None
    temporary: bool = False

    def __str__(self) -> str:
        words = [str(self.event), self.image]
        if self.again is not None:
            words += ["again", str(self.again[0]), self.again[1]]
        if self.flip is not None:
            words += ["flip", f"{self.flip[0]}.{self.flip[1]}"]
        return " ".join(words + ["temporary"] * self.temporary)

    @staticmethod
    def parse(text: str) -> Case:
        """What str() gave. Raises ValueError."""
        words = text.split()
        made: dict[str, object] = {}
        at = 2
        while at < len(words):
            if words[at] == "temporary":
                made["temporary"] = True
                at += 1
            elif words[at] == "again":
                made["again"] = (int(words[at + 1]), words[at + 2])
                at += 3
            elif words[at] == "flip":
                offset, _, bit = words[at + 1].partition(".")
                made["flip"] = (int(offset), int(bit))
                at += 2
            else:
                raise ValueError(f"{words[at]!r} is none of: again, flip, temporary")
        return Case(int(words[0]), words[1], **made)  # type: ignore[arg-type]


@dataclass
class Counts:
    """What was examined."""

    images: int = 0
    again: int = 0  # of these: a recovery crashed
    checked_before: int = 0  # pmemobj_check of the image as it was left
    checked_after: int = 0  # and after its recovery
    torn: int = 0
    damaged: int = 0  # images with a flipped bit, which must be refused
    identities: list[int] = field(default_factory=list)


class Checker:
    """Judges the images of one recording, in one directory, in ascending order of events."""

    def __init__(self, shim: Shim, directory: Path, recording: Recording) -> None:
        self.shim = shim
        self.recording = recording
        self.directory = directory
        self.counts = Counts()
        made = recording.workload
        self.replica = Replica(directory / "pool", made.log_size, made.installing)
        contents = bytearray(recording.base.read_bytes())
        self.base = Base(contents, own_lines(recording.events))
        self.position = 0
        self.renamed, self.named = self._creation()
        self._seen: set[tuple[int, int, bool, bool]] = set()
        self.replica.path.write_bytes(contents)
        self._opened = open(self.replica.path, "r+b")  # noqa: SIM115 - held as long as the map
        self._file = mmap.mmap(self._opened.fileno(), SIZE)
        shim.watch(self.replica.path)

    def _creation(self) -> tuple[int, int]:
        """From which event the pool can have its final name, and from which it must."""
        kinds = [event.kind for event in self.recording.events]
        if not isinstance(self.recording.workload.operations[0], Create):
            return 0, 0
        renamed = kinds.index(Kind.RENAME) if Kind.RENAME in kinds else 0
        behind = [i for i, kind in enumerate(kinds) if kind is Kind.SYNC_DIRECTORY and i > renamed]
        return renamed, behind[0] + 1 if behind else len(kinds)

    # ---------------------------------------------------------------- moving

    def move(self, event: int) -> None:
        """Let the events before `event` pass."""
        while self.position < event:
            for offset, data in self.base.settle(self.recording.events[self.position]):
                self._file[offset : offset + len(data)] = data
            self.position += 1

    @contextmanager
    def _image(self, base: Base, patches: list[tuple[int, bytes]]) -> Iterator[None]:
        """The pool file with the patches; afterwards it is equal to `base` again."""
        for offset, data in patches:
            self._file[offset : offset + len(data)] = data
        try:
            yield
        finally:
            self.replica.close()
            self._restore(base)

    def _restore(self, base: Base) -> None:
        file = ctypes.c_char.from_buffer(self._file)
        self.shim.restore(file, ctypes.c_char.from_buffer(base.contents), SIZE)

    # ---------------------------------------------------------------- one event

    def cases(self, number: int, budget: int, rng: random.Random) -> Iterator[Case]:
        """The images of a crash at event `number`; moves there."""
        self.move(number)
        events = self.recording.events
        event = events[number]
        lines = split(event, events[number - 1] if number else None, self.base.own)
        for image in enumerate_images(event, lines, budget, rng):
            identity = self.base.identity_with(self.base.patches(event, image))
            for temporary in self._names(number):
                key = (identity, event.mark, event.kind is Kind.MARK, temporary)
                if key not in self._seen:
                    self._seen.add(key)
                    yield Case(number, to_text(image), temporary=temporary)

    def _names(self, number: int) -> list[bool]:
        if number < self.renamed:
            return [True]
        return [False] if number >= self.named else [False, True]

    def judge(self, case: Case, rng: random.Random) -> None:
        """Examine an image of the event that cases() moved to. Raises Wrong."""
        event = self.recording.events[case.event]
        image = from_text(case.image)
        patches = self.base.patches(event, image)
        self.counts.images += 1
        self.counts.torn += "/" in case.image
        identity = self.base.identity_with(patches)
        self.counts.identities.append(identity)
        if case.temporary:
            self._judge_temporary(event, patches, rng)
            return
        with self._image(self.base, patches):
            if rng.random() < CHECKED_BEFORE:
                self.counts.checked_before += 1
                if not self.shim.check_file(self.replica.path):
                    raise Wrong("pmemobj_check: the image is inconsistent")
            self._judge_open(event, rng)

    def _judge_open(self, event: Event, rng: random.Random) -> None:
        """The image is in place: recover it and compare."""
        view = self._recover(self.recording.allowed(event))
        if rng.random() < CHECKED_AFTER:
            self.replica.close()
            self.counts.checked_after += 1
            if not self.shim.check_file(self.replica.path):
                raise Wrong("pmemobj_check: the pool is inconsistent after its recovery")
            self._recover([view])
        self._go_on(event, view)

    def _recover(self, allowed: list[View]) -> View:
        try:
            self.replica.open()
            view = self.replica.view()
            self.shim.audit()
        except Exception as error:
            raise Wrong(f"{type(error).__name__}: {error}") from error
        differences = [view.difference(each) for each in allowed]
        if all(differences):
            raise Wrong("recovered a state that never was; " + " / ".join(differences))
        return view

    def _go_on(self, event: Event, view: View) -> None:
        """What was under way is done again, or was done; then the next operation."""
        told, operations = self.recording.told, self.recording.workload.operations
        position = event.mark
        if event.kind is not Kind.MARK and position < len(operations):
            position += view == told.views[position + 1]
        for number in range(position, min(position + 2, len(operations))):
            operation = operations[number]
            if isinstance(operation, Reopen | Create):
                continue
            try:
                replies = self.replica.run(operation)
                wrong = self.replica.view().difference(told.views[number + 1])
                self.shim.audit()
            except Exception as error:
                raise Wrong(f"going on: {type(error).__name__}: {error}") from error
            if replies != told.replies[number]:
                raise Wrong(f"going on: other replies than were told: {replies}")
            if wrong:
                raise Wrong(f"going on: {wrong}")

    # ---------------------------------------------------------------- pools being made

    def _judge_temporary(
        self, event: Event, patches: list[tuple[int, bytes]], rng: random.Random
    ) -> None:
        """What is left under the temporary name is no pool, and does not hinder making one."""
        if event.mark > 0:
            raise Wrong("the pool's making was told of, its name was not durable")
        directory = self.directory / "made"
        directory.mkdir(exist_ok=True)
        replica = Replica(directory / "pool", self.replica.log_size)
        leftover = directory / "pool.new"
        image = bytearray(self.base.contents)
        for offset, data in patches:
            image[offset : offset + len(data)] = data
        leftover.write_bytes(image)
        try:
            try:
                replica.open()
            except StorageMissing:
                pass
            else:
                raise Wrong("a pool half made was taken for one")
            if rng.random() < 0.1:
                replica.create()
                replica.open()
                wrong = replica.view().difference(self.recording.told.views[1])
                if wrong or leftover.exists():
                    raise Wrong(f"a pool made after a crash of the making: {wrong or 'leftovers'}")
        finally:
            replica.close()
            replica.path.unlink(missing_ok=True)
            leftover.unlink(missing_ok=True)

    # ---------------------------------------------------------------- recovery crashed once more

    def again(self, case: Case, rng: random.Random) -> Iterator[Case]:
        """The images of a crash while `case` is being recovered; judge_again() examines the one
        that was yielded last."""
        try:
            inner, events = self._trace_recovery(case)
            before: Event | None = None
            seen: set[int] = set()
            for number, moment in enumerate(events):
                lines = split(moment, before, inner.own)
                for chosen in enumerate_images(moment, lines, NESTED_BUDGET, rng):
                    identity = inner.identity_with(inner.patches(moment, chosen))
                    if identity not in seen:
                        seen.add(identity)
                        self._moment = moment
                        yield Case(case.event, case.image, (number, to_text(chosen)))
                before = moment
                self._pass(moment)
        finally:
            self._restore(self.base)

    def judge_again(self, case: Case) -> None:
        """Examine the image that again() yielded last. Raises Wrong."""
        assert case.again is not None
        inner = self._inner
        patches = inner.patches(self._moment, from_text(case.again[1]))
        self.counts.images += 1
        self.counts.again += 1
        self.counts.identities.append(inner.identity_with(patches))
        with self._image(inner, patches):
            event = self.recording.events[case.event]
            self._go_on(event, self._recover(self.recording.allowed(event)))

    def _trace_recovery(self, case: Case) -> tuple[Base, list[Event]]:
        """Recover the image once and take it back; what a crash could leave on the way."""
        patches = self.base.patches(self.recording.events[case.event], from_text(case.image))
        image = bytearray(self.base.contents)
        for offset, data in patches:
            image[offset : offset + len(data)] = data
        inner = Base(image, self.base.own, self.base.identity_with(patches))
        trace = self.directory / "trace-again"
        with self._image(inner, patches):
            self.shim.watch(self.replica.path, trace)
            try:
                self.replica.open()
                self.replica.close()
            finally:
                self.shim.stop()
                self.shim.watch(self.replica.path)
        self._inner = inner
        return inner, read_trace(trace)

    def _pass(self, moment: Event) -> None:
        for offset, data in self._inner.settle(moment):
            self._file[offset : offset + len(data)] = data

    # ---------------------------------------------------------------- one case again

    def repeat(self, case: Case, keep: Path | None) -> None:
        """Examine one case by its text; with `keep`, leave its image there. Raises Wrong."""
        rng = random.Random(0)
        self.move(case.event)
        if case.again is not None:
            try:
                inner, events = self._trace_recovery(case)
                for moment in events[: case.again[0]]:
                    self._pass(moment)
                self._moment = events[case.again[0]]
                if keep is not None:
                    self._keep(inner, self._moment, case.again[1], keep)
                self.judge_again(case)
            finally:
                self._restore(self.base)
            return
        if keep is not None:
            event = self.recording.events[case.event]
            self._keep(self.base, event, case.image, keep, case.flip)
        if case.flip is not None:
            self.judge_damaged(case)
        else:
            self.judge(case, rng)

    def _keep(
        self,
        base: Base,
        event: Event,
        text: str,
        target: Path,
        flip: tuple[int, int] | None = None,
    ) -> None:
        image = bytearray(base.contents)
        for offset, data in base.patches(event, from_text(text)):
            image[offset : offset + len(data)] = data
        if flip is not None:
            image[flip[0]] ^= 1 << flip[1]
        target.write_bytes(image)

    # ---------------------------------------------------------------- damage

    def damages(self, number: int, count: int, rng: random.Random) -> Iterator[Case]:
        """Flipped bits in the durable image before event `number`, where something is kept."""
        self.move(number)
        if number < self.named:
            return
        with self._image(self.base, []):
            self.replica.open()
            _, ranges = self.shim.audit()
        for _ in range(count):
            offset, length = rng.choice(ranges)
            yield Case(number, "-", flip=(offset + rng.randrange(length), rng.randrange(8)))

    def judge_damaged(self, case: Case) -> None:
        """The image must be refused with a typed error, at the latest when it is read."""
        assert case.flip is not None
        offset, bit = case.flip
        self.counts.damaged += 1
        patch = bytes([self.base.contents[offset] ^ 1 << bit])
        with self._image(self.base, [(offset, patch)]):
            try:
                self.replica.open()
                view = self.replica.view()
            except StorageError:
                return
            except Exception as error:
                raise Wrong(f"damage ends in {type(error).__name__}: {error}") from error
        with self._image(self.base, []):
            self.replica.open()
            at, length = self.shim.audit()[1][POSITION]
        # A slot that was being applied when the applied position was damaged is taken back.
        allowed = self.recording.allowed(self.recording.events[case.event])
        if not at <= offset < at + length or all(map(view.difference, allowed)):
            raise Wrong("a flipped bit was not noticed")
