"""``call`` and ``call.thread``: run functions that were sent by value. Offered only where there is a signing key.

Runs in child processes and in handlers' threads. Nothing is unpickled before its signature was verified. Redis's client
and cloudpickle are loaded with the first function.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import linecache
import pickle
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from importlib import metadata
from types import CodeType
from typing import TYPE_CHECKING, Annotated, Any, TextIO, cast

from msgspec import Meta

from nexusq_sdk.protocol import blobs, calls, redis_layout
from nexusq_sdk.protocol.calls import CALL, CALL_THREAD, Head, Source
from nexusq_sdk.tasks import Retry, current_task, task
from nexusq_server.settings import Settings

if TYPE_CHECKING:
    import redis

#: This file's frames are left out at the top of the tracebacks that users see.
__tracebackhide__ = True
#: What of a function's output is kept, the last of it.
MAX_STDOUT_CHARS = 20_000
#: Functions that are kept unpickled, and bytes of large arguments that are kept verified.
MAX_FUNCTIONS, MAX_VALUE_BYTES = 100, 100 * 2**20
#: How long Redis may be away before the task is put back, and for how long it is then.
PATIENCE_SECONDS, BACK_SECONDS = 20.0, 10.0

#: How cloudpickle names the file of code that it has sent.
_NAMELESS = "<dynamic-code>"

BlobId = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)", description="the function, from PUT /blobs")]
Code = Annotated[str, Meta(description="the signed function itself, in base64, where it is not from PUT /blobs")]
Sealed = Annotated[str, Meta(description="its signed arguments, in base64")]


def call_handlers(settings: Settings) -> list[Callable[..., Any]]:
    """Make the two handlers."""
    functions = _Functions(settings)

    @task(CALL, executor="process")
    def call(function: BlobId, arguments: Sealed, code: Code = "") -> dict[str, str]:
        """Run a Python function that was sent by value, in a process."""
        return functions.run(function, arguments, code)

    @task(CALL_THREAD, executor="thread")
    def call_thread(function: BlobId, arguments: Sealed, code: Code = "") -> dict[str, str]:
        """Run a Python function that was sent by value, in a thread."""
        return functions.run(function, arguments, code)

    return [call, call_thread]


class _Functions:
    """Functions and large arguments, kept for the next task. May be used from many threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._key = blobs.read_key(settings.signing_key)
        self._client: redis.Redis | None = None
        # One at a time: unpickling imports, and threads that import packages whose modules import each other, numpy's
        # for one, are given halves of them. It guards what follows, too.
        self._loading = threading.RLock()
        self._functions: OrderedDict[str, Callable[..., Any]] = OrderedDict()
        self._values: OrderedDict[str, bytes] = OrderedDict()

    def run(self, function_id: str, arguments: str, code: str) -> dict[str, str]:
        """Call the function; give what it returned, sealed, and what it printed."""
        with self._loading:
            function = self._function(function_id, code)
            pickled = calls.unseal(self._key, function_id, calls.from_text(arguments))
            args, kwargs = _Unpickler(io.BytesIO(pickled), self._value).load()
        with _printed() as printed:
            result = function(*args, **kwargs)
        sealed = calls.seal(self._key, current_task().id, _pickled(result))
        answer = {"pickle": calls.to_text(sealed)}
        return answer | {"stdout": printed.text()} if printed.text() else answer

    def _function(self, blob_id: str, code: str) -> Callable[..., Any]:
        function = self._functions.get(blob_id)
        if function is not None:
            self._functions.move_to_end(blob_id)
            return function
        blob = calls.from_text(code) if code else self._fetch(blob_id)
        if blobs.blob_id(blob) != blob_id:
            raise blobs.BadSignature(f"expected the function {blob_id}, got another one")
        head, pickled = calls.unpack_function(self._key, blob)
        _check(head)
        try:
            function = cast(Callable[..., Any], pickle.loads(pickled))
        except ModuleNotFoundError as error:
            raise _missing(head.name, str(error.name)) from error
        if head.source is not None:
            _show_source(function, head.source)
        self._functions[blob_id] = function
        while len(self._functions) > MAX_FUNCTIONS:
            self._functions.popitem(last=False)
        return function

    def _value(self, blob_id: str) -> Any:
        value = self._values.get(blob_id)
        if value is None:
            value = self._values[blob_id] = calls.unseal(self._key, calls.VALUE, self._fetch(blob_id))
            while len(self._values) > 1 and sum(map(len, self._values.values())) > MAX_VALUE_BYTES:
                self._values.popitem(last=False)
        self._values.move_to_end(blob_id)
        # Made anew for each task: what one does to it is no business of the next one.
        return pickle.loads(value)

    def _fetch(self, blob_id: str) -> bytes:
        import redis  # noqa: PLC0415 - with the first function

        from nexusq_server.store import connect  # noqa: PLC0415 - as above

        if self._client is None:
            self._client = connect(self._settings)
        ttl = self._settings.blob_ttl
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                blob = cast(bytes | None, self._client.getex(redis_layout.blob_key(blob_id), ex=ttl))
                break
            except redis.RedisError as error:
                if time.monotonic() > deadline:
                    raise Retry(f"Redis is away, the function can't be read: {error}", delay=BACK_SECONDS) from None
                time.sleep(0.5)
        if blob is None:
            raise LookupError(
                f"expected the function or argument {blob_id} to be kept, but it was not used for "
                f"{ttl} (NEXUSQ_BLOB_TTL) or Redis has lost it: submit the task again"
            )
        return blob


