"""One value to its JSON form, by one rule for a DataFrame's cells and for what is nested in payloads. Pure.

The rule
--------
* Missing is null: None, NaN, NaT, `pandas.NA`, masked. Infinity is refused.
* Whole numbers within 64 bits, floats, bools and strings as they are; numpy's scalars as Python's, its arrays as lists.
* Timestamp, datetime, date, time as ISO 8601, naive ones without an offset; Timedelta and timedelta as an ISO 8601
  duration, ``P1DT3.5S``; Decimal and UUID as text, exact; an Enum as its value.
* dict, dataclass and named tuple as objects (names are strings), list and tuple as arrays.
* bytes, sets, complex numbers and everything else are refused.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import sys
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

#: What needs no converting; the type is looked up exactly, since a subclass may be anything.
PLAIN = frozenset({str, bool, type(None)})
_SECOND_NS = 1_000_000_000
_DAY_NS = 86_400 * _SECOND_NS
#: numpy's units of time that have a fixed length in whole nanoseconds.
NANOSECONDS = {"W": 7 * _DAY_NS, "D": _DAY_NS, "h": 3600 * _SECOND_NS, "m": 60 * _SECOND_NS}
NANOSECONDS |= {"s": _SECOND_NS, "ms": 1_000_000, "us": 1000, "ns": 1}
#: Of types that can't be sent: what to send in their place.
_HINTS: dict[type, str] = {
    bytes: "decode it, or encode it with base64",
    bytearray: "decode it, or encode it with base64",
    memoryview: "decode it, or encode it with base64",
    set: "make a list of it",
    frozenset: "make a list of it",
    complex: "send its parts",
}


class NoForm(ValueError):
    """A value without a JSON form. The message says what to do; `path` where in the value it is, ``items[2].name``."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


def convert(value: Any) -> Any:
    """Give what the encoder takes for a value.

    Raises
    ------
    NoForm
    """
    kind = value.__class__
    converter = _CONVERTERS.get(kind)
    if converter is None:
        converter = _CONVERTERS[kind] = _find(kind)
    return converter(value)


def duration(nanoseconds: int) -> str:
    """Give an ISO 8601 duration in days and seconds, the two units of fixed length."""
    days, rest = divmod(abs(nanoseconds), _DAY_NS)
    whole, fraction = divmod(rest, _SECOND_NS)
    seconds = f"{whole}.{fraction:09d}".rstrip("0") if fraction else str(whole)
    return f"{'-' if nanoseconds < 0 else ''}P{f'{days}D' if days else ''}T{seconds}S"


def infinite(value: object) -> NoForm:
    """Give the refusal of an infinite number."""
    return NoForm(f"expected a finite number, got {value}; JSON has no infinity: replace it, for example by None")


def _find(kind: type) -> Callable[[Any], Any]:
    """Give the converter for a type that is met for the first time."""
    if issubclass(kind, enum.Enum):
        return _enum
    module = kind.__module__.partition(".")[0]
    if module == "numpy":
        found = _find_numpy(kind)
        if found is not None:
            return found
    if module == "pandas" and kind.__name__ == "NAType":
        return _null
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return lambda value: _dict(value._asdict())
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
        return lambda value: _dict({name: getattr(value, name) for name in names})
    for base in kind.__mro__:
        if base in _BASES:
            return _BASES[base]
    return _refuse


def _find_numpy(kind: type) -> Callable[[Any], Any] | None:
    numpy: Any = sys.modules["numpy"]
    if issubclass(kind, numpy.ndarray):
        return _array
    if issubclass(kind, numpy.timedelta64):
        return _timedelta64
    if issubclass(kind, numpy.datetime64):
        return _datetime64
    if issubclass(kind, numpy.floating):
        return lambda value: _float(float(value))
    if issubclass(kind, numpy.integer):
        return int
    return bool if issubclass(kind, numpy.bool_) else None


