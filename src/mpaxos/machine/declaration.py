"""What an inspected state machine class offers, as both sides see it: replicas and clients."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import msgspec

from mpaxos._native import Table
from mpaxos.machine.codec import ValueCodec, pack
from mpaxos.machine.declare import COMMAND, QUERY, BadRequest, StateMachine


class Method(NamedTuple):
    """A command or query as both sides see it."""

    name: str
    kind: str
    signature: inspect.Signature
    """Without `self`."""
    parameters: tuple[str, ...]
    arguments: type[msgspec.Struct]
    """The request: an array of the method's name and the arguments."""
    result: ValueCodec
    function: Callable[..., Any]
    text: str
    """One line for the schema."""

    def encode(self, args: tuple[object, ...], kwargs: dict[str, object]) -> bytes:
        """The request that calls this method. Raises TypeError as an ordinary call does."""
        if kwargs or len(args) != len(self.parameters):
            bound = self.signature.bind(*args, **kwargs)
            bound.apply_defaults()
            args = bound.args
        return pack((self.name, *args))


class ContainerSpec(NamedTuple):
    """One declared container."""

    name: str
    text: str
    build: Callable[[Table], object]


class Declaration:
    """What an inspected class offers."""

    def __init__(
        self,
        machine: type[StateMachine],
        containers: tuple[ContainerSpec, ...],
        methods: tuple[Method, ...],
    ) -> None:
        self.machine = machine
        self.name = machine.__name__
        self.containers = containers
        self.methods = {method.name: method for method in methods}
        self.by_arguments = {method.arguments: method for method in methods}
        self.takes_bytes = not methods
        self._decoders = {kind: _decoder(methods, kind) for kind in (COMMAND, QUERY)}

    def decode(self, request: bytes, kind: str) -> tuple[Method, tuple[Any, ...]]:
        """The method called and its arguments. Raises ConfigError (unknown method) or
        msgspec.ValidationError (wrong arguments), BadRequest when it is no request at all."""
        decode = self.decoder(kind)
        try:
            if decode is not None:
                call = decode(request)
                return self.by_arguments[type(call)], msgspec.structs.astuple(call)
            error = msgspec.ValidationError("")
        except msgspec.ValidationError as wrong:
            error = wrong
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise BadRequest("the request is not MessagePack") from None
        self._explain(request, kind, error)

    def decoder(self, kind: str) -> Callable[[bytes], Any] | None:
        """What makes a request of this kind the arguments of a method; None when there is none.
        Raises msgspec.DecodeError, RecursionError or UnicodeDecodeError."""
        return self._decoders[kind]

    def _explain(self, request: bytes, kind: str, error: msgspec.ValidationError) -> NoReturn:
        try:
            name, *arguments = msgspec.msgpack.decode(request)
        except (msgspec.DecodeError, LookupError, TypeError, RecursionError, ValueError):
            raise BadRequest("the request is not an array of method and arguments") from None
        method = self.methods.get(name) if isinstance(name, str) else None
        if method is None:
            raise BadRequest(f"{self.name} has no such method; it has {', '.join(self.methods)}")
        if method.kind != kind:
            raise BadRequest(f"{self.name}.{name} is a {method.kind}, not a {kind}")
        due = len(method.parameters)
        if len(arguments) != due:
            raise msgspec.ValidationError(
                f"{self.name}.{name} takes {due} arguments, not {len(arguments)}"
            ) from None

        def parameter(match: re.Match[str]) -> str:
            index = int(match[1]) - 1
            known = index < len(method.parameters)
            return f"`{method.parameters[index]}{match[2]}`" if known else match[0]

        text = re.sub(r"`\$\[(\d+)\]([^`]*)`", parameter, str(error))
        raise msgspec.ValidationError(f"{self.name}.{name}: {text}") from None

    def schema(self) -> str:
        """Class, containers and methods as text, the same in every process."""
        lines = [f"machine {self.name}"]
        lines += [f"container {spec.name}: {spec.text}" for spec in self.containers]
        lines += [method.text for _, method in sorted(self.methods.items())]
        return "\n".join([*lines, "execute bytes"] if self.takes_bytes else lines)


def _decoder(methods: tuple[Method, ...], kind: str) -> Callable[[bytes], Any] | None:
    types = tuple(method.arguments for method in methods if method.kind == kind)
    return msgspec.msgpack.Decoder(typing.Union[types]).decode if types else None  # noqa: UP007
