"""How fast the plane alone is: one process echoes requests, others ask; no protocol, no storage.

    python bench/plane_echo.py [CONNECTIONS] [BYTES] [SECONDS]

Each connection has one request outstanding. The askers are plain sockets with epoll in Python, so
with many connections they are the limit; the processor time of the plane per request is not.
"""

from __future__ import annotations

import multiprocessing
import resource
import select
import socket
import struct
import sys
import time

from mpaxos import _native


def ask(port: int, first: int, connections: int, size: int, seconds: float) -> None:
    """Keep `connections` sessions busy, one request each."""
    poller = select.epoll()
    socks: dict[int, tuple[socket.socket, bytes]] = {}

    def frame(kind: int, payload: bytes) -> bytes:
        head = b"mPx1" + struct.pack("<BBHI", 1, kind, 0, len(payload))
        return head + struct.pack("<I", _native.crc32c(head + payload)) + payload

    for session in range(first, first + connections):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        entry = struct.pack("<QQQIB3x", session, 1, 1, size, 0) + bytes(size)
        request = frame(4, entry)
        sock.sendall(frame(1, struct.pack("<HHIQ", 1, 1, 0, session)))
        sock.recv(4096)
        sock.sendall(request)
        socks[sock.fileno()] = (sock, request)
        poller.register(sock, select.EPOLLIN)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for number, _ in poller.poll(0.1):
            sock, request = socks[number]
            sock.recv(65536)
            sock.send(request)


def main() -> None:
    connections, size, seconds = (
        [int(a) for a in sys.argv[1:]] + [100, 128, 5][len(sys.argv) - 1 :]
    )[:3]
    plane = _native.Plane(
        replica=0,
        cluster=bytes(16),
        incarnation=1,
        agreement=1,
        peers={},
        listen_peer=("127.0.0.1", 0),
        listen_client=("127.0.0.1", 0),
        listen_jpaxos=None,
    )
    port = plane.ports()[1]
    half = max(connections // 2, 1)
    askers = [
        multiprocessing.Process(target=ask, args=(port, 1 + i * half, half, size, seconds))
        for i in range(2 if connections > 1 else 1)
    ]
    for asker in askers:
        asker.start()
    turns = requests = 0
    begin, begin_cpu = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    while time.monotonic() < begin + seconds:
        _, events = plane.poll(2**62, 8, True)
        turns += 1
        for event in events:
            batch = event[1]
            if event[0] != _native.EVENT_BATCH or not isinstance(batch, _native.Batch):
                continue
            replies = _native.ReplySet()
            for session, sequence, _, _, payload in batch.entries():
                replies.add(session, sequence, 0, payload)
                requests += 1
            plane.deliver(replies)
        plane.flush()
    spent = time.monotonic() - begin
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    used = cpu.ru_utime + cpu.ru_stime - begin_cpu.ru_utime - begin_cpu.ru_stime
    print(
        f"{connections} connections, {size} B: {requests / spent:,.0f} requests/s, "
        f"{requests / max(turns, 1):.1f} per turn, {used / max(requests, 1) * 1e6:.1f} us of "
        f"processor time per request"
    )
    for asker in askers:
        asker.terminate()
        asker.join()
    plane.close()


if __name__ == "__main__":
    main()
