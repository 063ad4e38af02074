"""Reads request bodies: unpacks gzip within a limit, decodes JSON and NDJSON, says exactly what is wrong with them."""

from __future__ import annotations

import difflib
import re
import zlib
from typing import TypeVar

import msgspec
from msgspec import Raw
from starlette.requests import Request

from nexusq_sdk.protocol.wire import FieldError, Options, SubmitChunk, SubmitTask
from nexusq_server.problems import BodyTooLarge, InvalidRequest, UnsupportedBody

T = TypeVar("T")

NDJSON = "application/x-ndjson"
#: Other names under which clients send the same.
_NDJSON_TYPES = {NDJSON, "application/ndjson", "application/jsonlines", "application/jsonl"}
_PATH = re.compile(r" - at `\$\.?(.*)`$")
_UNKNOWN = re.compile(r"unknown field `(.+?)`")
_ROW = re.compile(r"payloads\[(\d+)\]")
_FIELDS = sorted(
    {field.encode_name for model in (SubmitTask, SubmitChunk, Options) for field in msgspec.structs.fields(model)}
)
_raw_decode = msgspec.json.Decoder(Raw).decode


async def read_body(request: Request, limit: int) -> bytes:
    """Give the whole body, unpacked: at most `limit` bytes, however small it came.

    Raises
    ------
    BodyTooLarge, UnsupportedBody, InvalidRequest
    """
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in {"identity", "gzip"}:
        raise UnsupportedBody(f"expected Content-Encoding to be gzip or absent, got {encoding!r}")
    unpacker = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
    parts, size = [], 0
    async for chunk in request.stream():
        try:
            # One byte beyond the limit is enough to know, whatever a small body would unpack to.
            part = unpacker.decompress(chunk, limit + 1 - size) if unpacker else chunk
        except zlib.error as error:
            raise InvalidRequest(f"expected a body packed with gzip: {error}") from None
        parts.append(part)
        size += len(part)
        if size > limit:
            raise BodyTooLarge(
                f"expected a body of at most {limit // 2**20} MiB, unpacked (NEXUSQ_MAX_BODY_MIB); "
                f"send the batch in smaller chunks"
            )
    if unpacker and not unpacker.eof:
        raise InvalidRequest("expected a whole gzip body, got one that breaks off")
    return b"".join(parts)


def content_type(request: Request) -> str:
    """Give ``json`` or ``ndjson``."""
    name = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
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
    """Turn msgspec's words into a refusal that names row and field."""
    at = _PATH.search(said)
    path = at[1] if at else ""
    message = _PATH.sub("", said)
    row = _ROW.match(path)
    unknown = _UNKNOWN.search(message)
    field = path
    if unknown:
        field = f"{path}.{unknown[1]}".lstrip(".")
        near = difflib.get_close_matches(unknown[1], _FIELDS, 1)
        message = f"unknown field {unknown[1]!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    error = FieldError(message=message, field=field, row=int(row[1]) if row else None)
    return InvalidRequest(f"{field}: {message}" if field else message, [error])


def decode_lines(body: bytes) -> list[Raw]:
    """Decode NDJSON: a payload a line; empty lines are passed over."""
    payloads = []
    for number, line in enumerate(body.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            line.decode()
            payloads.append(_raw_decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            row = len(payloads)
            message = f"expected line {number} to be JSON in UTF-8: {error}"
            raise InvalidRequest(message, [FieldError(message=message, row=row)]) from None
    return payloads
