"""The fault proxy does to connections what it says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from mpaxos.proxy import Link, Proxy


@pytest.fixture
def link() -> Iterator[Link]:
    """A link to a server that sends back what it gets."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(connection,), daemon=True).start()

    def echo(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(4096):
                    connection.sendall(data)
            except OSError:
                pass

    threading.Thread(target=serve, daemon=True).start()
    with Proxy() as proxy, closing(server):
        yield proxy.link(f"127.0.0.1:{server.getsockname()[1]}")
        server.shutdown(socket.SHUT_RDWR)


def connect(link: Link, timeout: float = 20.0) -> socket.socket:
    host, _, port = link.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=timeout)


def test_carries_bytes(link: Link) -> None:
    with connect(link) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
    assert link.carried == 10


@pytest.mark.parametrize("way", ["there", "back"])
def test_a_stalled_way_keeps_its_bytes(link: Link, way: str) -> None:
    with connect(link) as client:
        getattr(link, way).stalled = True
        client.sendall(b"late")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(100)
        client.settimeout(20)
        link.heal()
        assert client.recv(100) == b"late"


def test_cut_breaks_and_refuses_until_healed(link: Link) -> None:
    with connect(link) as client:
        client.sendall(b"a")
        assert client.recv(100) == b"a"
        link.cut()
        with pytest.raises(ConnectionError):
            if client.recv(100) == b"":
                raise ConnectionResetError
    with connect(link) as refused, pytest.raises(ConnectionError):
        if refused.recv(100) == b"":
            raise ConnectionResetError
    link.heal()
    with connect(link) as client:
        client.sendall(b"b")
        assert client.recv(100) == b"b"


def test_slow_ways_deliver_everything_in_order(link: Link) -> None:
    link.there.delay, link.back.rate = 0.02, 1_000_000.0
    sent = b"".join(n.to_bytes(4, "big") for n in range(5000))
    with connect(link) as client:
        client.sendall(sent)
        received = b""
        while len(received) < len(sent):
            received += client.recv(4096)
    assert received == sent
