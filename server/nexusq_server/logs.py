"""What a process of the server says on stderr."""

from __future__ import annotations

import logging
import sys

from nexusq_server.settings import Settings

#: Libraries of whose ordinary doings nobody wants to read; what goes wrong is said by whoever uses them.
QUIET = {
    "httpx": logging.WARNING,
    "kafka": logging.WARNING,
    # While Kafka is away these say so at each of dozens of attempts a second.
    "kafka.net": logging.CRITICAL,
    "kafka.cluster": logging.CRITICAL,
    "kafka.consumer.fetcher": logging.CRITICAL,
    "kafka.producer.sender": logging.CRITICAL,
}


def set_up_logs(settings: Settings) -> None:
    """Write to stderr from now on, as the settings say."""
    logging.basicConfig(
        level=settings.log_level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if settings.log_level != "DEBUG":
        for name, level in QUIET.items():
            logging.getLogger(name).setLevel(level)
