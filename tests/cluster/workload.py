"""Writers that know exactly what was acknowledged to them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from mpaxos.client.options import Options
from mpaxos.local import LocalCluster
from mpaxos.services.kv import AsyncKeyValueClient, KeyValueClient

DEADLINE = 120.0


class Workload:
    """Clients in a thread: unique puts, a counter per writer, one counter that all share.

    A counter moves by compare-and-set. On a writer's own counter each must succeed, for nobody else
    touches it: were one lost or run twice, a later one would find another value.
    """

    def __init__(self, addresses: str, writers: int = 6) -> None:
        self._addresses = addresses
        self._writers = writers
        self.puts: dict[bytes, bytes] = {}
        """Acknowledged puts."""
        self.increments = [0] * writers
        """Acknowledged increments of each writer's own counter."""
        self.shared = 0
        """Acknowledged increments of the shared counter."""
        self.reconnects = 0
        self._stopping = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        try:
            asyncio.run(self._work())
        except BaseException as error:
            self._failure = error

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._writers):
                group.create_task(self._write(number))

    async def _write(self, number: int) -> None:
        options = Options(deadline=DEADLINE)
        async with AsyncKeyValueClient(self._addresses, options) as kv:
            step = 0
            while not self._stopping:
                step += 1
                async with asyncio.TaskGroup() as group:
                    for index in range(4):
                        group.create_task(self._put(kv, f"{number}/{step}/{index}".encode()))
                    group.create_task(self._count(kv, number))
                    group.create_task(self._count_together(kv))
            self.reconnects += kv.client.stats.reconnects

    async def _put(self, kv: AsyncKeyValueClient, key: bytes) -> None:
        value = b"value of " + key
        await kv.put(key, value)
        self.puts[key] = value

    async def _count(self, kv: AsyncKeyValueClient, number: int) -> None:
        now = self.increments[number]
        expected = str(now).encode() if now else None
        swapped = await kv.compare_and_set(f"own/{number}", expected, str(now + 1).encode())
        assert swapped, f"counter {number} is not at {now}: an increment was lost or doubled"
        self.increments[number] += 1

    async def _count_together(self, kv: AsyncKeyValueClient) -> None:
        before = await kv.get(b"shared")
        after = str(int(before or b"0") + 1).encode()
        if await kv.compare_and_set(b"shared", before, after):
            self.shared += 1

    # -------------------------------------------------------------- for the test's thread

    @property
    def acknowledged(self) -> int:
        """Commands acknowledged so far."""
        return len(self.puts) + sum(self.increments) + self.shared

    def wait_for(self, more: int, timeout: float = 60.0) -> None:
        """Wait until so many more commands are acknowledged."""
        target = self.acknowledged + more
        self._until(lambda: self.acknowledged >= target, f"{more} more commands", timeout)

    def _until(self, condition: Callable[[], bool], what: str, timeout: float) -> None:
        end = time.monotonic() + timeout
        while not condition():
            if self._failure is not None:
                raise self._failure
            assert time.monotonic() < end, f"waited {timeout} s in vain for {what}"
            time.sleep(0.002)

    def stop(self) -> None:
        """End; raises what a writer raised."""
        self._stopping = True
        self._thread.join(timeout=DEADLINE + 30)
        assert not self._thread.is_alive(), "the writers do not end"
        if self._failure is not None:
            raise self._failure

    def verify(self, cluster: LocalCluster) -> None:
        """Everything acknowledged is there, once, on every replica; the replicas are equal."""
        for number in cluster.numbers:
            with KeyValueClient(cluster.client_address(number)) as kv:
                held = dict(kv.scan())
            counters = {f"own/{n}".encode(): str(c).encode() for n, c in enumerate(self.increments)}
            counters[b"shared"] = str(self.shared).encode()
            expected = {k: v for k, v in (self.puts | counters).items() if v != b"0"}
            wrong = {k for k in held.keys() | expected.keys() if held.get(k) != expected.get(k)}
            assert not wrong, f"replica {number}: {len(wrong)} wrong, such as {sorted(wrong)[:5]}"
        applied, digests = cluster.digests()
        assert applied > 0
        assert len(set(digests.values())) == 1, digests
