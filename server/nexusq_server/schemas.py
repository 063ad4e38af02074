"""What workers offer, and whether a payload fits it. Used on the API's event loop.

The catalogue is in Redis, written by workers; it is read again after a second, and at once before a type is refused.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import time
from collections.abc import Sequence
from typing import Any, cast

import jsonschema_rs
import msgspec
import redis.asyncio
from redis import RedisError

from nexusq_sdk.protocol.calls import base_type, is_call
from nexusq_sdk.protocol.redis_layout import TYPES
from nexusq_sdk.protocol.wire import FieldError, TaskType
from nexusq_server.problems import InvalidPayload, UnknownTaskType

log = logging.getLogger(__name__)

FRESH_SECONDS = 1.0
#: How many faults of a batch are listed; the rest is counted.
MAX_LISTED = 20
_decode = msgspec.json.Decoder().decode


class Catalogue:
    """The known task types."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client
        self._read_at = float("-inf")
        self._raw: dict[bytes, bytes] = {}
        self.types: dict[str, TaskType] = {}
        self._validators: dict[str, Any] = {}
        self._reading: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """Read the catalogue. Raises `redis.RedisError` when Redis is away; what was known stays known."""
        raw = cast(dict[bytes, bytes], await self._redis.hgetall(TYPES))
        self._read_at = time.monotonic()
        if raw == self._raw:
            return
        types = {}
        for name, entry in raw.items():
            if self._raw.get(name) != entry:
                self._validators.pop(name.decode(), None)
            types[name.decode()] = msgspec.json.decode(entry, type=TaskType)
        self._raw, self.types = raw, types

    async def _freshen(self) -> None:
        """Read it once for all who find it aged in the same moment."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self.refresh())
        await asyncio.shield(self._reading)

    async def check(
        self, task_type: str, payloads: Sequence[Any], allow_unknown: bool, rows: bool, first: int = 0
    ) -> None:
        """Refuse what no worker would run. With Redis away, go by what was known last.

        Parameters
        ----------
        payloads : sequence of msgspec.Raw
            JSON each.
        rows : bool
            Whether the payloads are rows of a batch, to be named by their number.
        first : int
            The number of the first row.

        Raises
        ------
        UnknownTaskType, InvalidPayload
        """
        # A function that was sent by value, ``call:NAME``, is a matter of ``call``.
        named, task_type = task_type, base_type(task_type)
        is_known = task_type in self.types
        if not is_known or time.monotonic() - self._read_at > FRESH_SECONDS:
            try:
                await (self._freshen() if is_known else self.refresh())
            except RedisError:
                if not self.types:
                    return  # nothing is known: the worker will say what is wrong with it
        known = self.types.get(task_type)
        if known is None and not allow_unknown:
            raise UnknownTaskType(_unknown(named, list(self.types)), field="taskType")
        validator = self._validator(known) if known is not None else None
        wrong = 0
        errors: list[FieldError] = []
        for row, payload in enumerate(payloads, first):
            try:
                instance = _decode(payload)
            except (msgspec.DecodeError, RecursionError) as error:
                wrong += 1
                message = f"expected the payload to be JSON that can be read: {str(error).partition(' - at')[0]}"
                errors.append(FieldError(message=message, row=row if rows else None))
                continue
            if validator is None or known is None or validator.is_valid(instance):
                continue
            wrong += 1
            if len(errors) < MAX_LISTED:
                errors += [_fault(error, known, row if rows else None) for error in validator.iter_errors(instance)]
        if errors:
            worst = errors[0]
            where = f"row {worst.row}: " if rows else ""
            more = f"; {wrong} of {len(payloads)} rows are wrong" if wrong > 1 else ""
            raise InvalidPayload(f"{named}: {where}{worst.message}{more}", errors[:MAX_LISTED])

    def _validator(self, known: TaskType) -> Any:
        """Give what checks a type's payloads; None if nothing can be said of them before a worker has them."""
        if not known.payload_schema:
            return None
        name = known.task_type
        if name not in self._validators:
            try:
                self._validators[name] = jsonschema_rs.validator_for(known.payload_schema, validate_formats=True)
            except ValueError as error:  # such as a pattern that Python knows and others do not
                log.warning("the payloads of %s are checked by workers only: %s", name, error)
                self._validators[name] = None
        return self._validators[name]


def _unknown(task_type: str, known: list[str]) -> str:
    if is_call(task_type):
        return (
            f"expected a worker that runs functions ({base_type(task_type)!r}), got none so far: "
            f"start workers with NEXUSQ_SIGNING_KEY set to the API's key"
        )
    near = difflib.get_close_matches(task_type.upper(), known, 3, 0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    return (
        f"expected taskType to be one that a worker has offered ({', '.join(sorted(known)) or 'none so far'}), "
        f"got {task_type!r}{hint} For one whose worker is yet to come, set options.allowUnknown."
    )


def _fault(error: Any, known: TaskType, row: int | None) -> FieldError:
    """Put a validator's error in our words."""
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path).lstrip(".")
    where = repr(path) if path else "the payload"
    what = error.kind.as_dict()
    match error.kind.name:
        case "required":
            field = f"{path}.{what['property']}".lstrip(".")
            return FieldError(message=f"{field!r} is missing", field=field, row=row)
        case "additionalProperties":
            name = what["unexpected"][0]
            near = difflib.get_close_matches(name, list(known.payload_schema.get("properties", {})), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            field = f"{path}.{name}".lstrip(".")
            return FieldError(message=f"{field!r} is not a field of it{hint}", field=field, row=row)
        case "type":
            types = what["types"]
            wanted = " or ".join(types) if isinstance(types, list) else str(types)
            got = msgspec.json.encode(error.instance).decode()
            message = f"expected {where} to be {_article(wanted)}, got {got[:100]}"
            return FieldError(message=message, field=path, row=row)
        case "pattern" if described := known.payload_schema.get("properties", {}).get(path, {}).get("description"):
            got = msgspec.json.encode(error.instance).decode()
            return FieldError(message=f"expected {where} to be {described}, got {got[:100]}", field=path, row=row)
        case _:
            message = f"expected {where} to fit the type's schema: {error.message}"
            return FieldError(message=message, field=path, row=row)


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeio" else f"a {word}"
