"""Reads requests: unpacks gzip within a limit, decodes JSON, NDJSON and parameters, says exactly what is wrong."""

from __future__ import annotations

import difflib
import functools
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Raw
from starlette.requests import ClientDisconnect, Request

from nexusq_sdk.protocol.wire import FieldError, Options, Schedule, SubmitChunk, SubmitTask
from nexusq_server.problems import BodyTooLarge, InvalidRequest, UnsupportedBody

T = TypeVar("T")

DEFAULT_PAGE, MAX_PAGE = 1000, 10_000
#: Seconds for which a request may wait for a task's end: proxies give up after a minute, at the earliest.
LONGEST_HOLD = 30
#: Members of a gzip body: each costs time, even if nothing is in it. Tools make one for 64 KiB at most.
MAX_MEMBERS = 2000
NDJSON = "application/x-ndjson"
#: Other names under which clients send the same.
_NDJSON_TYPES = {NDJSON, "application/ndjson", "application/jsonlines", "application/jsonl"}
#: The options that NDJSON takes as query parameters: those that are one value.
LINE_OPTIONS = tuple(field.encode_name for field in msgspec.structs.fields(Options) if field.encode_name != "backoff")
_PATH = re.compile(r" - at `\$\.?(.*)`$")
_UNKNOWN = re.compile(r"unknown field `(.+?)`")
_MISSING = re.compile(r"missing required field `(.+?)`")
_TYPE = re.compile(r"Expected `(.+?)`, got `(.+?)`")
_ROW = re.compile(r"payloads\[(\d+)\]")
_FIELDS = sorted(
    {
        field.encode_name
        for model in (SubmitTask, SubmitChunk, Schedule, Options)
        for field in msgspec.structs.fields(model)
    }
)
_raw_decode = msgspec.json.Decoder(Raw).decode


def header(request: Request, name: bytes) -> str | None:
    """Give a header's value by its name in lower case; None if it is not there."""
    # Looked up a few times with each request: the framework's mapping decodes all of them each time.
    for key, value in request.scope["headers"]:
        if key == name:
            found: bytes = value
            return found.decode("latin-1")
    return None


async def read_body(request: Request, limit: int) -> bytes:
    """Give the whole body, unpacked: at most `limit` bytes, however small it came.

    Raises
    ------
    BodyTooLarge, UnsupportedBody, InvalidRequest
    starlette.requests.ClientDisconnect
        The client has gone away while it was sending.
    """
    encoding = (header(request, b"content-encoding") or "identity").lower()
    if encoding not in {"identity", "gzip"}:
        raise UnsupportedBody(f"expected Content-Encoding to be gzip or absent, got {encoding!r}")
    unpacker = _Unpacker() if encoding == "gzip" else None
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk, more = message.get("body", b""), message.get("more_body", False)
        # One byte beyond the limit is enough to know, whatever a small body would unpack to.
        for part in unpacker.unpack(chunk, limit + 1 - size) if unpacker else (chunk,):
            parts.append(part)
            size += len(part)
        if size > limit:
            raise BodyTooLarge(
                f"expected a body of at most {limit // 2**20} MiB, unpacked (NEXUSQ_MAX_BODY_MIB); "
                f"send the batch in smaller chunks"
            )
    if unpacker and not unpacker.whole:
        raise InvalidRequest("expected a whole gzip body, got one that breaks off")
    return parts[0] if len(parts) == 1 else b"".join(parts)


class _Unpacker:
    """Unpacks gzip: one member after another, as RFC 1952 has it and ``cat a.gz b.gz`` makes it."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self._members = 1

    @property
    def whole(self) -> bool:
        """Whether what came so far ends with a member."""
        return self._member.eof

    def unpack(self, packed: bytes, limit: int) -> Iterator[bytes]:
        """Give what `packed` unpacks to, at most `limit` bytes of it."""
        while packed and limit > 0:
            if self._member.eof:
                self._members += 1
                if self._members > MAX_MEMBERS:
                    raise InvalidRequest(f"expected a gzip body of at most {MAX_MEMBERS} members, got more")
                self._member = zlib.decompressobj(wbits=31)
            try:
                part = self._member.decompress(packed, limit)
            except zlib.error as error:
                raise InvalidRequest(f"expected a body packed with gzip: {error}") from None
            limit -= len(part)
            packed = self._member.unused_data
            if part:
                yield part


def content_type(request: Request) -> str:
    """Give ``json`` or ``ndjson``."""
    return _kind(header(request, b"content-type") or "")


@functools.lru_cache(100)
def _kind(named: str) -> str:
    name = named.partition(";")[0].strip().lower()
    if name in _NDJSON_TYPES:
        return "ndjson"
    # curl -d says x-www-form-urlencoded unless told otherwise; what comes is JSON all the same.
    if name in {"application/json", "application/x-www-form-urlencoded", ""} or name.endswith("+json"):
        return "json"
    raise UnsupportedBody(f"expected Content-Type to be application/json or {NDJSON}, got {name!r}")


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a JSON body.

    Raises
    ------
    InvalidRequest
        Naming the field, and the row where it is in one.
    """
    try:
        # Decoded as text first: payloads are kept as they came, and must be UTF-8 all through.
        return decoder.decode(body.decode())
    except msgspec.ValidationError as error:
        raise refuse(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"expected the body to be JSON in UTF-8: {error}") from None


