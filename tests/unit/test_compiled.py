"""Which twin of a module runs: the compiled one, unless its source has been edited."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import mpaxos
from mpaxos import compiled

PACKAGE = Path(mpaxos.__file__).parent
TELL = (
    "import mpaxos.compiled, mpaxos.core.replica as r, mpaxos.errors\n"
    "print(mpaxos.compiled.RUNS, type(r.Replica.step).__name__, r.__file__, sep='|')"
)


def told(folder: Path, **environment: str) -> tuple[str, str, Path]:
    """What runs, the kind of a method, and the file of a module, in a process of its own."""
    clean = {key: value for key, value in os.environ.items() if key != compiled.PURE}
    # Without site: an editable installation would lead back to this checkout.
    path = os.pathsep.join([str(folder), str(Path(msgspec.__file__).parents[1])])
    printed = subprocess.run(
        [sys.executable, "-S", "-c", TELL],
        env=clean | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    runs, kind, file = printed.strip().split("|")
    return runs, kind, Path(file)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package with its compiled modules, as a wheel would install it."""
    shutil.copytree(PACKAGE, tmp_path / "mpaxos", ignore=shutil.ignore_patterns("__pycache__"))
    from mpaxos import _compiled, _native

    for module in (_compiled, _native):
        assert module.__file__ is not None
        target = tmp_path / "mpaxos" / Path(module.__file__).name
        if not target.exists():
            shutil.copy(module.__file__, target)
    return tmp_path


def test_the_compiled_modules_run(copy: Path) -> None:
    runs, kind, file = told(copy)
    assert (runs, kind) == ("compiled", "method_descriptor")
    assert file == copy / "mpaxos" / "core" / "replica.py"


def test_an_edited_source_runs(copy: Path) -> None:
    leader = copy / "mpaxos" / "core" / "leader.py"
    leader.write_text(leader.read_text() + "\n# edited\n")
    runs, kind, _ = told(copy)
    assert runs == "source: mpaxos.core.leader was edited since it was compiled"
    assert kind == "function"


def test_a_source_that_is_gone_is_an_edit(copy: Path) -> None:
    (copy / "mpaxos" / "core" / "leader.py").rename(copy / "leader.py")
    with pytest.raises(subprocess.CalledProcessError):
        told(copy)


def test_the_source_runs_when_asked_for(copy: Path) -> None:
    assert told(copy, MPAXOS_PURE="1")[:2] == ("source: MPAXOS_PURE is set", "function")


def test_the_source_runs_when_nothing_is_compiled(copy: Path) -> None:
    for library in (copy / "mpaxos").glob("_compiled*.so"):
        library.unlink()
    assert told(copy)[:2] == ("source: nothing is compiled", "function")
