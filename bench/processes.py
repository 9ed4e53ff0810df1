"""Server processes of the comparison: started, waited for, ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mpaxos.errors import MpaxosError


class PeerFailed(MpaxosError):
    """A system that is compared did not start; the text has the end of its log."""


class Processes:
    """Processes in a directory of their own, all ended with the context."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._processes: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(self, words: list[str], environ: Mapping[str, str] | None = None) -> int:
        """Start a program, its output in a log; returns its process id."""
        log = self.directory / f"log-{len(self._processes)}"
        # A server that outlives a benchmark that was killed would disturb all that follow.
        if shutil.which("setpriv"):
            words = ["setpriv", "--pdeathsig", "KILL", *words]
        with log.open("wb") as output:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environ or {})},
                cwd=self.directory,
                start_new_session=True,
            )
        self._processes.append((process, log))
        return process.pid

    def wait_for(self, condition: Callable[[], bool], what: str, timeout: float = 60.0) -> None:
        """Wait until a condition holds. Raises PeerFailed, also when a process ends."""
        end = time.monotonic() + timeout
        while not self._holds(condition):
            ended = [log for process, log in self._processes if process.poll() is not None]
            if ended or time.monotonic() > end:
                logs = "\n".join(self._tail(log) for log in ended or self._logs())
                raise PeerFailed(f"waited in vain for {what}\n{logs}")
            time.sleep(0.02)

    @staticmethod
    def _holds(condition: Callable[[], bool]) -> bool:
        try:
            return condition()
        except OSError:  # nobody listens yet
            return False

    def _logs(self) -> list[Path]:
        return [log for _, log in self._processes]

    @staticmethod
    def _tail(log: Path) -> str:
        return log.read_text(errors="replace")[-1500:]

    def close(self) -> None:
        """End all of them."""
        for process, _ in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
        for process, _ in self._processes:
            process.wait()


@contextlib.contextmanager
def processes(name: str, parent: Path | None = None) -> Iterator[Processes]:
    """Processes whose files are below `parent`, by default in memory where there is a tmpfs, and
    gone in the end."""
    shared = Path("/dev/shm")
    if parent is None and os.access(shared, os.W_OK):
        parent = shared
    directory = Path(tempfile.mkdtemp(prefix=f"mpaxos-peer-{name}-", dir=parent))
    running = Processes(directory)
    try:
        yield running
    finally:
        running.close()
        shutil.rmtree(directory, ignore_errors=True)
