"""Asks Redis and Kafka what they hold once everything has come to rest."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable

import redis
from kafka import KafkaConsumer, TopicPartition

from nexusq_sdk.protocol.redis_layout import DEAD, DUE, TASK, batch_key, task_key
from nexusq_sdk.protocol.words import TERMINAL, Priority
from nexusq_server.topics import DEAD_LETTERS, group, topic
from tests.chaos.facts import Facts, Seen

TOPICS = tuple(topic("default", priority) for priority in Priority)
SLICE = 1000
LOOK_SECONDS = 0.5


class Witness(threading.Thread):
    """Looks at all tasks that are not known to have ended, again and again: an end that was seen is to stay."""

    def __init__(self, redis_url: str, names: Callable[[], Iterable[str]]) -> None:
        super().__init__(name="witness", daemon=True)
        self._redis = redis.Redis.from_url(redis_url, decode_responses=True, socket_timeout=5, socket_connect_timeout=1)
        self._names = names
        self._ended = threading.Event()
        self.seen: dict[str, Seen] = {}

    def end(self) -> None:
        """Look no more."""
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Look until `end`."""
        while not self._ended.wait(LOOK_SECONDS):
            try:
                self._look([name for name in self._names() if name not in self.seen])
            except redis.RedisError:
                continue  # it is down: there is nothing to be seen

    def _look(self, names: list[str]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for name in names:
            pipeline.hmget(task_key(name), "status", "attempt", "finishedUs")
        at = time.time()
        for name, (status, attempt, finished) in zip(names, pipeline.execute() if names else [], strict=True):
            if status in TERMINAL:
                self.seen[name] = Seen(at, status, int(attempt or 0), int(finished or 0))


class Collector:
    """The two clients."""

    def __init__(self, redis_url: str, kafka: str) -> None:
        self._redis = redis.Redis.from_url(redis_url, decode_responses=True, socket_timeout=20)
        self._kafka = kafka

    def wait_for_rest(self, names: Callable[[], Iterable[str]], seconds: float) -> list[str]:
        """Wait until all tasks have ended and all offsets are committed; give what is not so when time is up."""
        deadline = time.monotonic() + seconds
        while True:
            still = self._unfinished(list(names()))
            if not still:
                behind = [name for name, (done, end) in self.lags().items() if done != end]
                still = (
                    [f"{len(behind)} partitions are not committed to their end: {', '.join(behind)}"] if behind else []
                )
            if not still or time.monotonic() > deadline:
                return still
            time.sleep(0.5)

    def _unfinished(self, names: list[str]) -> list[str]:
        found = []
        for start in range(0, len(names), SLICE):
            pipeline = self._redis.pipeline(transaction=False)
            for name in names[start : start + SLICE]:
                pipeline.hget(task_key(name), "status")
            statuses = pipeline.execute()
            found += [name for name, status in zip(names[start:], statuses, strict=False) if status not in TERMINAL]
        return found

    def collect(self, facts: Facts) -> None:
        """Fill in what the stores hold."""
        names = set(facts.sent)
        # What nobody has sent would be as wrong as what is missing: all keys are looked at.
        names |= {key.removeprefix(TASK) for key in self._redis.scan_iter(f"{TASK}*", count=SLICE)}
        facts.states = self._hashes(sorted(names), task_key)
        facts.batch_states = self._hashes(sorted(facts.batches), batch_key)
        facts.due = set(self._redis.zrange(DUE, 0, -1))
        facts.dead = set(self._redis.zrange(DEAD, 0, -1))
        facts.lags = self.lags()
        for value in self._read(TOPICS):
            name = json.loads(value)["taskId"]
            facts.records[name] = facts.records.get(name, 0) + 1
        for value in self._read((DEAD_LETTERS,)):
            letter = json.loads(value)
            facts.letters.setdefault(letter.get("taskId", "a record that is no task"), []).append(letter)

    def _hashes(self, names: list[str], key: Callable[[str], str]) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for start in range(0, len(names), SLICE):
            pipeline = self._redis.pipeline(transaction=False)
            chunk = names[start : start + SLICE]
            for name in chunk:
                pipeline.hgetall(key(name))
            found |= {name: state for name, state in zip(chunk, pipeline.execute(), strict=True) if state}
        return found

    def lags(self) -> dict[str, tuple[int, int]]:
        """Give what is committed and what is there, by topic and partition."""
        consumer = self._consumer(group_id=group("default"))
        try:
            partitions = _partitions(consumer, TOPICS)
            ends = consumer.end_offsets(partitions)
            committed = {partition: consumer.committed(partition) or 0 for partition in partitions}
            return {f"{part.topic}/{part.partition}": (committed[part], ends[part]) for part in partitions}
        finally:
            consumer.close(autocommit=False)

    def _read(self, topics: Iterable[str]) -> Iterable[bytes]:
        consumer = self._consumer(group_id=None)
        try:
            partitions = _partitions(consumer, topics)
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            ends = consumer.end_offsets(partitions)
            while any(consumer.position(partition) < end for partition, end in ends.items()):
                for records in consumer.poll(timeout_ms=1000).values():
                    for record in records:
                        yield record.value
        finally:
            consumer.close(autocommit=False)

    def _consumer(self, group_id: str | None) -> KafkaConsumer:
        return KafkaConsumer(
            bootstrap_servers=[self._kafka], group_id=group_id, enable_auto_commit=False, metrics_enabled=False
        )


def _partitions(consumer: KafkaConsumer, topics: Iterable[str]) -> list[TopicPartition]:
    return [TopicPartition(name, number) for name in topics for number in sorted(consumer.partitions_for_topic(name))]
