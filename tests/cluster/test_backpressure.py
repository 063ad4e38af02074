"""An API whose Kafka or Redis takes nothing more says so by name in bounded time. Each test has an API of its own."""

from __future__ import annotations

import concurrent.futures
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import redis

import nexusq_sdk
from nexusq_sdk.protocol import ids
from nexusq_server.local.cluster import free_ports
from tests.asking import own_redis
from tests.conftest import ROOT, Addresses, eventually

StartApi = Callable[..., httpx.Client]


@pytest.fixture
def start_api(cluster: Addresses, tmp_path: Path) -> Iterator[StartApi]:
    """Start an API of the test's own; give a client of it."""
    with ExitStack() as stack:

        def start(**environment: str) -> httpx.Client:
            [port] = free_ports(1)
            environment = {"NEXUSQ_REDIS": cluster.redis_url, "NEXUSQ_KAFKA": cluster.kafka} | environment
            log = stack.enter_context((tmp_path / f"api-{port}.log").open("w"))
            process = subprocess.Popen(
                [sys.executable, "-m", "nexusq_server", "api", "--port", str(port)],
                cwd=ROOT,
                env=os.environ | environment,
                stderr=log,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30))

            def answers() -> None:
                try:
                    assert 200 == client.get("/healthz").status_code
                except httpx.TransportError as error:
                    raise AssertionError(str(error)) from None

            eventually(answers)
            return client

        yield start


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Give a port that takes connections and never answers on them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def full_redis(tmp_path: Path) -> Iterator[redis.Redis]:
    """Give a Redis that the test may fill."""
    with own_redis(tmp_path / "redis") as client:
        yield client


def post(api: httpx.Client, **changes: object) -> httpx.Response:
    return api.post("/tasks", json={"taskType": "ECHO", "payload": 1, "options": {"allowUnknown": True}} | changes)


@pytest.mark.parametrize("where", ["silent", "closed"])
def test_without_kafka_a_submit_is_refused_in_bounded_time_and_says_when_to_come_again(
    start_api: StartApi, silent_port: int, where: str
) -> None:
    # given an API whose Kafka does not answer
    port = silent_port if where == "silent" else free_ports(1)[0]
    api = start_api(NEXUSQ_KAFKA=f"127.0.0.1:{port}", NEXUSQ_SUBMIT_TIMEOUT="1s")

    # when a task and a batch are submitted
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        task = pool.submit(post, api)
        answers = [api.post("/batches", json={"taskType": "ECHO", "payloads": [1]}), task.result()]
    took = time.monotonic() - began

    # then each is told so within about two seconds; what only Redis knows is answered, and the API is not ready
    for answer in answers:
        assert (503, "kafka-unavailable") == (answer.status_code, answer.json()["type"].rpartition(":")[2])
        assert int(answer.headers["Retry-After"]) >= 1
        assert "come again with the same ids" in answer.json()["detail"]
    assert took < 1 + 1 + 2
    assert 404 == api.get(f"/tasks/{ids.new_id()}").status_code
    assert 503 == api.get("/readyz").status_code


def test_more_tasks_than_may_wait_for_kafka_are_refused_at_once(start_api: StartApi, silent_port: int) -> None:
    # given an API whose Kafka does not answer
    api = start_api(NEXUSQ_KAFKA=f"127.0.0.1:{silent_port}", NEXUSQ_SUBMIT_TIMEOUT="2s")
    body = b'{"taskType":"ECHO","payloads":[' + b",".join([b"1"] * 10_000) + b"]}"

    # when more come at once than it lets wait
    def submit(_: int) -> tuple[httpx.Response, float]:
        began = time.monotonic()
        answer = api.post("/batches", content=body, headers={"Content-Type": "application/json"})
        return answer, time.monotonic() - began

    with concurrent.futures.ThreadPoolExecutor(14) as pool:
        answers = list(pool.map(submit, range(14)))

    # then ten at the most wait in vain, the others are told to come again, and none waits for long
    kinds = [answer.json()["type"].rpartition(":")[2] for answer, _ in answers]
    assert {"kafka-unavailable", "queue-full"} == set(kinds)
    for answer, took in answers:
        assert 503 == answer.status_code
        assert int(answer.headers["Retry-After"]) >= 1
        assert took < 2 + 1 + 5

    # and what waited counts no more
    assert "kafka-unavailable" == post(api).json()["type"].rpartition(":")[2]