def refuse(said: str) -> InvalidRequest:
    """Turn msgspec's words into a refusal in ours that names row and field."""
    at = _PATH.search(said)
    field = at[1] if at else ""
    message = _PATH.sub("", said)
    row = _ROW.match(field)
    if unknown := _UNKNOWN.search(message):
        field = f"{field}.{unknown[1]}".lstrip(".")
        near = difflib.get_close_matches(unknown[1], _FIELDS, 1)
        message = f"unknown field {field!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    elif missing := _MISSING.search(message):
        field = f"{field}.{missing[1]}".lstrip(".")
        message = f"{field!r} is missing"
    elif wrong := _TYPE.search(message):
        message = f"expected {field or 'the body'} to be {wrong[1]}, got {wrong[2]}"
    elif field:
        message = f"{field}: {message}"
    return InvalidRequest(message, [FieldError(message=message, field=field, row=int(row[1]) if row else None)])


def decode_lines(body: bytes, first: int) -> list[Raw]:
    """Decode NDJSON: a payload a line, the first one being row `first`; empty lines are passed over."""
    payloads = []
    for number, line in enumerate(body.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            line.decode()
            payloads.append(_raw_decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            row = first + len(payloads)
            message = f"expected line {number} to be JSON in UTF-8: {error}"
            raise InvalidRequest(message, [FieldError(message=message, row=row)]) from None
    return payloads


class Query:
    """Query parameters; unknown ones are refused, since they are most likely misspelt."""

    def __init__(self, request: Request, *known: str) -> None:
        self._values: Mapping[str, str] = request.query_params if request.scope["query_string"] else {}
        for name in self._values:
            if name not in known:
                wanted = f"query parameters among {', '.join(known)}" if known else "no query parameters with JSON"
                raise InvalidRequest(f"expected {wanted}, got {name!r}", field=name)

    def text(self, name: str) -> str | None:
        """Give a parameter as it is; None if it is not there or empty."""
        return self._values.get(name) or None

    def flag(self, name: str) -> bool:
        """Give a parameter that is true or false; false if it is not there."""
        value = self._values.get(name, "false").lower()
        if value not in {"true", "false"}:
            raise InvalidRequest(f"expected {name} to be true or false, got {value!r}", field=name)
        return value == "true"

    def number(self, name: str, default: int) -> int:
        """Give a parameter that is a whole number."""
        value = self._values.get(name)
        if value is None:
            return default
        try:
            return int(value)
        except ValueError:
            raise InvalidRequest(f"expected {name} to be a whole number, got {value[:50]!r}", field=name) from None

    def wait(self) -> float:
        """Give for how many seconds an answer may be held back."""
        value = self._values.get("waitSeconds", "0")
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds <= LONGEST_HOLD:
            raise InvalidRequest(
                f"expected waitSeconds to be a number from 0 to {LONGEST_HOLD}, got {value[:50]!r}", field="waitSeconds"
            )
        return seconds

    def limit(self) -> int:
        """Give how many rows a page is to have."""
        value = self.number("limit", DEFAULT_PAGE)
        if not 1 <= value <= MAX_PAGE:
            raise InvalidRequest(f"expected limit to be from 1 to {MAX_PAGE}, got {value}", field="limit")
        return value


def chunk_of_lines(request: Request, body: bytes) -> SubmitChunk:
    """Make a chunk from NDJSON and the query's parameters."""
    known = ("taskType", "batchId", "firstIndex", "last")
    asked = Query(request, *known, *LINE_OPTIONS)
    values: dict[str, Any] = {name: value for name, value in request.query_params.items() if name in known}
    options = {name: value for name, value in request.query_params.items() if name in LINE_OPTIONS}
    asked.flag("last"), asked.flag("allowUnknown"), asked.number("firstIndex", 0)
    try:
        chunk = msgspec.convert(values | {"payloads": [], "options": options}, SubmitChunk, strict=False)
    except msgspec.ValidationError as error:
        raise refuse(str(error)) from None
    chunk.payloads = decode_lines(body, chunk.first_index)
    return chunk
