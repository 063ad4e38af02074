"""What the server's processes write about a Kafka that is away."""

from __future__ import annotations

import logging

import pytest

from nexusq_server.logs import is_news


@pytest.mark.parametrize(
    ("logger", "text", "told"),
    [
        ("kafka.net.manager", "Connection failed: KafkaConnectionError: 111 ECONNREFUSED", False),
        ("kafka.cluster", "No node available for metadata refresh - backoff/retry", False),
        ("aiokafka", "Unable connect to node with id 1: [Errno 111] Connect call failed", False),
        ("aiokafka.conn", 'Unable to request metadata from "127.0.0.1:9092": KafkaConnectionError', False),
        ("aiokafka.conn", "SASL authentication failed: wrong password", True),
        ("kafka.net.connection", "Connection lost: SaslAuthenticationFailedError: wrong password", True),
        ("nexusq_server.intake", "Kafka could not be polled: KafkaConnectionError: 111 ECONNREFUSED", True),
    ],
)
def test_of_a_broker_that_is_away_the_client_says_nothing_of_anything_else_all(
    logger: str, text: str, told: bool
) -> None:
    record = logging.LogRecord(logger, logging.ERROR, __file__, 1, "%s", (text,), None)

    assert told == is_news(record)
