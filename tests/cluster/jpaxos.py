"""A client of the originals' protocol, written from docs/wire.md with nothing of mpaxos in it."""

from __future__ import annotations

import socket
import struct

OK, NACK, REDIRECT, RECONNECT = range(4)


class JPaxosClient:
    """One connection. `client_id` 0 asks for a new one."""

    def __init__(self, address: str, client_id: int = 0) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=30)
        if client_id:
            self._socket.sendall(b"F" + struct.pack(">q", client_id))
            self.client_id = client_id
        else:
            self._socket.sendall(b"T")
            (self.client_id,) = struct.unpack(">q", self.receive(8))

    def receive(self, count: int) -> bytes:
        """Exactly so many bytes; raises ConnectionError when the connection ends first."""
        data = b""
        while len(data) < count:
            part = self._socket.recv(count - len(data))
            if not part:
                raise ConnectionError(f"closed after {len(data)} of {count} bytes")
            data += part
        return data

    def send(self, sequence: int, command: bytes, kind: int = 0) -> None:
        """A request; do not send another before its reply."""
        header = struct.pack(">iqii", kind, self.client_id, sequence, len(command))
        self._socket.sendall(header + command)

    def reply(self) -> tuple[int, bytes]:
        """(result, bytes) of the reply."""
        result, length = struct.unpack(">ii", self.receive(8))
        return result, self.receive(length)

    def request(self, sequence: int, command: bytes) -> bytes:
        """The value of an OK reply; checks all of its fields."""
        self.send(sequence, command)
        result, data = self.reply()
        assert result == OK, (result, data)
        client_id, replied, length = struct.unpack_from(">qii", data)
        assert (client_id, replied, length) == (self.client_id, sequence, len(data) - 16)
        return data[16:]

    def close(self) -> None:
        self._socket.close()


def put(key: bytes, value: bytes) -> bytes:
    """The originals' request to set a value; the reply is the previous one."""
    return b"P" + struct.pack(">I", len(key)) + key + value


def get(key: bytes) -> bytes:
    """The originals' request for a value."""
    return b"G" + struct.pack(">I", len(key)) + key
