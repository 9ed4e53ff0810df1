"""Chunks of images made up, or changed and sealed again (docs/image.md)."""

from __future__ import annotations

import struct

from mpaxos._native import CHUNK_HEADER, crc32c


def put_record(key: bytes, value: bytes, container: int = 0) -> bytes:
    """A PUT, its item with the checksum that it has in a pool."""
    lengths = struct.pack("<III", len(key), len(value), (len(value) + 15) // 16 * 16)
    crc = struct.pack("<I", crc32c(lengths + key + value))
    return bytes([PUT, container]) + lengths + crc + key + value


def reseal(chunk: bytes, **fields: int) -> bytes:
    """The chunk with its length and all checksums made right again; `fields` of the header
    changed."""
    names = ["magic", "version", "flags", "length", "crc", "image", "number", "slot"]
    header = dict(zip(names, struct.unpack("<IHHIIQQQ", chunk[:CHUNK_HEADER]), strict=True))
    header["length"] = len(chunk) - CHUNK_HEADER
    header.update(fields)
    header["crc"] = 0
    packed = struct.pack("<IHHIIQQQ", *header.values())
    records, crc = _seal_records(chunk[CHUNK_HEADER:])
    crc = crc32c(packed[16:], crc32c(packed[:12], crc))
    return packed[:12] + struct.pack("<I", crc) + packed[16:] + records


PUT = 3
_FIXED = {1: 25, 7: 33, 8: 5}
_LENGTH_AT = {2: (2, 1), 4: (2, 4), 5: (9, 4), 6: (10, 4), 9: (38, 4)}
"""Where the length of what ends a record is, and how many bytes it has."""


def _seal_records(records: bytes) -> tuple[bytes, int]:
    """The records with the checksums of their items made right, as far as they are records; and
    their own checksum, which leaves out the items' keys and values."""
    made = bytearray(records)
    covered, crc, at = 0, 0, 0
    while at < len(made):
        kind = made[at]
        if kind == PUT:
            if at + 18 > len(made):
                break
            key, value = struct.unpack_from("<II", made, at + 2)
            end = at + 18 + key + value
            if end > len(made):
                break
            item = bytes(made[at + 2 : at + 14]) + bytes(made[at + 18 : end])
            struct.pack_into("<I", made, at + 14, crc32c(item))
            crc = crc32c(bytes(made[covered : at + 18]), crc)
            covered = at = end
        elif kind in _FIXED:
            at += _FIXED[kind]
        elif kind == 10:
            at += 46
        elif kind in _LENGTH_AT:
            offset, size = _LENGTH_AT[kind]
            at += offset + size + int.from_bytes(made[at + offset : at + offset + size], "little")
        else:
            break
    return bytes(made), crc32c(bytes(made[covered:]), crc)
