"""A state machine's methods, callable on a client.

`await bank.transfer("ann", "bob", 10)` looks the method up by its name; editors and type checkers
see it as a function of anything. Where types matter, the same call can be written
`await bank.invoke(Bank.transfer, "ann", "bob", 10)`, with arguments and result checked.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast

import msgspec

from mpaxos.client.aio import AsyncClient
from mpaxos.client.blocking import Client
from mpaxos.client.options import Addresses, Options
from mpaxos.errors import ConfigError, VersionMismatch
from mpaxos.machine.declaration import Declaration, Method
from mpaxos.machine.declare import QUERY, StateMachine
from mpaxos.machine.inspection import inspect_machine

M = TypeVar("M", bound=StateMachine)
P = ParamSpec("P")
R = TypeVar("R")


def _declaration(machine: type[StateMachine]) -> Declaration:
    declaration = inspect_machine(machine)
    if declaration.takes_bytes:
        raise ConfigError(
            f"{declaration.name} has no typed methods: connect without it and use call(), query()"
        )
    return declaration


def _named(declaration: Declaration, name: str) -> Method:
    method = declaration.methods.get(name)
    if method is None:
        raise AttributeError(
            f"{declaration.name} has no @command or @query {name}; it has "
            f"{', '.join(declaration.methods)}"
        )
    return method


def _given(declaration: Declaration, function: Callable[..., Any]) -> Method:
    name = getattr(function, "__name__", "")
    method = declaration.methods.get(name)
    if method is None or getattr(declaration.machine, name) is not function:
        raise ConfigError(f"{function!r} is not a @command or @query of {declaration.name}")
    return method


def _decoded(method: Method, reply: bytes) -> Any:
    try:
        return method.result.decode(reply)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise VersionMismatch(
            f"the reply of {method.name} is no {method.result.text} ({error}): the cluster runs "
            "another version of the state machine"
        ) from None


def _dressed(caller: Callable[..., Any], method: Method) -> Callable[..., Any]:
    """For help() and editors."""
    caller.__name__ = method.name
    caller.__doc__ = method.function.__doc__
    caller.__signature__ = method.signature  # type: ignore[attr-defined]
    return caller


class _Proxy:
    _declaration: Declaration
    _deadline: float | None

    def with_deadline(self, seconds: float) -> Self:
        """The same session, with another deadline for each call."""
        twin = copy.copy(self)
        twin._deadline = seconds
        # Callers made so far are bound to the old deadline.
        for name in self._declaration.methods:
            twin.__dict__.pop(name, None)
        return twin

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._declaration.methods]


class AsyncMachine(_Proxy, Generic[M]):
    """The methods of the state machine M as coroutines, over one session.

    async with mpaxos.connect("127.0.0.1:3001", Bank) as bank:
        await bank.transfer("ann", "bob", 10)
    """

    def __init__(self, addresses: Addresses, machine: type[M], options: Options) -> None:
        """Raises ConfigError when the class is not fit to be a state machine."""
        self._declaration = _declaration(machine)
        self._deadline = None
        self.client = AsyncClient(addresses, options, machine=self._declaration.name)

    def invoke(
        self, method: Callable[Concatenate[M, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[R]:
        """Call a method of the class, with types: `await bank.invoke(Bank.balance, "ann")`."""
        return cast(Awaitable[R], self._call(_given(self._declaration, method), args, kwargs))

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        if name.startswith("_"):
            raise AttributeError(name)
        method = _named(self._declaration, name)

        async def caller(*args: Any, **kwargs: Any) -> Any:
            return await self._call(method, args, kwargs)

        self.__dict__[name] = _dressed(caller, method)
        return caller

    async def _call(self, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        request = method.encode(args, kwargs)
        is_query = method.kind == QUERY
        reply = await self.client.submit(request, deadline=self._deadline, query=is_query)
        return _decoded(method, reply)

    async def close(self) -> None:
        """End the session."""
        await self.client.close()

    async def __aenter__(self) -> Self:
        await self.client.__aenter__()
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self.client.__aexit__(kind, error, trace)


class Machine(_Proxy, Generic[M]):
    """The methods of the state machine M as ordinary functions, over one session.

    with mpaxos.connect_blocking("127.0.0.1:3001", Bank) as bank:
        bank.transfer("ann", "bob", 10)
    """

    def __init__(self, addresses: Addresses, machine: type[M], options: Options) -> None:
        """Raises ConfigError when the class is not fit to be a state machine."""
        self._declaration = _declaration(machine)
        self._deadline = None
        self.client = Client(addresses, options, machine=self._declaration.name)

    def invoke(
        self, method: Callable[Concatenate[M, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call a method of the class, with types: `bank.invoke(Bank.balance, "ann")`."""
        found = _given(self._declaration, method)
        return cast(R, _decoded(found, self._submit(found, args, kwargs).result()))

    def submit(
        self, method: Callable[Concatenate[M, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]:
        """Like `invoke`, but returns a future at once, so that many calls can be in flight."""
        found = _given(self._declaration, method)
        result: Future[R] = Future()
        # What is in flight cannot be called back: cancel() must not pretend to.
        result.set_running_or_notify_cancel()

        def answered(reply: Future[bytes]) -> None:
            try:
                result.set_result(_decoded(found, reply.result()))
            except BaseException as error:
                result.set_exception(error)

        self._submit(found, args, kwargs).add_done_callback(answered)
        return result

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        method = _named(self._declaration, name)

        def caller(*args: Any, **kwargs: Any) -> Any:
            return _decoded(method, self._submit(method, args, kwargs).result())

        self.__dict__[name] = _dressed(caller, method)
        return caller

    def _submit(
        self, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[bytes]:
        request = method.encode(args, kwargs)
        return self.client.submit(request, deadline=self._deadline, query=method.kind == QUERY)

    def close(self) -> None:
        """End the session."""
        self.client.close()

    def __enter__(self) -> Self:
        self.client.__enter__()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.client.__exit__(kind, error, trace)
