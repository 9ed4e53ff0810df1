"""What copying as many bytes takes: the measure of a transfer of the state."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from mpaxos.bench.cluster import pool_directory
from mpaxos.config.values import MIB

_SENDER = """
import mmap, socket, sys
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
    with socket.create_connection(("127.0.0.1", int(sys.argv[2]))) as connection:
        with memoryview(memory) as view:
            for at in range(0, len(view), 1 << 20):
                with view[at : at + (1 << 20)] as part:
                    connection.sendall(part)
"""


def plain_copy(size: int) -> float:
    """Seconds that `size` bytes take from one buffer to another over a loopback socket."""
    chunk = bytes(MIB)
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = threading.Thread(target=_send, args=(server.getsockname(), chunk, size))
        sender.start()
        connection, _ = server.accept()
        with connection:
            into = bytearray(MIB)
            began = time.monotonic()
            while connection.recv_into(into):
                pass
            spent = time.monotonic() - began
        sender.join()
    return spent


def carried_copy(size: int, parent: Path | None) -> float:
    """Seconds that `size` bytes take from a file over a loopback socket into a new file, from one
    process to another, both files mapped where pools are by default (`parent`: or there). Raises
    OSError."""
    with pool_directory(parent, 2 * size) as directory:
        source = directory / "source"
        with source.open("wb") as file:
            for at in range(0, size, MIB):
                file.write(os.urandom(min(MIB, size - at)))
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            subprocess.Popen(
                [sys.executable, "-c", _SENDER, str(source), str(server.getsockname()[1])]
            ),
        ):
            connection, _ = server.accept()
            with connection:
                return _receive(connection, size, directory / "new")


def _receive(connection: socket.socket, size: int, path: Path) -> float:
    """Seconds until all of it is in a new file."""
    began = time.monotonic()
    with path.open("w+b") as file:
        file.truncate(size)
        with mmap.mmap(file.fileno(), size) as memory, memoryview(memory) as view:
            at = 0
            while at < size:
                with view[at : at + MIB] as part:
                    got = connection.recv_into(part)
                if got == 0:
                    raise OSError(f"the copy ended after {at} of {size} bytes")
                at += got
            return time.monotonic() - began


def fresh_copy(size: int, reserved: int, parent: Path | None) -> float:
    """Seconds that it takes to make a file of `reserved` bytes and to copy `size` bytes into it
    through a mapping, as a pool is written. Raises OSError."""
    chunk = bytes(range(256)) * (MIB // 256)
    with pool_directory(parent, reserved) as directory:
        began = time.monotonic()
        with (directory / "new").open("w+b") as file:
            os.posix_fallocate(file.fileno(), 0, reserved)
            with mmap.mmap(file.fileno(), reserved) as memory:
                for at in range(0, size - MIB + 1, MIB):
                    memory[at : at + MIB] = chunk
                return time.monotonic() - began


def _send(address: tuple[str, int], chunk: bytes, size: int) -> None:
    with socket.create_connection(address) as connection:
        view = memoryview(chunk)
        while size > 0:
            part = view[: min(size, len(chunk))]
            connection.sendall(part)
            size -= len(part)
