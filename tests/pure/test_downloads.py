"""Downloads from a real HTTP server of this process: resumed, checked, done once."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nexusq_server.local.downloads import Jar, fetch_jars
from nexusq_server.local.errors import LocalError
from tests.conftest import eventually

CONTENT = {f"a{number}.jar": bytes([65 + number]) * 100_000 for number in range(3)}


def jar(name: str, content: bytes) -> Jar:
    return Jar(f"org/example/{name}", hashlib.sha256(content).hexdigest(), len(content))


LOCK = [jar(name, content) for name, content in CONTENT.items()]


class Maven(ThreadingHTTPServer):
    """Serves `files`, and keeps what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = dict(CONTENT)
        self.asked: list[tuple[str, str | None]] = []
        self.ranges = True
        self.status = 200
        self.go = threading.Event()
        self.go.set()


class Answer(BaseHTTPRequestHandler):
    server: Maven

    def do_GET(self) -> None:
        name, wanted = self.path.rpartition("/")[2], self.headers["Range"]
        self.server.asked.append((name, wanted))
        self.server.go.wait(20)
        content = self.server.files.get(name)
        if content is None or self.server.status != 200:
            self.send_error(404 if content is None else self.server.status)
            return
        if wanted and self.server.ranges:
            self.send_response(206)
            content = content[int(wanted.removeprefix("bytes=").removesuffix("-")) :]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def maven(monkeypatch: pytest.MonkeyPatch) -> Iterator[Maven]:
    with Maven() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("NEXUSQ_MAVEN_URL", f"http://127.0.0.1:{server.server_port}/")
        yield server
        server.go.set()
        server.shutdown()
        thread.join()


def has_all(folder: Path) -> bool:
    return {name: (folder / name).read_bytes() for name in CONTENT} == CONTENT and not list(folder.glob("*.part"))


def leave_part(cache: Path, name: str, content: bytes) -> None:
    folder = cache / "kafka-1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.part").write_bytes(content)


def test_what_is_missing_is_downloaded_once_and_then_used_without_a_network(maven: Maven, tmp_path: Path) -> None:
    # given an empty cache
    # when it is asked for twice
    folder = fetch_jars("1", LOCK, tmp_path)
    assert folder == fetch_jars("1", LOCK, tmp_path)

    # then each file was asked for once, and is there
    assert has_all(folder)
    assert sorted((name, None) for name in CONTENT) == sorted(maven.asked)


def test_a_download_goes_on_where_it_was_broken_off(maven: Maven, tmp_path: Path) -> None:
    # given the first 70,000 bytes of a file
    leave_part(tmp_path, "a1.jar", CONTENT["a1.jar"][:70_000])

    # when it is downloaded
    folder = fetch_jars("1", LOCK, tmp_path)

    # then only the rest was asked for
    assert ("a1.jar", "bytes=70000-") in maven.asked
    assert 3 == len(maven.asked)
    assert has_all(folder)


def test_a_server_that_ignores_ranges_gives_the_whole_file_anew(maven: Maven, tmp_path: Path) -> None:
    # given a part, and a server that only gives whole files
    leave_part(tmp_path, "a1.jar", CONTENT["a1.jar"][:70_000])
    maven.ranges = False

    # when it is downloaded; then it is whole and right
    assert has_all(fetch_jars("1", LOCK, tmp_path))


@pytest.mark.parametrize("part", [b"?" * 70_000, b"?" * 100_000, b"?" * 100_001], ids=["short", "whole", "long"])
def test_a_part_of_another_file_does_not_stay_in_the_way(maven: Maven, tmp_path: Path, part: bytes) -> None:
    # given a part that the file does not begin with
    leave_part(tmp_path, "a1.jar", part)

    # when it is downloaded; then it was started anew
    assert has_all(fetch_jars("1", LOCK, tmp_path))
    assert ("a1.jar", None) in maven.asked


def test_a_file_with_a_wrong_checksum_is_named_and_removed(maven: Maven, tmp_path: Path) -> None:
    # given a server whose file is not the locked one
    maven.files["a2.jar"] = b"!" * 100_000

    # when it is downloaded; then it is refused, and nothing is left of it
    with pytest.raises(LocalError, match="expected a2.jar to have the SHA-256 .*, got another file; it was removed"):
        fetch_jars("1", LOCK, tmp_path)
    assert not (tmp_path / "kafka-1" / "a2.jar").exists()
    assert not (tmp_path / "kafka-1" / "a2.jar.part").exists()

    # and when the server has the right one again, the next try succeeds
    maven.files = dict(CONTENT)
    assert has_all(fetch_jars("1", LOCK, tmp_path))


