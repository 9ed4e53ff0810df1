"""Finding the user's state machine class."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from mpaxos.errors import ConfigError
from mpaxos.machine import StateMachine


def load_service(name: str) -> type[StateMachine]:
    """The class named "package.module:Class". Modules in the working directory are found too.

    Raises ConfigError saying which part of the name is wrong.
    """
    module_name, colon, class_name = name.partition(":")
    if not (module_name and colon and class_name):
        raise ConfigError(
            f"service {name!r}: write it as MODULE:CLASS, as in mpaxos.services.kv:KeyValue"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"service {name!r}: no module {error.name!r} (looked in {here} and what is installed)"
        ) from error
    found = getattr(module, class_name, None)
    if found is None:
        classes = [
            key
            for key, value in vars(module).items()
            if isinstance(value, type)
            and issubclass(value, StateMachine)
            and value is not StateMachine
        ]
        hint = f"; it has {', '.join(sorted(classes))}" if classes else ""
        raise ConfigError(f"service {name!r}: {module_name} has no {class_name}{hint}")
    if not (isinstance(found, type) and issubclass(found, StateMachine)):
        raise ConfigError(f"service {name!r}: {class_name} is not a subclass of StateMachine")
    return found