def _refuse(value: Any) -> Any:
    kind = type(value)
    hint = next((_HINTS[base] for base in kind.__mro__ if base in _HINTS), None)
    if hint is None:
        hint = "make a list of it: .tolist()" if hasattr(value, "tolist") else "send numbers, text, lists or dicts"
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    raise NoForm(f"expected a value with a JSON form, got {name}; {hint}")


def _enum(value: enum.Enum) -> Any:
    return convert(value.value)


def _null(value: Any) -> None:  # noqa: ARG001 - a converter's signature
    return None


def _int(value: int) -> int:
    if not -(2**63) <= value < 2**64:
        raise NoForm(f"expected a whole number within 64 bits, got {value}; send it as text")
    return int(value)


def _float(value: float) -> float | None:
    if math.isinf(value):
        raise infinite(value)
    return None if math.isnan(value) else float(value)


def _decimal(value: Decimal) -> str | None:
    if value.is_infinite():
        raise infinite(value)
    return None if value.is_nan() else str(value)


def _datetime(value: datetime) -> str | None:
    # NaT passes for a datetime; it alone is not equal to itself.
    return value.isoformat() if value == value else None  # noqa: PLR0124


def _timedelta(value: timedelta) -> str:
    # Only pandas' own has nanoseconds.
    fine = value.microseconds * 1000 + getattr(value, "nanoseconds", 0)
    return duration(value.days * _DAY_NS + value.seconds * _SECOND_NS + fine)


def _datetime64(value: Any) -> str | None:
    text = str(value)
    if text == "NaT":
        return None
    return text.rstrip("0").rstrip(".") if "." in text else text


def _timedelta64(value: Any) -> str | None:
    if str(value) == "NaT":
        return None
    numpy: Any = sys.modules["numpy"]
    unit, count = numpy.datetime_data(value.dtype)
    if unit not in NANOSECONDS:
        raise NoForm(f"expected a span in weeks to nanoseconds, got {value!r}; send it in seconds")
    # In Python's numbers: numpy's would wrap round at 292 years.
    return duration(int(value.view("i8")) * count * NANOSECONDS[unit])


def _array(value: Any) -> Any:
    if value.ndim == 0:
        return convert(value.tolist() if value.dtype.kind not in "mM" else value[()])
    # Times lose their unit in tolist(): they are taken one by one.
    return _list(value if value.dtype.kind in "mM" or value.ndim > 1 else value.tolist())


def _dict(value: dict[Any, Any]) -> dict[str, Any]:
    converted = {}
    for name, item in value.items():
        if not isinstance(name, str):
            raise NoForm(f"expected the names in an object to be strings, got {name!r}")
        try:
            converted[name] = item if item.__class__ in PLAIN else convert(item)
        except NoForm as error:
            raise NoForm(str(error), joined(name, error.path)) from None
    return converted


def _list(value: Iterable[Any]) -> list[Any]:
    converted = []
    for position, item in enumerate(value):
        try:
            converted.append(item if item.__class__ in PLAIN else convert(item))
        except NoForm as error:
            raise NoForm(str(error), joined(f"[{position}]", error.path)) from None
    return converted


def joined(outer: str, inner: str) -> str:
    """Join the parts of a path: ``items``, ``[2]`` and ``name`` become ``items[2].name``."""
    return f"{outer}{'.' if outer and inner and not inner.startswith('[') else ''}{inner}"


def _same(value: Any) -> Any:
    return value


#: By base class, for subclasses; the most derived one that is listed counts.
_BASES: dict[type, Callable[[Any], Any]] = {
    str: str,
    bool: _same,
    type(None): _null,
    int: _int,
    float: _float,
    dict: _dict,
    list: _list,
    tuple: _list,
    datetime: _datetime,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: _timedelta,
    Decimal: _decimal,
    UUID: str,
}
#: By exact type; grows by what is met. Written by any thread: the same entry each time.
_CONVERTERS: dict[type, Callable[[Any], Any]] = dict(_BASES)
