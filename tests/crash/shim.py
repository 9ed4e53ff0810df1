"""The preloaded library: building it, talking to it, reading its traces."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import struct
import subprocess
import threading
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from tests.crash.given import VARIABLE

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "native" / "crash"
LINE = 64


def compiler() -> list[str]:
    """The C++ compiler that the extension needs anyway."""
    return shlex.split(os.environ.get("CXX", "c++"))


_compiling = threading.Lock()


def library() -> Path:
    """Path of the preloaded library; compiled when its sources changed (a few seconds)."""
    with _compiling:
        return _library()


def _library() -> Path:
    sources = sorted(SOURCES.glob("*.cpp"))
    product = [ROOT / "native" / "src" / name for name in HEADERS]
    digest = hashlib.sha256()
    for path in [*sources, *sorted(SOURCES.glob("*.hpp")), *product]:
        digest.update(path.read_bytes())
    target = ROOT / "build" / "crash" / f"libcrash-{digest.hexdigest()[:16]}.so"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    for old in target.parent.glob("libcrash-*.so"):
        old.unlink()
    command = [*compiler(), "-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    command += [f"-I{ROOT / 'native' / 'src'}", *map(str, sources)]
    temporary = target.with_suffix(f".{os.getpid()}")
    command += ["-o", str(temporary), "-lpmemobj", "-lpmem", "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"native/crash does not compile:\n{done.stderr[-3000:]}")
    temporary.rename(target)
    return target


HEADERS = ("pool_layout.hpp", "pool.hpp", "sessions.hpp", "tree.hpp", "tx.hpp", "batch.hpp")
"""The product's layout, which the audit of the library is compiled with."""


def environment(native: Path | None = None) -> dict[str, str]:
    """For a process that is to be recorded; `native`: an extension to use instead of the built."""
    made = dict(os.environ)
    made["LD_PRELOAD"] = str(library())
    made["PMEM_IS_PMEM_FORCE"] = "1"  # a file on tmpfs stands for persistent memory
    made["PYTHONPATH"] = f"{ROOT / 'src'}:{ROOT}"
    made["PYTHONHASHSEED"] = "0"
    made.pop(VARIABLE, None)
    if native is not None:
        made[VARIABLE] = str(native)
    return made


class Kind(IntEnum):
    """Why an event was written; see native/crash/recorder.hpp."""

    FENCE = 1
    MARK = 2
    SYNC = 3
    RENAME = 4
    SYNC_DIRECTORY = 5


@dataclass(frozen=True)
class Line:
    """One line of 64 bytes that is not durable: what it held since it last was."""

    offset: int
    versions: tuple[bytes, ...]
    flushed: int
    """So many of the versions were flushed: they are durable after the fence."""


@dataclass(frozen=True)
class Event:
    """A crash point: all that may or may not have reached memory just before it."""

    kind: Kind
    mark: int
    """How many operations were done and told of."""

    lines: tuple[Line, ...]


def read_trace(path: Path) -> list[Event]:
    """All events of a trace, in order."""
    data = path.read_bytes()
    events, at = [], 0
    while at < len(data):
        kind, mark, count, _ = struct.unpack_from("<IIII", data, at)
        at += 16
        lines = []
        for _ in range(count):
            offset, versions, flushed = struct.unpack_from("<QII", data, at)
            at += 16
            made = tuple(data[at + i * LINE : at + (i + 1) * LINE] for i in range(versions))
            at += versions * LINE
            lines.append(Line(offset, made, flushed))
        events.append(Event(Kind(kind), mark, tuple(lines)))
    return events


class Shim:
    """The library in this process, which must have been started with environment()."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._text = ctypes.create_string_buffer(1 << 20)
        self._library.crash_restore.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        self._library.crash_restore.restype = ctypes.c_size_t
        self._library.crash_audit.argtypes = [ctypes.c_char_p, ctypes.c_size_t]

    def watch(self, path: Path, trace: Path | None = None) -> None:
        """From now on `path` is the pool; with `trace`, what happens to it is recorded there."""
        target = b"" if trace is None else os.fsencode(trace)
        self._library.crash_watch(os.fsencode(path), target)

    def stop(self) -> None:
        """End the recording. Raises OSError when the trace is not complete."""
        if self._library.crash_stop() != 0:
            raise OSError("the trace of a pool could not be written")

    def mark(self, number: int) -> None:
        """Say that `number` operations are done."""
        self._library.crash_mark(number)

    def audit(self) -> tuple[list[str], list[tuple[int, int]]]:
        """Of the open pool: names of containers, and (offset, length) of what is under a
        checksum. Raises AssertionError for a leaked or dangling object."""
        wrong = self._library.crash_audit(self._text, len(self._text))
        text = self._text.value.decode()
        if wrong:
            raise AssertionError(text)
        names, *ranges = text.splitlines()
        pairs = [range_.split() for range_ in ranges]
        return names.split(",") if names else [], [(int(a), int(b)) for a, b in pairs]

    def check_file(self, path: Path) -> bool:
        """Whether libpmemobj finds a closed pool consistent."""
        return int(self._library.crash_check_file(os.fsencode(path))) == 1

    def restore(self, file: ctypes.c_char, base: ctypes.c_char, size: int) -> None:
        """Make `file` equal to `base` again, writing only pages that differ."""
        self._library.crash_restore(ctypes.addressof(file), ctypes.addressof(base), size)
