"""The handlers that a worker knows: loads the modules that declare them, reads their parameters, publishes both.

Used while a worker starts, by one thread; the `Handler` objects are then called from many.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Literal

import msgspec

from nexusq_sdk.protocol.calls import base_type
from nexusq_sdk.protocol.wire import TaskType
from nexusq_sdk.tasks import HANDLER_ATTRIBUTE, Declaration

_PLAIN = (type(None), bool, int, float, str, bytes, tuple, frozenset)
_POSITIONAL = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class HandlerError(Exception):
    """A module or a function that can't serve as a handler; the message says which, why, and what to do."""


class InvalidPayload(ValueError):
    """A payload that does not fit its handler's parameters."""


def _json_form(value: Any) -> Any:
    """Encode what msgspec does not know: numpy scalars and arrays, and what else offers ``tolist``."""
    tolist = getattr(value, "tolist", None)
    if tolist is None:
        raise TypeError(f"{type(value).__module__}.{type(value).__qualname__}")
    return tolist()


_encoder = msgspec.json.Encoder(enc_hook=_json_form)


class Handler:
    """One function that runs tasks of one type: payload's JSON in, result's JSON out.

    `executor` says where it runs, `timeout` is its attempts' time limit, `policy` what it says of retries. `call` is
    the function as one to be called and waited for, also where it is async (in an event loop of its own).
    """

    def __init__(self, task_type: str, function: Callable[..., Any], declared: Declaration | None = None) -> None:
        self.task_type = task_type
        self.function = function
        self.name = f"{function.__module__}.{function.__qualname__}"
        self.policy = declared or Declaration(task_type)
        self.timeout = self.policy.timeout
        self.is_async = inspect.iscoroutinefunction(function)
        self.executor: Literal["thread", "process", "async"] = (
            "async" if self.is_async else self.policy.executor or "thread"
        )
        self.call: Callable[..., Any] = _in_own_loop(function) if self.is_async else function
        self._whole = False  # the payload is handed over as one value
        self._extra = False  # fields beyond the named parameters are handed over as well
        model = self._model()
        try:
            self._decode = msgspec.json.Decoder(model).decode
            schema, components = msgspec.json.schema_components([model], ref_template="#/$defs/{name}")
        except (TypeError, ValueError) as error:
            raise HandlerError(
                f"{self.name}: expected parameters that can be read from JSON (numbers, str, list, dict, datetime, "
                f"dataclasses, ...): {error}"
            ) from error
        self.schema: dict[str, Any] = self._inline(schema[0], components)

    def run(self, payload: Any) -> bytes:
        """Call the function with the payload (JSON) and give its result as JSON.

        Raises
        ------
        InvalidPayload
            If the payload does not fit the parameters; otherwise whatever the function raises.
        """
        args, kwargs = self.decode(payload)
        return self.encode(self.call(*args, **kwargs))

    async def run_async(self, payload: Any) -> bytes:
        """Do what `run` does for an async function, in the running event loop."""
        args, kwargs = self.decode(payload)
        return self.encode(await self.function(*args, **kwargs))

    def decode(self, payload: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Give the payload (JSON) as the function's arguments, or raise `InvalidPayload`."""
        try:
            value = self._decode(payload)
        except msgspec.DecodeError as error:
            raise InvalidPayload(f"{self.task_type}: {error}") from None
        if self._whole:
            return (value,), {}
        if self._extra:
            return (), msgspec.json.decode(payload) | msgspec.structs.asdict(value)
        return (), msgspec.structs.asdict(value)

    def encode(self, result: Any) -> bytes:
        """Give what the function returned as JSON; TypeError, naming the type, where it has no such form."""
        try:
            return _encoder.encode(result)
        except TypeError as error:
            raise TypeError(
                f"expected the result of {self.task_type} to have a JSON form (dict, list, str, numbers, dates, "
                f"dataclasses, numpy), got {error}"
            ) from None

    def described(self) -> TaskType:
        """Give what ``GET /task-types`` says of it."""
        text = inspect.getdoc(self.function) or ""
        return TaskType(task_type=self.task_type, description=text.partition("\n\n")[0], payload_schema=self.schema)

    def _model(self) -> Any:
        """Give the type that the payload is decoded into: the parameters as the fields of a struct."""
        try:
            hints = typing.get_type_hints(self.function, include_extras=True)
            parameters = list(inspect.signature(self.function).parameters.values())
        except (NameError, TypeError, ValueError) as error:
            raise HandlerError(f"{self.name}: expected type hints that can be read: {error}") from error
        first = parameters[0] if parameters else None
        if first is not None and first.kind is inspect.Parameter.POSITIONAL_ONLY:
            if any(p.default is p.empty and p.kind in _POSITIONAL for p in parameters[1:]):
                raise HandlerError(f"{self.name}: expected one parameter before '/' to be the only one that is needed")
            self._whole = True
            return hints.get(first.name, Any)
        fields: list[Any] = []
        for parameter in parameters:
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                self._extra = True
            elif parameter.kind in _POSITIONAL:
                fields.append(_field(parameter, hints.get(parameter.name, Any)))
        name = self.function.__name__
        return msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=not self._extra)

    @staticmethod
    def _inline(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
        """Put the parameters' own object at the top, so that the schema reads without following a reference."""
        name = schema.get("$ref", "").removeprefix("#/$defs/")
        top = dict(components.pop(name)) if name in components else dict(schema)
        top.pop("title", None)
        return top | {"$defs": components} if components else top


def _in_own_loop(function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(function(*args, **kwargs))

    return call


def _field(parameter: inspect.Parameter, hint: Any) -> Any:
    if parameter.default is parameter.empty:
        return (parameter.name, hint)
    if isinstance(parameter.default, _PLAIN):
        return (parameter.name, hint, parameter.default)
    # A mutable default is Python's own, shared by all calls: the function is given the very object.
    return (parameter.name, hint, msgspec.field(default_factory=lambda: parameter.default))


def find_handler(handlers: Mapping[str, Handler], task_type: str) -> Handler | None:
    """Give the handler of a type: for ``call:NAME``, a function that was sent by value, that of ``call``."""
    return handlers.get(task_type) or handlers.get(base_type(task_type))


def load_handlers(modules: Iterable[str], builtin: Iterable[Callable[..., Any]]) -> dict[str, Handler]:
    """Import modules and collect the functions that ``@task`` marks, the built-in ones first.

    Raises
    ------
    HandlerError
        If a module can't be imported or holds no handler, a function can't serve, or a type has two handlers.
    """
    found: dict[str, Handler] = {}
    functions: list[Callable[..., Any]] = list(builtin)
    for name in modules:
        functions += _declared_in(name)
    for function in functions:
        declared: Declaration = getattr(function, HANDLER_ATTRIBUTE)
        task_type = declared.task_type
        known = found.get(task_type)
        if known is not None and known.function is not function:
            raise HandlerError(
                f"expected one handler for {task_type!r}, got two: {known.name} and "
                f"{function.__module__}.{function.__qualname__}"
            )
        found[task_type] = Handler(task_type, function, declared)
    return found


def _declared(function: Callable[..., Any]) -> bool:
    return isinstance(getattr(function, HANDLER_ATTRIBUTE, None), Declaration)


def _declared_in(name: str) -> list[Callable[..., Any]]:
    try:
        module = importlib.import_module(name)
    except Exception as error:
        hint = ""
        if isinstance(error, ModuleNotFoundError) and error.name is not None and name.startswith(error.name):
            hint = f"; looked in {', '.join(entry or '.' for entry in sys.path[:3])}, ..."
        raise HandlerError(
            f"expected --tasks {name} to be a module that can be imported: {type(error).__name__}: {error}{hint}"
        ) from error
    functions = [value for value in vars(module).values() if callable(value) and _declared(value)]
    if not functions:
        raise HandlerError(f'expected --tasks {name} to declare handlers with @task("SOME_TYPE"), found none')
    return functions