def test_a_damaged_file_of_the_cache_is_downloaded_again(maven: Maven, tmp_path: Path) -> None:
    # given a cache whose last download was broken off when one file of it had been damaged
    folder = fetch_jars("1", LOCK, tmp_path)
    (folder / "complete").unlink()
    (folder / "a0.jar").write_bytes(b"?" * 100_000)
    maven.asked.clear()

    # when it is asked for; then only that file is downloaded
    assert has_all(fetch_jars("1", LOCK, tmp_path))
    assert [("a0.jar", None)] == maven.asked


def test_a_server_that_is_away_costs_no_part(maven: Maven, tmp_path: Path) -> None:
    # given a part, and a server that is overloaded
    leave_part(tmp_path, "a1.jar", CONTENT["a1.jar"][:70_000])
    maven.status = 503

    # when it is downloaded; then the error says so, and the part is there for the next try
    with pytest.raises(LocalError, match="503"):
        fetch_jars("1", LOCK, tmp_path)
    assert 70_000 == (tmp_path / "kafka-1" / "a1.jar.part").stat().st_size


@pytest.mark.parametrize(
    ("url", "said"),
    [("http://127.0.0.1:1", "ConnectError"), ("ftp://x", "UnsupportedProtocol"), ("http://a:b", "InvalidURL")],
)
def test_without_a_server_the_error_says_what_was_looked_for_and_how_to_supply_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    # given an address at which nothing answers
    monkeypatch.setenv("NEXUSQ_MAVEN_URL", url)

    # when the files are asked for; then the error names cache, address, cause and what to set
    with pytest.raises(LocalError) as caught:
        fetch_jars("1", LOCK, tmp_path)
    for words in (str(tmp_path / "kafka-1"), url, said, "NEXUSQ_KAFKA_HOME=/path/to/kafka", "NEXUSQ_CACHE"):
        assert words in str(caught.value)


def test_a_cache_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    # given a file where the cache's folder should be
    (tmp_path / "cache").write_text("")

    # when the files are asked for; then it is named
    with pytest.raises(LocalError, match=r"expected the cache to be a folder that can be written, got .*/cache"):
        fetch_jars("1", LOCK, tmp_path / "cache")


FETCH = """
import sys
from pathlib import Path
from nexusq_server.local.downloads import Jar, fetch_jars
jars = [Jar(*word.split("|")[:2], int(word.split("|")[2])) for word in sys.argv[2:]]
print(fetch_jars("1", jars, Path(sys.argv[1])))
"""


def start_fetch(cache: Path, jars: list[Jar], errors: Path) -> subprocess.Popen[str]:
    words = [f"{entry.path}|{entry.sha256}|{entry.bytes}" for entry in jars]
    with errors.open("wb") as stderr:
        command = [sys.executable, "-c", FETCH, str(cache), *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)


def test_two_processes_at_once_download_once_and_both_succeed(maven: Maven, tmp_path: Path) -> None:
    # given a server that answers nobody yet, and two processes that start at once
    maven.go.clear()
    logs = [tmp_path / "errors-0", tmp_path / "errors-1"]
    processes = [start_fetch(tmp_path, LOCK, log) for log in logs]

    # when one of them downloads and the other one waits for it
    def one_waits() -> None:
        assert 3 == len(maven.asked)
        assert 1 == sum("Waiting for another process" in log.read_text() for log in logs)

    eventually(one_waits)
    maven.go.set()
    answers = [process.communicate(timeout=30)[0] for process in processes]

    # then both have all, and each file was asked for once
    assert [f"{tmp_path / 'kafka-1'}\n"] * 2 == answers
    assert [0, 0] == [process.returncode for process in processes]
    assert sorted((name, None) for name in CONTENT) == sorted(maven.asked)
    assert has_all(tmp_path / "kafka-1")


def test_ctrl_c_breaks_a_download_off_at_once(maven: Maven, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given more files than are downloaded at once
    jars = [jar(f"b{number}.jar", b"b" * 1000) for number in range(40)]
    maven.files = {entry.name: b"b" * 1000 for entry in jars}
    maven.go.clear()
    process = start_fetch(tmp_path, jars, tmp_path / "errors")

    def some_asked() -> None:
        assert 4 == len(maven.asked)

    eventually(some_asked)

    # when it is interrupted while the first ones are on their way
    process.send_signal(signal.SIGINT)
    maven.go.set()
    process.communicate(timeout=30)

    # then it asked for no more
    assert process.returncode != 0
    assert len(maven.asked) < 12