def test_the_sdk_comes_again_with_the_same_id_until_kafka_takes_it(
    cluster: Addresses, start_api: StartApi, http: httpx.Client
) -> None:
    # given an API whose Kafka's address leads nowhere until something forwards it
    [port] = free_ports(1)
    api = start_api(NEXUSQ_KAFKA=f"127.0.0.1:{port}", NEXUSQ_SUBMIT_TIMEOUT="1s")
    with concurrent.futures.ThreadPoolExecutor(1) as pool, nexusq_sdk.Client(str(api.base_url)) as client:
        submitted = pool.submit(client.submit, "ECHO", 42)
        assert 503 == post(api).status_code

        # when Kafka is there
        forwarder = subprocess.Popen([sys.executable, "-c", FORWARD, str(port), cluster.kafka])
        try:
            # then the task is accepted after all, and runs
            assert 42 == submitted.result(60).result(timeout=30)
        finally:
            forwarder.kill()
            forwarder.wait()
    assert 1 == http.get(f"/tasks/{submitted.result().id}").json()["attempt"]


#: Passes one port's connections on to another server.
FORWARD = """
import asyncio, sys
host, port = sys.argv[2].split(":")
async def pump(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()
async def serve(reader, writer):
    other_reader, other_writer = await asyncio.open_connection(host, int(port))
    await asyncio.gather(pump(reader, other_writer), pump(other_reader, writer))
async def main():
    await (await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))).serve_forever()
asyncio.run(main())
"""


def test_a_full_redis_is_named_as_such_and_all_goes_on_once_there_is_room(
    start_api: StartApi, full_redis: redis.Redis, queue: str
) -> None:
    # given an API whose Redis has no memory left
    where = full_redis.connection_pool.connection_kwargs
    api = start_api(NEXUSQ_REDIS=f"redis://127.0.0.1:{where['port']}/0")
    options = {"queue": queue, "allowUnknown": True}
    waiting = post(api, options=options | {"delaySeconds": 3600}).json()["taskId"]
    full_redis.config_set("maxmemory-policy", "noeviction")
    full_redis.config_set("maxmemory", "1")

    # when tasks are submitted, from the second one on
    accepted = post(api, options=options)  # Kafka has it: it is safe
    assert 202 == accepted.status_code
    refused = post(api, options=options)

    # then they are refused for that reason, as is a change; reads are answered
    for answer in (refused, api.post(f"/tasks/{waiting}/cancel")):
        assert (503, "redis-full") == (answer.status_code, answer.json()["type"].rpartition(":")[2]), answer.text
        assert int(answer.headers["Retry-After"]) >= 1
        assert "maxmemory" in answer.json()["detail"]
    assert "SCHEDULED" == api.get(f"/tasks/{waiting}").json()["status"]

    # and once there is room, all is taken again, and the state that could not be written is
    full_redis.config_set("maxmemory", "0")
    eventually(lambda: _answers(post(api, options=options), 202))
    eventually(lambda: _answers(api.get(f"/tasks/{accepted.json()['taskId']}"), 200))
    assert "CANCELLED" == api.post(f"/tasks/{waiting}/cancel").json()["status"]


def _answers(answer: httpx.Response, status: int) -> None:
    assert status == answer.status_code, answer.text


def test_without_redis_a_task_is_accepted_and_a_question_is_not(start_api: StartApi, queue: str) -> None:
    # given an API whose Redis is away
    api = start_api(NEXUSQ_REDIS=f"redis://127.0.0.1:{free_ports(1)[0]}/0")

    # when a task is submitted and asked for
    accepted = post(api, options={"queue": queue, "allowUnknown": True})
    asked = api.get(f"/tasks/{accepted.json()['taskId']}")

    # then Kafka has it, and what Redis would know is not known
    assert 202 == accepted.status_code
    assert (503, "redis-unavailable") == (asked.status_code, asked.json()["type"].rpartition(":")[2])
    assert int(asked.headers["Retry-After"]) >= 1