class _Unpickler(pickle.Unpickler):
    """Reads arguments: the large ones among them are blobs of their own."""

    def __init__(self, file: io.BytesIO, value: Callable[[str], Any]) -> None:
        super().__init__(file)
        self._value = value

    def persistent_load(self, blob_id: Any) -> Any:
        return self._value(blob_id)


def _pickled(result: Any) -> bytes:
    import cloudpickle  # noqa: PLC0415 - with the first function

    try:
        return cast(bytes, cloudpickle.dumps(result))
    except Exception as error:
        raise TypeError(
            f"expected the function's result to be one that can be pickled, got {type(result).__qualname__}: {error}; "
            f"return its data in a plain form"
        ) from error


def _check(head: Head) -> None:
    """Refuse a function that would not run here as it did where it was made.

    Python's version must be the same but for its last part, since the bytecode differs. A package must be there, in the
    same major version: a difference in its other parts is let pass.
    """
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if head.python != here:
        raise ImportError(
            f"expected {head.name} to be made by this worker's Python {here}, got one of Python {head.python}: "
            f"use the same Python for notebook and workers"
        )
    for module, (distribution, version) in head.packages.items():
        if module not in sys.modules and importlib.util.find_spec(module) is None:
            raise _missing(head.name, module, f" ({distribution} {version})" if distribution else "")
        try:
            has = metadata.version(distribution) if distribution else version
        except metadata.PackageNotFoundError:
            continue  # the module is there all the same: a checkout, a build of one's own
        if has.partition(".")[0] != version.partition(".")[0]:
            raise ImportError(
                f"expected {head.name} to be made with this worker's {distribution} {has}, got one made with "
                f"{distribution} {version}: install the same major version in both places"
            )


def _missing(name: str, module: str, version: str = "") -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"expected this worker to have the module {module!r}{version}, which {name} needs, but it has none: install it "
        f"for the workers, or, where it is a file of your own, send it along with "
        f"cloudpickle.register_pickle_by_value({module.partition('.')[0]})",
        name=module,
    )


def _show_source(function: Any, source: Source) -> None:
    """Let tracebacks show the function's own lines, be they a notebook's."""
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType) or code.co_filename != _NAMELESS:
        return  # it was imported
    function.__code__ = _placed(code, source.file)
    known = linecache.cache.get(source.file)
    lines = list(known[2]) if known is not None and len(known) == 4 else []
    start, end = source.first - 1, source.first - 1 + len(source.lines)
    lines += ["\n"] * (end - len(lines))
    lines[start:end] = source.lines
    # Without a time of change: `linecache` keeps it, as it does what a loader gave.
    linecache.cache[source.file] = (sum(map(len, lines)), None, lines, source.file)


def _placed(code: CodeType, file: str) -> CodeType:
    consts = tuple(_placed(const, file) if isinstance(const, CodeType) else const for const in code.co_consts)
    return code.replace(co_filename=file, co_consts=consts)


class _Printed:
    """What a function has printed: the last of it."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._size = 0
        self._cut = False

    def add(self, text: str) -> None:
        self._parts.append(text)
        self._size += len(text)
        if self._size > 4 * MAX_STDOUT_CHARS:
            self._parts = [self._kept()]
            self._size = len(self._parts[0])

    def text(self) -> str:
        kept = self._kept().encode("utf-8", "backslashreplace").decode()
        return f"... cut ...\n{kept}" if self._cut else kept

    def _kept(self) -> str:
        text = "".join(self._parts)
        self._cut = self._cut or len(text) > MAX_STDOUT_CHARS
        return text[-MAX_STDOUT_CHARS:]


_PRINTED: ContextVar[_Printed | None] = ContextVar("nexusq_printed", default=None)
_TEE_LOCK = threading.Lock()


class _Tee(io.TextIOBase):
    """In place of `sys.stdout`: what a function prints goes to the worker's log, as ever, and to its task."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        printed = _PRINTED.get()
        if printed is not None:
            printed.add(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._stream.fileno()


@contextlib.contextmanager
def _printed() -> Iterator[_Printed]:
    with _TEE_LOCK:
        if not isinstance(sys.stdout, _Tee):
            sys.stdout = _Tee(sys.stdout)
    printed = _Printed()
    token = _PRINTED.set(printed)
    try:
        yield printed
    finally:
        _PRINTED.reset(token)
