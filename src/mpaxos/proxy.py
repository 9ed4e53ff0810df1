"""A TCP proxy that harms connections: for tests of what a cluster does on a bad network.

    with Proxy() as proxy:
        link = proxy.link("127.0.0.1:4100")       # link.address leads there
        link.there.delay = 0.05                    # seconds, towards the target
        link.back.stalled = True                   # nothing comes back; nobody is told
        link.cut()                                 # connections break, new ones are refused
        link.heal()

A direction that is stalled or slow keeps its bytes, as TCP does across a network that loses
packets: they arrive when it heals, unless the connection was broken before.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self

CHUNK = 1 << 16


class Direction:
    """What happens to the bytes that go one way. May be changed at any time by any thread."""

    def __init__(self) -> None:
        self.stalled = False
        """Nothing passes."""
        self.delay = 0.0
        """Seconds that bytes take."""
        self.rate: float | None = None
        """Bytes per second at most; None: no limit."""

    def heal(self) -> None:
        """Everything passes at once again."""
        self.stalled = False
        self.delay = 0.0
        self.rate = None


class Link:
    """One way through the proxy, to one target, for any number of connections."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.address = ""
        """host:port that leads to the target."""
        self.there = Direction()
        self.back = Direction()
        self.carried = 0
        """Bytes, both ways."""
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._call: Callable[[Callable[[], None]], object] = lambda function: function()

    def cut(self) -> None:
        """Break all connections and refuse new ones until heal()."""
        self._refusing = True
        self.reset()

    def reset(self) -> None:
        """Break all connections, once."""
        self._call(self._break)

    def heal(self) -> None:
        """Everything passes again."""
        self._refusing = False
        self.there.heal()
        self.back.heal()

    def _break(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        host, _, port = self.target.rpartition(":")
        if self._refusing:
            writer.transport.abort()
            return
        try:
            onward_reader, onward = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, onward}
        self._writers |= pair
        ways = asyncio.gather(
            self._pump(reader, onward, self.there),
            self._pump(onward_reader, writer, self.back),
            return_exceptions=True,
        )
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await ways
        finally:
            self._writers -= pair
            for end in pair:
                end.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Direction
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if way.delay:
                    await asyncio.sleep(way.delay)
                if way.rate:
                    await asyncio.sleep(len(data) / way.rate)
                while way.stalled and not writer.is_closing():
                    await asyncio.sleep(0.005)
                self.carried += len(data)
                writer.write(data)
                await writer.drain()
        # An end of the stream is passed on at once: half-open connections are nobody's use here.
        writer.transport.abort() if reader.exception() else writer.close()


class Proxy:
    """Links of one test, run by a thread of their own. A context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def link(self, target: str, address: str = "127.0.0.1:0") -> Link:
        """A new way to `target`, listening on `address`. Raises OSError when it is in use."""
        link = Link(target)
        host, _, port = address.rpartition(":")

        async def listen() -> asyncio.Server:
            return await asyncio.start_server(link.serve, host, int(port))

        server = self._run(listen())
        bound = server.sockets[0].getsockname()
        link.address = f"{bound[0]}:{bound[1]}"
        link._call = self._loop.call_soon_threadsafe
        self._servers.append(server)
        return link

    def close(self) -> None:
        """Break everything."""

        async def stop() -> None:
            for server in self._servers:
                server.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._run(stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
