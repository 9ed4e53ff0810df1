"""Prefers the compiled twins of the modules that run in every turn.

The protocol, the loop and the stores are Python, and are compiled with mypyc when mpaxos is
installed: the same semantics at about twice the speed (bench/RESULTS.md). Which one runs:

- the compiled modules, all of them, if each was compiled from just the source that is here;
- the sources, all of them, if one was edited since, if nothing was compiled, or if the environment
  variable MPAXOS_PURE is set (tests with mutants, which replace parts of modules, need that).

`mpaxos version` tells which.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import source_hash
from types import ModuleType

PURE = "MPAXOS_PURE"


class _Compiled:
    """A finder and loader for the modules in mpaxos._compiled (importlib.abc has the protocol;
    it is not imported because it is slow to)."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        from mpaxos import _compiled

        if name not in _compiled.SOURCES:
            return None
        spec = ModuleSpec(name, self, origin=_source(name))  # type: ignore[arg-type]
        spec.has_location = True
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        from mpaxos import _compiled

        return _compiled.load(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """The module was run when it was made; tracebacks and inspect want its source."""
        module.__file__ = _source(module.__name__)


def _source(name: str) -> str:
    here = os.path.dirname(os.path.abspath(__file__))
    return os.path.join(here, *name.split(".")[1:]) + ".py"


def _obstacle() -> str | None:
    """Why the sources must be run, or None."""
    if os.environ.get(PURE):
        return f"{PURE} is set"
    try:
        from mpaxos import _compiled
    except ImportError:
        return "nothing is compiled"
    for name, compiled_from in _compiled.SOURCES.items():
        try:
            with open(_source(name), "rb") as file:
                same = source_hash(file.read()) == compiled_from
        except OSError:
            same = False
        if not same:
            return f"{name} was edited since it was compiled"
    return None


def _prefer_compiled() -> str:
    """Make imports of compiled modules find them; what runs from now on, in words."""
    obstacle = _obstacle()
    if obstacle is not None:
        return f"source: {obstacle}"
    from mpaxos import _compiled

    # Where the modules look for the library that they are in.
    _compiled.GROUP.__file__ = _compiled.__file__
    sys.modules[_compiled.GROUP.__name__] = _compiled.GROUP
    sys.meta_path.insert(0, _Compiled())
    return "compiled"


RUNS = _prefer_compiled()
"""What runs: "compiled", or "source" and why. Decided once, before any of them is imported."""
