"""Runs one of the targets in Python under atheris, which searches for new paths through the code.

    python -m tests.fuzz.coverage TARGET [options of libFuzzer] [corpus directories and inputs]

scripts/fuzz.sh does it for all of them. A single file as the corpus is run once: so a failure is
reproduced; that works without atheris, too.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def replay(target: str, paths: list[Path]) -> None:
    """Run single inputs, without atheris."""
    targets = importlib.import_module("tests.fuzz.targets")
    for path in paths:
        accepted = targets.TARGETS[target](path.read_bytes())
        print(f"{path}: {'accepted' if accepted else 'refused, as it should be'}")


def main() -> None:
    """Choose, instrument, run."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(str(__doc__))
    name, *rest = sys.argv[1:]
    files = [Path(word) for word in rest if Path(word).is_file()]
    if files and not any(word.startswith("-") for word in rest):
        replay(name, files)
        return
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["mpaxos", "tests.fuzz.targets", "tomllib"]):
        targets = importlib.import_module("tests.fuzz.targets")
    target = targets.TARGETS[name]

    def run(data: bytes) -> None:
        target(data)

    atheris.Setup([sys.argv[0], *rest], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
