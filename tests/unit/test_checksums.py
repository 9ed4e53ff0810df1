"""The checksums are those that their names promise, whichever way they are taken."""

from __future__ import annotations

import ctypes
import random

import pytest

from mpaxos._native import crc32c, digest64


def by_bits(data: bytes, crc: int = 0) -> int:
    """CRC-32C as RFC 3720, appendix B.4, defines it."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_crc32c_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, appendix B.4
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize("crc", [0, 1, 0xDEADBEEF, 0xFFFFFFFF])
def test_crc32c_of_short_texts_is_that_of_long_ones(crc: int) -> None:
    """Up to 64 bytes the processor's instruction takes it, above ISA-L."""
    text = random.Random(1).randbytes(300)
    for length in [*range(150), 255, 256, 257]:
        for start in (0, 1, 7):
            part = text[start : start + length]
            assert crc32c(part, crc) == by_bits(part, crc), (start, length)


def test_a_digest_does_not_depend_on_the_vectors() -> None:
    """Of the library it is linked with, the function that takes no vectors but the usual ones."""
    plain = ctypes.CDLL("libxxhash.so.0").XXH3_64bits
    plain.argtypes, plain.restype = [ctypes.c_char_p, ctypes.c_size_t], ctypes.c_uint64
    text = random.Random(1).randbytes(300_000)
    assert digest64(b"") == 0x2D06800538D394C2
    for length in [*range(300), 511, 1024, 1025, 65_536, 300_000]:
        assert digest64(text[:length]) == plain(text[:length], length), length
