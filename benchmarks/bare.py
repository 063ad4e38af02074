"""The bare loop: kafka-python and Redis with none of a queue's features. It is the limit of what can be had with them.

``python -m benchmarks.bare client KAFKA REDIS_URL`` submits, without HTTP; ``... worker KAFKA REDIS_URL THREADS``
drains: polls up to 1,000 records, claims them by one Lua call, runs them (in a `ThreadPoolExecutor`, or inline with 0
threads), settles them by one Lua call, commits. No retries, no leases, no fences, no order of offsets, no waiting for
any disk.
"""

from __future__ import annotations

import signal
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import redis
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import TopicAlreadyExistsError

from benchmarks import job, talk

TOPIC, GROUP, COUNTER = "bench-bare", "bench-bare", "bench:finished"
PARTITIONS = 8
AT_ONCE = 1000

_RECORD = """
for _, task in ipairs(cmsgpack.unpack(ARGV[1])) do
  redis.call('HSET', 'bench:task:' .. task[1], 'status', 'QUEUED', 'payload', task[2])
end
"""
_CLAIM = """
local mine = {}
for i, id in ipairs(cmsgpack.unpack(ARGV[1])) do
  local key = 'bench:task:' .. id
  mine[i] = redis.call('HGET', key, 'status') == 'QUEUED' and 1 or 0
  if mine[i] == 1 then redis.call('HSET', key, 'status', 'IN_PROGRESS') end
end
return mine
"""
_SETTLE = """
local tasks = cmsgpack.unpack(ARGV[1])
for _, task in ipairs(tasks) do
  redis.call('HSET', 'bench:task:' .. task[1], 'status', 'COMPLETED', 'result', task[2])
end
redis.call('INCRBY', KEYS[1], #tasks)
"""


class Record(msgspec.Struct):
    """What a Kafka record holds."""

    id: str
    payload: dict[str, Any]


_pack = msgspec.msgpack.Encoder().encode
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode


class Client:
    """The bare produce-and-record loop."""

    def __init__(self, kafka: str, redis_url: str) -> None:
        self._redis = redis.Redis.from_url(redis_url)
        self._record = self._redis.register_script(_RECORD)
        admin = KafkaAdminClient(bootstrap_servers=kafka)
        try:
            admin.create_topics({TOPIC: {"num_partitions": PARTITIONS, "replication_factor": 1}})
        except TopicAlreadyExistsError:
            pass
        finally:
            admin.close()
        self._producer = KafkaProducer(
            bootstrap_servers=kafka, acks="all", batch_size=256 * 1024, linger_ms=0, metrics_enabled=False
        )

    def warm_up(self) -> None:
        """Make the connections."""
        self._producer.partitions_for(TOPIC)
        self._record(args=[_pack([])])

    def prepare(self, count: int) -> None:
        """Make the rows."""
        self._rows = [job.payload(index) for index in range(count)]

    def submit(self, count: int) -> None:
        """Produce every row, wait for Kafka's acks, write its state."""
        name = uuid.uuid4()
        for start in range(0, count, 5000):
            states = []
            for index, row in enumerate(self._rows[start : start + 5000], start):
                task_id = f"{name}-{index}"
                self._producer.send(TOPIC, _encode({"id": task_id, "payload": row}))
                states.append((task_id, _encode(row).decode()))  # Redis's cmsgpack knows no msgpack bytes
            self._producer.flush()
            self._record(args=[_pack(states)])

    def ping(self) -> None:
        """Submit one task and wait for its end, which is looked for without a pause."""
        task_id, row = str(uuid.uuid4()), job.payload(1)
        self._record(args=[_pack([(task_id, _encode(row).decode())])])
        self._producer.send(TOPIC, _encode({"id": task_id, "payload": row}))
        self._producer.flush()
        while self._redis.hget(f"bench:task:{task_id}", "status") != b"COMPLETED":
            pass

    def finished(self) -> int:
        """Give how many have ended."""
        seen: Any = self._redis.get(COUNTER)
        return int(seen or 0)

    def clear(self) -> None:
        """Forget everything."""
        self._redis.flushall()


def work(kafka: str, redis_url: str, threads: int) -> None:
    """Drain until SIGTERM."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    client = redis.Redis.from_url(redis_url)
    claim, settle = client.register_script(_CLAIM), client.register_script(_SETTLE)
    consumer = KafkaConsumer(
        TOPIC,
        bootstrap_servers=kafka,
        group_id=GROUP,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_poll_records=AT_ONCE,
        metrics_enabled=False,
    )
    pool = ThreadPoolExecutor(threads) if threads else None
    while not stopping.is_set():
        # Not shorter: kafka-python (3.0.12) may forget that it joins a group when a poll ends meanwhile.
        records = [_decode(raw.value) for part in consumer.poll(timeout_ms=1000).values() for raw in part]
        if not records:
            continue
        mine: Any = claim(args=[_pack([record.id for record in records])])
        tasks = [record for record, is_mine in zip(records, mine, strict=True) if is_mine]
        if pool is None:
            results = [job.noop(**task.payload) for task in tasks]
        else:
            futures = [pool.submit(job.noop, **task.payload) for task in tasks]
            results = [future.result() for future in futures]
        ended = [(task.id, _encode(result).decode()) for task, result in zip(tasks, results, strict=True)]
        settle(keys=[COUNTER], args=[_pack(ended)])
        consumer.commit_async()
    consumer.close()


if __name__ == "__main__":
    role, *words = sys.argv[1:]
    if role == "worker":
        work(words[0], words[1], int(words[2]))
    else:
        talk.serve(Client(*words))
