"""Writes the C of the modules that are compiled with mypyc. Called by CMakeLists.txt.

    python generate.py --list              the modules' files, for the build's dependencies
    python generate.py DIRECTORY           writes the C into DIRECTORY

Which modules: those that run in every turn, all of core among them. They stay what they are,
Python: mpaxos.compiled loads the compiled twin of a module while its source is unchanged.
"""

from __future__ import annotations

import os
import sys
from importlib.util import source_hash
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src"
RECORDS = ("messages", "output", "sessions", "settings", "standing", "transfer_io", "types")
"""Modules of core that stay as they are. msgspec decodes records after their annotations, and mypyc
keeps of `list[tuple[int, bytes]]` only the `list`; there is nothing in them to make faster."""
BESIDE_CORE = (
    "net/adapter",
    "net/codec",
    "machine/context",
    "machine/host",
    "runtime/applier",
    "runtime/held",
    "runtime/loop",
    "storage/disk",
    "storage/memory",
    "storage/pmem",
    "storage/store",
    "storage/view",
)
GROUP = "mpaxos._compiled"
HEADER = "sources.h"


def files() -> list[Path]:
    """The modules, relative to SOURCE."""
    core = sorted((SOURCE / "mpaxos" / "core").glob("[!_]*.py"))
    found = [path for path in core if path.stem not in RECORDS]
    found += [SOURCE / "mpaxos" / f"{name}.py" for name in BESIDE_CORE]
    return [path.relative_to(SOURCE) for path in found]


def module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts)


def write_hashes(path: Path) -> None:
    """Each module's name and the hash of the source that it was compiled from, as C."""
    lines = []
    for file in files():
        digest = source_hash((SOURCE / file).read_bytes())
        hexed = "".join(f"\\x{byte:02x}" for byte in digest)
        lines.append(f'    {{"{module(file)}", "{hexed}", {len(digest)}}},')
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    if sys.argv[1:] == ["--list"]:
        print(";".join(str(SOURCE / path) for path in files()), end="")
        return
    from mypyc.build import mypycify

    directory = Path(sys.argv[1]).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    write_hashes(directory / HEADER)
    os.chdir(SOURCE)  # so that tracebacks name files as the project does
    options = ["--config-file=", f"--cache-dir={directory / 'cache'}", "--follow-imports=silent"]
    mypycify(
        [*options, *map(str, files())],
        group_name=GROUP,
        target_dir=str(directory),
        multi_file=False,
    )


main()
