"""Recording a workload once, without a crash: what it stored, what it was told."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.crash.replica import SIZE, Create, Replica, Replies, View, Write, log_steps
from tests.crash.shim import Event, Kind, Shim, read_trace
from tests.crash.workloads import Workload, workload


class Told(msgspec.Struct):
    """What the recording process saw."""

    name: str
    seed: int
    length: float
    views: list[View]
    """The pool's state when so many operations were done."""

    replies: list[Replies]
    """Of each operation."""


@dataclass(frozen=True)
class Recording:
    """A workload with its crash points."""

    workload: Workload
    told: Told
    base: Path
    """The pool file as it was when the recording began."""

    events: list[Event]

    def allowed(self, event: Event) -> list[View]:
        """What may be found after a crash at `event`: what was told of, and of the operation under
        way any prefix of its steps."""
        before = self.told.views[event.mark]
        operations = self.workload.operations
        if event.kind is Kind.MARK or event.mark == len(operations):
            return [before]
        operation = operations[event.mark]
        if isinstance(operation, Write):
            return log_steps(before, operation)
        return [before, self.told.views[event.mark + 1]]


def record(shim: Shim, directory: Path, name: str, seed: int, length: float) -> None:
    """Run the workload and leave in `directory` what load() reads."""
    made = workload(name, seed, length)
    replica = Replica(directory / "recorded", made.log_size, made.installing)
    creates = isinstance(made.operations[0], Create)
    if not creates:
        replica.create()
        if made.before:
            replica.open()
            for operation in made.before:
                replica.run(operation)
            replica.close()
        shutil.copy(replica.path, directory / "base")
        shim.watch(replica.path, directory / "trace")
        replica.open()
        shim.mark(0)
        views = [replica.view()]
    else:
        with open(directory / "base", "wb") as file:
            os.truncate(file.fileno(), SIZE)
        shim.watch(replica.path.with_name("recorded.new"), directory / "trace")
        views = [View()]
    replies = []
    for number, operation in enumerate(made.operations):
        replies.append(replica.run(operation))
        view = replica.view()
        if isinstance(operation, Write):
            wrong = view.difference(log_steps(views[-1], operation)[-1])
            assert not wrong, f"operation {number} without any crash: {wrong}"
        views.append(view)
        shim.mark(number + 1)
    shim.stop()
    replica.close()
    if creates:
        kinds = [event.kind for event in read_trace(directory / "trace")]
        assert Kind.RENAME in kinds, "the pool was not made under a temporary name and renamed"
        # Not about lines: the file system may still forget the file's size and blocks.
        assert Kind.SYNC in kinds[: kinds.index(Kind.RENAME)], "renamed before it was synced"
    told = Told(name, seed, length, views, replies)
    (directory / "told").write_bytes(msgspec.msgpack.encode(told))


def load(directory: Path) -> Recording:
    """Read what record() left."""
    told = msgspec.msgpack.decode((directory / "told").read_bytes(), type=Told)
    events = read_trace(directory / "trace")
    return Recording(workload(told.name, told.seed, told.length), told, directory / "base", events)
