"""Functions by value without a cluster: seals, names, keys, what a function is said to need."""

from __future__ import annotations

import secrets
import stat
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusq_sdk import FunctionsOff, NotPicklable, WrongKey, functions, task
from nexusq_sdk.protocol import blobs, calls, keys
from nexusq_sdk.protocol.calls import Head
from nexusq_sdk.protocol.words import TASK_TYPE
from nexusq_server.handlers.call import MAX_STDOUT_CHARS, _Printed, call_handlers
from nexusq_server.registry import find_handler, load_handlers
from nexusq_server.settings import Settings, SettingsError, load_settings

KEY = bytes(range(32))
ID = "01a20e45-5716-74df-a356-688becb510f5"


class Kept:
    """Keeps blobs as a server does."""

    def __init__(self, key: bytes | None = KEY) -> None:
        self.signing_key = key
        self.blobs: dict[str, bytes] = {}

    def put_blob(self, blob_id: str, data: bytes) -> None:
        assert blobs.blob_id(data) == blob_id
        self.blobs[blob_id] = data


def sent(function: Any) -> Head:
    server = Kept()
    functions.send_function(server, function)
    return calls.unpack_function(KEY, next(iter(server.blobs.values())))[0]


@given(st.binary(max_size=200), st.sampled_from([calls.VALUE, ID, f"{ID}-7"]))
def test_what_was_sealed_is_opened_by_the_same_key_for_the_same_thing(data: bytes, about: str) -> None:
    sealed = calls.seal(KEY, about, data)

    assert data == calls.unseal(KEY, about, calls.from_text(calls.to_text(sealed)))
    with pytest.raises(blobs.BadSignature, match="another one"):
        calls.unseal(bytes(32), about, sealed)
    with pytest.raises(blobs.BadSignature, match="belong to"):
        calls.unseal(KEY, about + "0", sealed)


@given(st.data())
def test_a_seal_with_any_byte_changed_is_not_opened(data: st.DataObject) -> None:
    sealed = bytearray(calls.seal(KEY, ID, b"some pickled bytes"))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))

    with pytest.raises(blobs.BadSignature):
        calls.unseal(KEY, ID, bytes(sealed))


@given(st.text(max_size=150))
def test_any_name_of_a_function_makes_a_task_type(name: str) -> None:
    for executor, base in calls.BASES.items():
        task_type = calls.type_of(name, executor)  # type: ignore[arg-type]

        assert TASK_TYPE.fullmatch(task_type)
        assert base == calls.base_type(task_type)
        assert calls.is_call(task_type)


@pytest.mark.parametrize("name", ["EMAIL_SEND", "team:EMAIL_SEND", "calls", "call.process:f", "recall:f"])
def test_other_task_types_stay_what_they_are(name: str) -> None:
    assert name == calls.base_type(name)
    assert not calls.is_call(name)


def test_a_worker_offers_functions_only_with_a_key_and_finds_their_handler_by_the_base_type() -> None:
    handlers = load_handlers([], call_handlers(Settings(signing_key=KEY.hex())))

    assert {"call", "call.thread"} == set(handlers)
    process, thread = find_handler(handlers, "call:train"), find_handler(handlers, "call.thread:train")
    assert process is not None
    assert thread is not None
    assert ("process", "thread") == (process.executor, thread.executor)
    assert find_handler(handlers, "train") is None


@pytest.mark.parametrize("key", ["secret-of-mine", "ab" * 31])
def test_a_key_that_can_not_be_one_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(signing_key=key)

    assert "NEXUSQ_SIGNING_KEY" in str(caught.value).upper().replace("--SIGNING-KEY", "NEXUSQ_SIGNING_KEY")
    assert "secrets.token_hex(32)" in str(caught.value)
    assert key not in str(caught.value)
    assert KEY.hex() not in repr(load_settings(signing_key=KEY.hex()))


def test_a_function_says_what_it_needs_and_nothing_of_what_comes_along() -> None:
    helper = ModuleType("helper_of_mine")
    exec("def double(x): return 2 * x", vars(helper))
    helper.double.__module__ = "helper_of_mine"

    def area(frame: pd.DataFrame) -> Any:
        return np.prod(frame.to_numpy()) + threading.active_count() + helper.double(1)

    sys.modules["helper_of_mine"] = helper
    cloudpickle.register_pickle_by_value(helper)
    try:
        head = sent(area)
    finally:
        cloudpickle.unregister_pickle_by_value(helper)
        del sys.modules["helper_of_mine"]

    assert "area" == head.name
    assert f"{sys.version_info[0]}.{sys.version_info[1]}" == head.python
    assert {"numpy": ("numpy", np.__version__)} == head.packages
    assert head.source is not None
    assert "    def area(frame: pd.DataFrame) -> Any:\n" == head.source.lines[0]


def test_a_distribution_of_another_name_than_its_module_is_found() -> None:
    from sklearn.linear_model import LinearRegression

    assert "scikit-learn" == sent(LinearRegression).packages["sklearn"][0]


def test_the_same_function_is_the_same_blob() -> None:
    server = Kept()

    def add(a: int, b: int) -> int:
        return a + b

    first = functions.send_function(server, add)
    assert first == functions.send_function(server, add)
    assert [first.blob_id] == list(server.blobs)


