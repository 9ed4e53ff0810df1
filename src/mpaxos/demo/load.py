"""Clients under way: many requests in flight, in a thread of their own.

What they do is checked, so nothing is assumed: a request that fails is a failure of the demo.
"""

from __future__ import annotations

import asyncio
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from mpaxos.client.aio import AsyncClient
from mpaxos.client.options import Options
from mpaxos.demo.records import Record
from mpaxos.errors import MpaxosError
from mpaxos.services.kv import get_request, got, put_request

DEADLINE = 120.0
"""Seconds: far beyond any restart, so that a call that runs into it is a failure."""

HOLD = 0.8
"""Share of the records that is loaded before the last crash under load."""

_GAP = 0.002
"""Seconds without an answer that are worth remembering."""


Answered = Callable[[bytes, bytes], None]
"""Called with the key and the reply of a request."""


class LoadFailed(MpaxosError):
    """A request of the demo failed."""


class _Pipe:
    """Keeps up to `window` requests of one client in flight; one per key at a time, because
    requests in flight together may be applied in any order."""

    def __init__(self, client: AsyncClient, window: int) -> None:
        self._client = client
        self._window = window
        self._pending: dict[bytes, asyncio.Future[bytes]] = {}
        self._room: asyncio.Future[None] | None = None
        self._error: BaseException | None = None

    async def run(
        self, requests: Iterable[tuple[bytes, bytes, Answered]], *, query: bool = False
    ) -> None:
        """Make all (key, request, answered); `answered` gets key and reply. Raises the first
        error."""
        loop = asyncio.get_running_loop()
        for key, request, answered in requests:
            if key in self._pending:
                await asyncio.wait([self._pending[key]])
            while len(self._pending) >= self._window:
                self._room = loop.create_future()
                await self._room
            self._check()
            future = self._client.submit(request, deadline=DEADLINE, query=query)
            self._pending[key] = future
            future.add_done_callback(partial(self._done, key, answered))
        while self._pending:
            await asyncio.wait(list(self._pending.values()))
            await asyncio.sleep(0)  # the callbacks of the last ones
        self._check()

    def _done(self, key: bytes, answered: Answered, future: asyncio.Future[bytes]) -> None:
        del self._pending[key]
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            answered(key, future.result())
        elif self._error is None:
            self._error = error
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _check(self) -> None:
        if self._error is not None:
            raise LoadFailed(f"a client got {type(self._error).__name__}: {self._error}")


class _Thread:
    """An event loop in a thread, whose failure is kept for the one who asks."""

    def __init__(self) -> None:
        self.stopping = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _main(self) -> None:
        try:
            asyncio.run(self.work())
        except BaseException as error:
            self._failure = error

    async def work(self) -> None:
        raise NotImplementedError

    def check(self) -> None:
        """Raise LoadFailed if a client failed."""
        if self._failure is not None:
            error = self._failure
            if isinstance(error, MpaxosError):
                raise LoadFailed(str(error)) from error
            raise LoadFailed(f"the load broke: {error!r}") from error

    def join(self) -> None:
        """Wait for the end, then check."""
        while self._thread.is_alive():
            self._thread.join(timeout=0.2)  # short, so that Ctrl-C gets through
        self.check()


class Load(_Thread):
    """Puts every record once, in order, and rewrites some: from `HOLD` of the records on until
    `release`, so that the loading lasts as long as there are crashes to come, however fast it is;
    and after the last record until `stop`, so that there are clients to be disturbed."""

    def __init__(
        self, addresses: str, records: list[Record], *, clients: int = 4, window: int = 256
    ) -> None:
        super().__init__()
        self._addresses = addresses
        self._clients, self._window = clients, window
        # All records of one name go through one client, in order: so the last wins.
        self._parts: list[list[Record]] = [[] for _ in range(clients)]
        for record in records:
            self._parts[zlib.crc32(record[0]) % clients].append(record)
        self.total = len(records)
        self.acknowledged = 0
        """Puts answered in the first pass."""
        self.began = self.loaded = 0.0
        """time.monotonic() of the first request and of the last answer of the first pass."""
        self.rewritten = 0
        """Puts of values that were there already, answered."""
        self.rewritten_loading = 0
        """Those of them before the last record."""
        self.released = False
        self._gaps: list[tuple[float, float]] = []
        self._open: dict[int, float] = {}

    async def work(self) -> None:
        """All clients."""
        self.began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, part in enumerate(self._parts):
                group.create_task(self._one(number, part))

    async def _one(self, number: int, part: list[Record]) -> None:
        options = Options(deadline=DEADLINE, window=self._window)
        async with AsyncClient(self._addresses, options) as client:
            pipe = _Pipe(client, self._window)
            self._open[number] = time.monotonic()
            await pipe.run(self._puts(number, part))
            del self._open[number]

    def _puts(self, number: int, part: list[Record]) -> Iterator[tuple[bytes, bytes, Answered]]:
        first, again = partial(self._loaded, number), partial(self._rewritten, number)
        written: dict[bytes, bytes] = {}
        for index, (key, value) in enumerate(part):
            if index >= HOLD * len(part):
                yield from self._rewrites(written, again, lambda: self.released)
            written[key] = value
            yield key, put_request(key, value), first
        yield from self._rewrites(written, again, lambda: False)

    def _rewrites(
        self, written: dict[bytes, bytes], answered: Answered, enough: Callable[[], bool]
    ) -> Iterator[tuple[bytes, bytes, Answered]]:
        while written and not enough():
            for key, value in written.items():
                if self.stopping or enough():
                    return
                yield key, put_request(key, value), answered

    def _loaded(self, number: int, key: bytes, reply: bytes) -> None:
        self._answered(number)
        self.acknowledged += 1
        if self.acknowledged == self.total:
            self.loaded = time.monotonic()
            self.rewritten_loading = self.rewritten

    def _rewritten(self, number: int, key: bytes, reply: bytes) -> None:
        self._answered(number)
        self.rewritten += 1

    def _answered(self, number: int) -> None:
        now = time.monotonic()
        last = self._open[number]
        self._open[number] = now
        if now - last > _GAP:
            self._gaps.append((last, now))

    def longest_stall(self, start: float, end: float) -> float:
        """Longest time within or across [start, end] in which one client got no answer."""
        gaps = [e - s for s, e in list(self._gaps) if s < end and e > start]
        gaps += [end - s for s in list(self._open.values()) if s < end and end - s > _GAP]
        return max(gaps, default=0.0)

    @property
    def answered(self) -> int:
        """Puts answered, of whatever kind."""
        return self.acknowledged + self.rewritten

    def release(self) -> None:
        """Load the rest of the records, too."""
        self.released = True

    def stop(self) -> None:
        """End after what is in flight; raises LoadFailed if anything failed."""
        self.stopping = True
        self.join()


class ReadBack(_Thread):
    """Reads every key through one replica alone and compares."""

    def __init__(self, address: str, expected: dict[bytes, bytes], *, window: int = 512) -> None:
        super().__init__()
        self._address, self._expected, self._window = address, expected, window
        self.read = 0
        self.mismatches: list[bytes] = []
        """Keys whose value was another or missing."""

    async def work(self) -> None:
        """One client."""
        options = Options(deadline=DEADLINE, window=self._window)
        async with AsyncClient(self._address, options) as client:
            gets = ((key, get_request(key), self._compare) for key in self._expected)
            await _Pipe(client, self._window).run(gets, query=True)

    def _compare(self, key: bytes, reply: bytes) -> None:
        self.read += 1
        if got(reply) != self._expected[key]:
            self.mismatches.append(key)
