"""The input: stanzas of RFC 822 fields, as Debian's package index is written."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec

from mpaxos.errors import ConfigError

STATUS_FILE = Path("/var/lib/dpkg/status")

Record = tuple[bytes, bytes]
"""Key (package name) and value (the whole stanza)."""


class Records(msgspec.Struct, frozen=True):
    """What will be loaded."""

    source: str
    records: list[Record]
    """In the order of the input; a name may occur more than once."""

    @property
    def size(self) -> int:
        """Bytes of all keys and values."""
        return sum(len(key) + len(value) for key, value in self.records)

    def expected(self) -> dict[bytes, bytes]:
        """What the service must hold in the end: of records of one name the last wins."""
        return dict(self.records)


def parse(text: bytes, source: str) -> list[Record]:
    """Records of stanzas that are separated by empty lines. The key is the Package field, or the
    first field where there is none. Raises ConfigError for anything else."""
    records = []
    for number, stanza in enumerate(text.replace(b"\r\n", b"\n").split(b"\n\n"), 1):
        stanza = stanza.strip(b"\n")
        if not stanza:
            continue
        at = 0 if stanza.startswith(b"Package:") else stanza.find(b"\nPackage:") + 1
        line = stanza[at:].split(b"\n", 1)[0]
        field, colon, name = line.partition(b":")
        if not colon or b" " in field or not name.strip():
            raise ConfigError(
                f'{source}: stanza {number} does not begin with a line like "Package: name"; '
                "give a file of RFC 822 stanzas, for example /var/lib/dpkg/status"
            )
        records.append((name.strip(), stanza))
    return records


def _dumpavail() -> bytes:
    try:
        done = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, check=False)
    except FileNotFoundError:
        return b""
    return done.stdout if done.returncode == 0 else b""


def read_records(path: Path | None, limit: int | None = None) -> Records:
    """The first `limit` records of `path`; without a path those of Debian's package index, or
    of the installed packages where the index is empty. Raises ConfigError."""
    source, text = str(path), b""
    if path is None:
        source, text = "apt-cache dumpavail", _dumpavail()
        if not text.strip():
            path, source = STATUS_FILE, str(STATUS_FILE)
    if path is not None:
        try:
            text = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; give a file of RFC 822 stanzas") from None
    records = parse(text, source)[:limit]
    if not records:
        raise ConfigError(f"{source}: there is no record in it; give another file as argument")
    return Records(source, records)
