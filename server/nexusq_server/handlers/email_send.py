"""EMAIL_SEND: one mail a task, over SMTP. Each thread keeps its connection for the next mail."""

from __future__ import annotations

import smtplib
import ssl
import threading
from collections.abc import Callable
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Annotated, Any

from msgspec import Meta

from nexusq_sdk.tasks import task
from nexusq_server.settings import ADDRESS, Settings

Address = Annotated[
    str, Meta(pattern=ADDRESS.pattern, max_length=320, description="one mail address, perhaps with a name before it")
]
Line = Annotated[str, Meta(pattern=r"^[^\r\n]*$(?!\n)", max_length=998, description="text in one line")]
#: Seconds without an answer after which a mail server is given up.
TIMEOUT = 30
SHUTTING_DOWN = 421


class MailRefused(Exception):
    """The mail server does not take the mail; the message has its words."""


class _Connection(smtplib.SMTP):
    """Closed with the thread that has it."""

    def __del__(self) -> None:
        self.close()


class _Mailer(threading.local):
    """One thread's connection to the mail server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: _Connection | None = None

    def send(self, message: EmailMessage) -> None:
        try:
            if self._connection is None or not self._sent(self._connection, message):
                self._connection = self._connect()
                self._connection.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            words = "; ".join(f"{code} {_text(said)}" for code, said in error.recipients.values())
            raise MailRefused(f"{self._settings.smtp_host} refused the mail: {words}") from None
        except smtplib.SMTPResponseException as error:
            raise MailRefused(
                f"{self._settings.smtp_host} refused the mail: {error.smtp_code} {_text(error.smtp_error)}"
            ) from None

    def _sent(self, connection: _Connection, message: EmailMessage) -> bool:
        """Send on a connection that was used before; False if it has ended since, and the mail was not taken."""
        try:
            connection.send_message(message)
        except smtplib.SMTPServerDisconnected:
            return False
        except smtplib.SMTPSenderRefused as error:
            # How a server that closes idle connections says so.
            if error.smtp_code != SHUTTING_DOWN:
                raise
            return False
        return True

    def _connect(self) -> _Connection:
        settings = self._settings
        connection = _Connection(settings.smtp_host, settings.smtp_port, timeout=TIMEOUT)
        try:
            if settings.smtp_starttls:
                connection.starttls(context=ssl.create_default_context())
            if settings.smtp_user:
                connection.login(settings.smtp_user, settings.smtp_password)
        except BaseException:
            connection.close()
            raise
        return connection


def _text(said: bytes | str) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else said


def email_handler(settings: Settings) -> Callable[..., Any]:
    """Make the handler that sends through the settings' mail server."""
    mailer = _Mailer(settings)

    @task("EMAIL_SEND")
    def email_send(to: Address, subject: Line, body: str, sender: Address | None = None) -> dict[str, str]:
        """Send a plain-text mail."""
        message = EmailMessage()
        message["To"] = to
        message["From"] = sender or settings.smtp_from
        message["Subject"] = subject
        message["Date"] = formatdate(usegmt=True)
        message["Message-ID"] = make_msgid(domain="nexusq")
        message.set_content(body)
        mailer.send(message)
        return {"deliveryStatus": "SENT"}

    return email_send