def test_a_small_function_may_travel_with_its_call() -> None:
    server = Kept()

    function = functions.send_function(server, abs, along=10_000)

    assert {} == server.blobs
    assert blobs.blob_id(calls.from_text(function.code)) == function.blob_id


def test_what_can_not_be_pickled_is_named() -> None:
    lock = threading.Lock()

    def guarded(x: int) -> int:
        with lock:
            return x

    with pytest.raises(NotPicklable, match=r"guarded.*it refers to 'lock', a lock; make inside the function"):
        functions.send_function(Kept(), guarded)
    function = functions.send_function(Kept(), abs)
    with pytest.raises(NotPicklable, match="row 1: expected values that can be pickled"):
        list(functions.encode_calls(Kept(), function, [1, lock]))
    with pytest.raises(NotPicklable, match="row 0: expected arguments of at most 900 kB, got"):
        list(functions.encode_calls(Kept(), function, ["x" * 1_000_000]))
    with pytest.raises(ValueError, match="'process' or 'thread', got 'gpu'"):
        functions.send_function(Kept(), abs, "gpu")  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", ["text", {"a": 1}, b"bytes", 7])
def test_what_is_no_rows_is_refused(rows: Any) -> None:
    function = functions.send_function(Kept(), abs)

    with pytest.raises(TypeError, match="expected rows to be a DataFrame or an iterable"):
        list(functions.encode_calls(Kept(), function, rows))


def test_a_large_array_is_sent_apart_and_once() -> None:
    server = Kept()
    function = functions.send_function(server, abs, along=10_000)
    data = np.zeros(100_000)

    payloads = [
        functions.encode_call(server, function, (data, n), {"frame": pd.DataFrame({"a": data})}) for n in (1, 2)
    ]

    assert 2 == len(server.blobs)
    assert max(map(len, payloads)) < 10_000


def test_without_a_key_nothing_is_sent_or_opened() -> None:
    with pytest.raises(FunctionsOff, match=r"Client\(signing_key=...\)"):
        functions.send_function(Kept(None), abs)
    result = {"pickle": calls.to_text(calls.seal(KEY, ID, cloudpickle.dumps(7)))}
    with pytest.raises(FunctionsOff, match="NEXUSQ_SIGNING_KEY"):
        functions.open_result("call:f", ID, result, None)
    assert 7 == functions.open_result("call:f", ID, result, KEY)
    assert result == functions.open_result("ECHO", ID, result, KEY)


@pytest.mark.parametrize("result", [{"pickle": "!"}, {"pickle": ""}, {"other": 1}, [1], "text"])
def test_a_result_that_is_not_signed_is_never_opened(result: Any) -> None:
    with pytest.raises(WrongKey, match="was not opened"):
        functions.open_result("call:f", ID, result, KEY)


def test_a_frame_says_why_a_result_is_not_shown() -> None:
    good = {"pickle": calls.to_text(calls.seal(KEY, ID, cloudpickle.dumps((1, 2))))}
    columns = {"taskType": ["call:f", "ECHO", "call:f"], "taskId": [ID] * 3, "result": [good, 5, None]}

    assert [(1, 2), 5, None] == functions.open_column(columns, KEY)["result"]
    assert [functions.UNREAD, 5, None] == functions.open_column(columns, None)["result"]
    assert "another one" in functions.open_column(columns, bytes(32))["result"][0]


def test_a_cluster_leaves_its_key_to_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUSQ_CACHE", str(tmp_path))
    monkeypatch.delenv("NEXUSQ_SIGNING_KEY", raising=False)
    key = secrets.token_hex(32)

    file = keys.leave_key("127.0.0.1", 8123, key)

    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    for url in ("http://127.0.0.1:8123", "http://localhost:8123/", "http://[::1]:8123"):
        assert bytes.fromhex(key) == functions.key_for(url, None)
    assert functions.key_for("http://127.0.0.1:8124", None) is None
    assert functions.key_for("http://example.com:8123", None) is None
    assert bytes(32) == functions.key_for("http://127.0.0.1:8123", "00" * 32)
    file.chmod(0o644)
    assert functions.key_for("http://127.0.0.1:8123", None) is None


def test_of_what_a_function_prints_the_last_is_kept() -> None:
    printed = _Printed()
    for number in range(100_000):
        printed.add(f"{number}\n")

    text = printed.text()
    assert text.startswith("... cut ...\n")
    assert text.endswith("99999\n")
    assert len(text) <= MAX_STDOUT_CHARS + 20


def test_a_declared_function_submits_its_arguments_as_the_payload() -> None:
    class Client:
        def submit_batch(self, *asked: Any, **options: Any) -> Any:
            return asked, options

    @task("SCALE")
    def scale(value: float, by: float = 2.0) -> float:
        return value * by

    assert 6.0 == scale(2.0, by=3.0)
    assert (("SCALE", [{"value": 1.0}]), {"queue": "q"}) == scale.map([{"value": 1.0}], Client(), queue="q")
    with pytest.raises(TypeError, match="missing a required argument: 'value'"):
        scale.submit()  # type: ignore[call-arg]
