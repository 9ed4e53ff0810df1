"""What a command may know of the world: only what is the same on every replica.

A command must not look at a wall clock, the operating system's random source, files or sockets:
the replicas would come to different states, notice it by their digests, and stop. The context has
what takes their place.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Context:
    """Where and when a request is run. Equal on every replica that runs the same command.

    Attributes:
        slot: position in the replicated log, from 1.
        index: of the request in its batch, from 0.
        session: id of the client's session.
        sequence: number of the request in its session.
        time: nanoseconds since the Unix epoch, stamped by the leader on the whole batch; never
            goes back from one slot to the next.

    In a query, which is not in the log, `slot` and `time` are those of the last applied slot.
    """

    __slots__ = ("_random", "index", "sequence", "session", "slot", "time")

    def __init__(self, slot: int, index: int, session: int, sequence: int, time: int) -> None:
        self.slot = slot
        self.index = index
        self.session = session
        self.sequence = sequence
        self.time = time
        self._random: random.Random | None = None

    @property
    def random(self) -> random.Random:
        """A random source seeded from slot and index: the same numbers on every replica. Not for
        secrets."""
        if self._random is None:
            # Made on first use: seeding takes longer than a typical command.
            self._random = random.Random(self.slot << 32 | self.index)
        return self._random

    @property
    def datetime(self) -> datetime:
        """`time` as an aware datetime in UTC, cut to microseconds."""
        return _EPOCH + timedelta(microseconds=self.time // 1000)

    def __repr__(self) -> str:
        return (
            f"Context(slot={self.slot}, index={self.index}, session={self.session}, "
            f"sequence={self.sequence}, time={self.time})"
        )
