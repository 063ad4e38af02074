"""What a process of the server says on stderr."""

from __future__ import annotations

import logging
import sys

from nexusq_server.settings import Settings

#: In what Kafka's clients say of a broker that can't be reached, at each of dozens of attempts a second. Who waits for
#: the broker says so once; what else goes wrong, a wrong password say, is told.
AWAY = (
    "KafkaConnectionError",
    "No node available",
    "NodeNotReadyError",
    "socket disconnected",
    "Error receiving network",
    "Unable connect to",
    "Unable to request metadata",
    "Unable to update metadata",
    "Got error produce response",
)


def set_up_logs(settings: Settings) -> None:
    """Write to stderr from now on, as the settings say."""
    logging.basicConfig(
        level=settings.log_level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if settings.log_level == "DEBUG":
        return
    for name in ("aiokafka", "httpx", "kafka"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(is_news)


def is_news(record: logging.LogRecord) -> bool:
    """Whether a line is to be written: not that Kafka is still away."""
    client = record.name.partition(".")[0]
    return client not in {"aiokafka", "kafka"} or not any(words in record.getMessage() for words in AWAY)
