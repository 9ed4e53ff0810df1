"""Where a process spends its time, by part of the way of a request: from `perf`.

Kernel time is sorted by the system call it was spent in, which needs call chains; time in user
space by the function that ran. A prefix of its name tells the part, in the order of RULES.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

RATE = 1999
"""Samples per second; a prime near 2 kHz, so as not to run in step with timers."""

GROUPS = (
    "socket: send",
    "socket: receive",
    "socket: wait",
    "kernel: other",
    "parsing",
    "Python step",
    "store",
    "apply",
    "reply",
    "native: other",
)

KERNEL_RULES = (
    (r"sys_(send|write)|do_writev|tcp_sendmsg", "socket: send"),
    (r"sys_(recv|read)|do_readv|tcp_recvmsg", "socket: receive"),
    (r"sys_(epoll|poll|ppoll|select)|do_epoll", "socket: wait"),
)
"""Searched in the kernel's part of a call chain."""

RULES = (
    (r"mpaxos::(Log|FilePool)|persist_log|pmem_(mem|persist|drain|flush)|memmove_movnt", "store"),
    (r"mpaxos::(Engine|Sessions|KeyValue|Tree|Transaction|Leaf|digest64)|pmemobj|palloc", "apply"),
    (r"^(tx_|ulog_|operation_|lane_|alloc_class|heap_|memblock_|run_|bucket_|obj_|ravl)", "apply"),
    (r"XXH3|XXH64|::crc_of|::encode_failure", "apply"),
    (r"::deliver|ReplySet|::write\(|OutBuffer|end_frame|begin_frame|seal_frame", "reply"),
    (r"mpaxos::(\w*Connection|Hub|RequestQueue|BatchBuilder|Plane|Listener|PeerLink)", "parsing"),
    (r"peek_frame|check_frame|validate_entries|crc32|EntryCursor|mpaxos::Batch", "parsing"),
    (
        r"^_?Py|^_PyEval|^(tuple|dict|list|long|object|type|method|unicode|gc|func|slot|frame)_",
        "Python step",
    ),
    (r"nanobind|nb_|asio::", "native: other"),
)
"""Searched in the name of the function that ran, outside the kernel."""

LIBRARIES = (
    (r"libpmemobj|libpmem", "apply"),
    (r"libisal", "parsing"),
    (r"libxxhash", "apply"),
    (r"python|msgspec", "Python step"),
)
"""Searched in the file a function belongs to, where its name tells nothing."""


class Hotspots(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of the samples, 0 to 1."""

    samples: int
    groups: dict[str, float]
    functions: list[tuple[str, str, float]]
    """(group, function, share) of the most frequent ones."""


class Profile:
    """perf, attached to a process. Used around what is to be observed:

    profile = Profile(pid); profile.start(seconds); ...; found = profile.finish()
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = tempfile.TemporaryDirectory(prefix="mpaxos-perf-")
        self._data = Path(self._directory.name) / "perf.data"

    def start(self, seconds: float) -> None:
        """Observe for so long, in the background."""
        words = ["perf", "record", "-g", "-F", str(RATE), "-o", str(self._data)]
        words += ["-p", str(self._pid), "--", "sleep", str(seconds)]
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def finish(self) -> Hotspots | None:
        """What was seen; None when perf could not observe the process."""
        try:
            if self._process is None or self._process.wait(timeout=60) != 0:
                return None
            words = ["perf", "script", "-i", str(self._data), "-F", "ip,sym,dso"]
            with subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                errors="replace",
            ) as script:
                found = classify(chains(script.stdout or ()))
            return found if found.samples else None
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.close()

    def close(self) -> None:
        """Stop perf if it runs, and remove its data."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
        self._directory.cleanup()


def why_not() -> str | None:
    """Why nothing can be observed here; None when it can."""
    if shutil.which("perf") is None:
        return "perf is not installed (Debian: apt-get install linux-perf)"
    words = ["perf", "record", "-o", "/dev/null", "-F", "99", "--", "true"]
    done = subprocess.run(words, capture_output=True, check=False)
    if done.returncode != 0:
        return "perf may not observe: see /proc/sys/kernel/perf_event_paranoid"
    return None


_OURS = "/_native."
"""In the path of the extension."""

Frame = tuple[str, str]
"""(function, file it belongs to)"""

_LINE = re.compile(r"^\s*[0-9a-f]+\s+(.*?)\s+\((.*)\)\s*$")


def chains(lines: Iterable[str]) -> Iterator[list[Frame]]:
    """The call chains of `perf script -F ip,sym,dso`, the function that ran first."""
    chain: list[Frame] = []
    for line in lines:
        found = _LINE.match(line)
        if found:
            chain.append((re.sub(r"\+0x[0-9a-f]+$", "", found[1]), found[2]))
        elif chain:
            yield chain
            chain = []
    if chain:
        yield chain


def group_of(chain: list[Frame]) -> str:
    """The part of a request's way that a sample belongs to."""
    name, library = chain[0]
    if _is_kernel(library):
        calls = " ".join(function for function, where in chain if _is_kernel(where))
        return _first(KERNEL_RULES, calls) or "kernel: other"
    group = _first(RULES, name)
    if group is not None:
        return group
    if _OURS in library:
        return "native: other"
    library = library.rpartition("/")[2]
    if re.search(r"^(libpmem|libc\b|libc[.-]|libstdc)", library):
        # On whose behalf: the nearest function of ours, where the chain is not broken before it.
        callers = (function for function, where in chain[1:] if _OURS in where)
        found = next((g for function in callers if (g := _first(RULES, function))), None)
        if found is not None:
            return found
    return _first(LIBRARIES, library) or "native: other"


def _is_kernel(library: str) -> bool:
    return library.startswith(("[kernel", "[guest.kernel", "[unknown] [k"))


def _first(rules: tuple[tuple[str, str], ...], text: str) -> str | None:
    return next((group for pattern, group in rules if re.search(pattern, text)), None)


def classify(samples: Iterable[list[Frame]]) -> Hotspots:
    """Count samples by group and by function."""
    groups: Counter[str] = Counter()
    functions: Counter[tuple[str, str]] = Counter()
    for chain in samples:
        group = group_of(chain)
        groups[group] += 1
        name, library = chain[0]
        if name == "[unknown]":
            name += " in " + library.rpartition("/")[2]
        # Names of templates are long and end alike.
        functions[group, name[:80]] += 1
    total = sum(groups.values())
    return Hotspots(
        samples=total,
        groups={group: groups[group] / max(1, total) for group in GROUPS},
        functions=[(g, f, n / total) for (g, f), n in functions.most_common(20)],
    )
