"""What the SDK does when the way to the server fails: it comes again with the same ids, or says what is wrong."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pandas as pd
import pytest

import nexusq_sdk
from tests.conftest import Addresses


class Relay:
    """A TCP proxy before the API that swallows answers: what was asked arrives, the answer does not."""

    def __init__(self, url: str) -> None:
        parsed = httpx.URL(url)
        self._target = (parsed.host, parsed.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.to_swallow = 0
        self.swallowed: list[bytes] = []
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _run(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._run(self._copy, client, server)
                self._run(self._answer, client, server)

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with client, server, contextlib.suppress(OSError):
            while data := server.recv(65536):
                if self.to_swallow:
                    self.to_swallow -= 1
                    self.swallowed.append(data)
                    break
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)
            server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def relay(cluster: Addresses) -> Iterator[Relay]:
    relay = Relay(cluster.url)
    yield relay
    relay.close()


def test_a_task_whose_answer_was_lost_is_posted_again_and_runs_once(relay: Relay, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    with nexusq_sdk.Client(relay.url) as client:
        # given that the first answer is swallowed, after the task was accepted
        relay.to_swallow = 1

        task = client.submit("LEDGER", {"path": str(ledger), "line": "ran"})

        # then it was accepted under the very id that the handle has, and ran once
        [answer] = relay.swallowed
        assert b"202 Accepted" in answer
        task.wait(timeout=20)
        client.submit_batch("ECHO", range(200)).wait(timeout=20)  # by now the worker has passed the second record
        assert ("ran\n", 1) == (ledger.read_text(), task.info().attempt)


def test_chunks_whose_answers_were_lost_submit_nothing_twice(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = tmp_path / "ledger"
    monkeypatch.setattr("nexusq_sdk.sending.CHUNK_TASKS", 20)
    with nexusq_sdk.Client(relay.url) as client:
        # given that the first two answers are swallowed
        relay.to_swallow = 2

        batch = client.submit_batch("LEDGER", ({"path": str(ledger), "line": str(row)} for row in range(50)))
        batch.wait(timeout=30)

        assert 2 == len(relay.swallowed)
        assert all(b"202 Accepted" in answer for answer in relay.swallowed)
        client.submit_batch("ECHO", range(200)).wait(timeout=20)
        assert (50, 50) == (len(batch), batch.counts()["COMPLETED"])
        assert sorted(map(str, range(50))) == sorted(ledger.read_text().split())
        assert {1} == set(batch.frame()["attempt"])


def test_reads_survive_lost_answers_too(relay: Relay) -> None:
    with nexusq_sdk.Client(relay.url) as client:
        batch = client.submit_batch("ECHO", [1, 2, 3]).wait(timeout=20)
        relay.to_swallow = 1

        assert [1, 2, 3] == list(batch.frame()["result"])
        assert 1 == len(relay.swallowed)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:8000", "got 'localhost:8000'; did you mean 'http://localhost:8000'"),
        ("nexusq.example.com", "did you mean 'http://nexusq.example.com'"),
        ("redis://127.0.0.1:6379", "expected the URL of a NexusQ, such as http://127.0.0.1:8000, got 'redis://"),
        ("http://", "expected the URL of a NexusQ, such as http://127.0.0.1:8000, got 'http://'$"),
        ("http://127.0.0.1:abc", "Invalid port: 'abc'"),
        ("http://127.0.0.1:99999", "got 'http://127.0.0.1:99999'$"),
        (8000, "expected the URL of a NexusQ, such as http://127.0.0.1:8000, got 8000"),
    ],
)
def test_a_wrong_url_is_told_when_the_client_is_made(url: str, said: str) -> None:
    with pytest.raises(nexusq_sdk.ConnectionFailed, match=said):
        nexusq_sdk.Client(url)


def test_a_url_may_come_with_blanks_a_slash_or_from_the_environment(
    cluster: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXUSQ_URL", f" {cluster.url}/\n")

    with nexusq_sdk.Client() as client:
        assert cluster.url == client.url
        assert 1 == client.submit("ECHO", 1).result(timeout=20)


def test_where_nobody_answers_is_told_at_once_with_what_to_do() -> None:
    with nexusq_sdk.Client("http://127.0.0.1:1") as client:
        with pytest.raises(nexusq_sdk.ConnectionFailed, match="at http://127.0.0.1:1, .* Start one with `nexusq up`"):
            client.submit("ECHO", 1)
        with pytest.raises(ConnectionError):
            client.submit_batch("ECHO", [1, 2])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (pd.DataFrame({"a": [1, 2], "b": ["x", {1}]}), r"row 1, column 'b': .* got set; make a list of it"),
        (pd.DataFrame({"a": [1.0, float("inf")]}, index=["u", "v"]), r"row 1 \(index 'v'\), column 'a': .* finite"),
        ([{"items": [1, {"name": b"x"}]}], r"row 0, column 'items\[1\].name': .* got bytes; decode it"),
        (["x" * 1_000_000], "row 0: expected a payload of at most 900 kB"),
    ],
)
def test_a_row_without_a_json_form_is_refused_before_anything_is_sent(rows: object, said: str) -> None:
    # given a client whose server does not answer: what is sent would fail otherwise
    with nexusq_sdk.Client("http://127.0.0.1:1") as client:
        with pytest.raises(nexusq_sdk.RowError, match=said) as refusal:
            client.submit_batch("ECHO", rows)  # type: ignore[arg-type]
        assert not hasattr(refusal.value, "__notes__")
        with pytest.raises(nexusq_sdk.RowError, match="the payload, field 'when': .* got range"):
            client.submit("ECHO", {"when": range(3)})


@pytest.mark.parametrize("rows", ["text", {"a": 1}, 7, None])
def test_what_is_no_rows_at_all_is_refused(client: nexusq_sdk.Client, rows: object) -> None:
    with pytest.raises(TypeError, match="expected rows to be a DataFrame or an iterable of payloads"):
        client.submit_batch("ECHO", rows)  # type: ignore[arg-type]


class OtherServer(BaseHTTPRequestHandler):
    """Some web server that is no NexusQ."""

    def do_GET(self) -> None:
        body = b"<html>It works!</html>"
        self.send_response(200 if self.path == "/workers" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def test_a_server_that_is_no_nexusq_is_told_as_such() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), OtherServer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with nexusq_sdk.Client(url) as client:
            with pytest.raises(nexusq_sdk.ServerFailed, match=f"expected an answer of a NexusQ from {url}/workers"):
                client.workers()
            with pytest.raises(nexusq_sdk.ServerFailed, match="got 404 '<html>It works!</html>'"):
                client.task_types()
        server.shutdown()


def test_a_closed_client_says_so(cluster: Addresses) -> None:
    with nexusq_sdk.Client(cluster.url) as client:
        task = client.submit("ECHO", 1)
        batch = client.submit_batch("ECHO", [1])

    for use in (lambda: client.submit("ECHO", 1), lambda: task.status, batch.frame, client.workers):
        with pytest.raises(RuntimeError, match="expected the client to be open, but it was closed: make a new Client"):
            use()
    client.close()
