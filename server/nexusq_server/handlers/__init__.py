"""The handlers that every worker brings along, as far as its settings allow them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nexusq_server.handlers.call import call_handlers
from nexusq_server.handlers.email_send import email_handler
from nexusq_server.handlers.http_request import http_handler
from nexusq_server.handlers.trials import echo, sleep
from nexusq_server.settings import Settings


def builtin_handlers(settings: Settings) -> list[Callable[..., Any]]:
    """Give ECHO and SLEEP, EMAIL_SEND where there is a mail server, HTTP_REQUEST where hosts are allowed.

    With a signing key also ``call`` and ``call.thread``, which run functions that were sent by value.
    """
    handlers: list[Callable[..., Any]] = [echo, sleep]
    if settings.smtp_host:
        handlers.append(email_handler(settings))
    if settings.http_hosts:
        handlers.append(http_handler(settings))
    if settings.signing_key:
        handlers += call_handlers(settings)
    return handlers
