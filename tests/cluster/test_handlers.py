"""The built-in handlers against real servers: mail by STARTTLS and login, calls to allowed hosts, trials."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

import nexusq_sdk
from nexusq_server.handlers import builtin_handlers
from nexusq_server.local.cluster import free_ports
from nexusq_server.registry import Handler, InvalidPayload, load_handlers
from nexusq_server.settings import Settings, load_settings

MAIL = {"to": "user@example.com", "subject": "Grüße", "body": "First line\nÄ second one"}


class Mailbox:
    """A mail server's behaviour, and what it took."""

    def __init__(self) -> None:
        self.taken: list[Envelope] = []
        self.logins: list[bytes] = []
        self.encrypted: list[bool] = []
        self.sessions: list[Session] = []
        self.connections: list[SMTP] = []
        self.idle_closes = False

    def authenticate(self, server: SMTP, session: Session, envelope: Envelope, kind: str, login: Any) -> AuthResult:
        good = isinstance(login, LoginPassword) and login == LoginPassword(b"nexusq", b"s3cret")
        self.logins.append(login.login)
        self.connections.append(server)
        return AuthResult(success=good, handled=good or None)

    async def handle_MAIL(  # noqa: N802 - aiosmtpd names it
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.idle_closes and session in self.sessions:
            return "421 4.4.2 idle for too long, closing"
        self.sessions.append(session)
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("nobody@"):
            return "550 5.1.1 there is no nobody here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if b"lottery" in (envelope.content or b""):
            return "554 5.7.1 this looks like spam"
        self.encrypted.append(session.ssl is not None)
        self.taken.append(envelope)
        return "250 OK"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate for this machine that nobody has signed, its key in the same file."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def server(mailbox: Mailbox, certificate: Path) -> Iterator[Controller]:
    """Run a mail server that takes mails by STARTTLS and login only."""
    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    controller = Controller(
        mailbox,
        hostname="127.0.0.1",
        port=free_ports(1)[0],
        server_hostname="localhost",
        tls_context=context,
        require_starttls=True,
        auth_required=True,
        authenticator=mailbox.authenticate,
    )
    controller.start()
    yield controller
    cut(controller, mailbox)
    controller.stop()


def cut(controller: Controller, mailbox: Mailbox) -> None:
    """End all connections without a word."""

    async def abort() -> None:
        for connection in mailbox.connections:
            if connection.transport is not None:
                connection.transport.abort()
        for _ in range(5):
            await asyncio.sleep(0)  # each layer below learns it in a turn of its own

    asyncio.run_coroutine_threadsafe(abort(), controller.loop).result(10)


@pytest.fixture
def smtp(server: Controller, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Give a worker's settings for the server; the certificate is known."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    return {
        "smtp_host": "127.0.0.1",
        "smtp_port": str(server.port),
        "smtp_user": "nexusq",
        "smtp_password": "s3cret",
        "smtp_from": "NexusQ <nexusq@example.com>",
    }


def handler(name: str, **settings: Any) -> Handler:
    return load_handlers([], builtin_handlers(load_settings(**settings)))[name]


def run(used: Handler, payload: Any) -> Any:
    return json.loads(used.run(json.dumps(payload).encode()))


def test_a_mail_goes_out_by_starttls_and_login_as_it_was_written(smtp: dict[str, str], mailbox: Mailbox) -> None:
    # given a mail server that asks for both; when a mail is sent
    sent = run(handler("EMAIL_SEND", **smtp), MAIL | {"to": '"Doe, Jane" <jane@example.com>'})

    # then it arrived, encrypted, from the sender of the settings
    assert {"deliveryStatus": "SENT"} == sent
    assert ([b"nexusq"], [True]) == (mailbox.logins, mailbox.encrypted)
    [envelope] = mailbox.taken
    assert ("nexusq@example.com", ["jane@example.com"]) == (envelope.mail_from, envelope.rcpt_tos)
    message = message_from_bytes(envelope.content or b"", policy=default)
    assert ("Grüße", '"Doe, Jane" <jane@example.com>') == (message["Subject"], message["To"])
    assert MAIL["body"] == message.get_content().replace("\r\n", "\n").rstrip("\n")
    assert message["Date"]
    assert message["Message-ID"]


def test_mails_share_a_connection_and_survive_its_end(
    smtp: dict[str, str], mailbox: Mailbox, server: Controller
) -> None:
    # given two mails on one connection
    used = handler("EMAIL_SEND", **smtp)
    run(used, MAIL)
    run(used, MAIL)
    assert 1 == len(mailbox.logins)

    # when the server says that it closes the idle connection, or cuts it without a word
    mailbox.idle_closes = True
    run(used, MAIL)
    mailbox.idle_closes = False
    cut(server, mailbox)
    run(used, MAIL)

    # then the next mail went out on a new one
    assert 3 == len(mailbox.logins)
    assert 4 == len(mailbox.taken)


@pytest.mark.parametrize(
    "changed",
    [
        {"to": "nobody"},
        {"to": ""},
        {"to": "a@example.com, b@example.com"},
        {"to": "a@example.com\nBcc: b@example.com"},
        {"to": "a@example.com\n"},
        {"to": "Jane\r\nBcc: b@example.com <a@example.com>"},
        {"subject": "Hello\r\nBcc: b@example.com"},
        {"subject": "Hello\n"},
        {"sender": "a@example.com\nBcc: b@example.com"},
        {"body": None},
        {"bcc": "b@example.com"},
    ],
    ids=repr,
)
def test_a_mail_with_a_wrong_address_or_further_headers_is_refused(
    smtp: dict[str, str], mailbox: Mailbox, http: httpx.Client, changed: dict[str, Any]
) -> None:
    # given a mail with one wrong field
    payload = MAIL | changed

    # when it is submitted; then the API refuses it, naming the field
    answer = http.post("/tasks", json={"taskType": "EMAIL_SEND", "payload": payload})
    assert 422 == answer.status_code, answer.text
    assert next(iter(changed)) in answer.text

    # and a worker that is given it all the same sends nothing
    with pytest.raises(InvalidPayload, match="EMAIL_SEND"):
        run(handler("EMAIL_SEND", **smtp), payload)
    assert [] == mailbox.logins


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"to": "nobody@example.com"}, "550 5.1.1 there is no nobody here"),
        ({"body": "You won the lottery"}, "554 5.7.1 this looks like spam"),
    ],
)
def test_a_rejected_mail_fails_with_the_servers_words_and_the_next_one_goes_out(
    smtp: dict[str, str], mailbox: Mailbox, changed: dict[str, str], words: str
) -> None:
    # given a mail that the server does not take; when it is sent; then the error has the server's words
    used = handler("EMAIL_SEND", **smtp)
    with pytest.raises(Exception, match=f"^127.0.0.1 refused the mail: {words}$"):
        run(used, MAIL | changed)

    # and the connection is good for the next one
    run(used, MAIL)
    assert 1 == len(mailbox.taken)


def test_a_wrong_password_and_an_unknown_certificate_send_nothing(
    smtp: dict[str, str], mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a wrong password; when a mail is sent; then the server's words say so
    with pytest.raises(Exception, match="^127.0.0.1 refused the mail: 535 5.7.8"):
        run(handler("EMAIL_SEND", **smtp | {"smtp_password": "guess"}), MAIL)

    # given a certificate that nobody vouches for; when a mail is sent; then the password stays here
    monkeypatch.delenv("SSL_CERT_FILE")
    mailbox.logins.clear()
    with pytest.raises(Exception, match="certificate verify failed"):
        run(handler("EMAIL_SEND", **smtp), MAIL)
    assert [] == mailbox.logins
    assert [] == mailbox.taken


class Site(BaseHTTPRequestHandler):
    """Answers each path in its own way."""

    asked: list[tuple[str, str, str | None, bytes]]

    def do_GET(self) -> None:
        length = int(self.headers["Content-Length"] or 0)
        self.asked.append((self.command, self.path, self.headers["Cookie"], self.rfile.read(length)))
        code = int(self.path[1:]) if self.path[1:].isdecimal() else 200
        body = b"x" * 3_000_000 if self.path == "/large" else "Grüße".encode()
        self.send_response(code)
        if code == 302:
            self.send_header("Location", f"http://localhost:{self.server.server_port}/secret")  # type: ignore[attr-defined]
        self.send_header("Set-Cookie", "session=1")
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # a large answer is not read to its end
            self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the base class names it

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    Site.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def call() -> Iterator[Handler]:
    yield handler("HTTP_REQUEST", http_hosts="127.0.0.1")
    gc.collect()  # the client goes with the handler


def test_calls_and_mails_are_off_until_they_are_set_up() -> None:
    # given nothing but defaults; when the handlers are loaded; then only the trials are there
    assert ["ECHO", "SLEEP"] == sorted(load_handlers([], builtin_handlers(Settings())))


def test_a_call_gives_status_and_body_and_keeps_no_cookie(call: Handler, site: str) -> None:
    # given a site that sets a cookie; when it is called twice
    assert {"status": 200, "body": "Grüße"} == run(call, {"url": f"{site}/a"})
    run(call, {"url": f"{site}/b", "method": "POST", "json": {"a": 1}})

    # then the second call is one of its own
    assert [("GET", "/a", None, b""), ("POST", "/b", None, b'{"a":1}')] == Site.asked


@pytest.mark.parametrize("code", [400, 404, 500, 302])
def test_an_answer_that_is_no_success_fails_the_task(call: Handler, site: str, code: int) -> None:
    # given a site that answers so; when it is called; then the error has the code, and no redirect was followed
    with pytest.raises(httpx.HTTPStatusError, match=str(code)):
        run(call, {"url": f"{site}/{code}"})
    assert [f"/{code}"] == [path for _, path, _, _ in Site.asked]


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:{port}/",
        "http://127.0.0.1@localhost:{port}/",
        "http://127.0.0.1.example.com/",
        "http://2130706433:{port}/",
    ],
)
def test_a_host_that_is_not_on_the_list_is_not_called(call: Handler, site: str, url: str) -> None:
    # given hosts that look like the allowed one; when they are called; then the error names host and list
    with pytest.raises(
        PermissionError, match=r"expected the host to be one of \['127.0.0.1'\], got .*NEXUSQ_HTTP_HOSTS"
    ):
        run(call, {"url": url.format(port=site.rpartition(":")[2])})
    assert [] == Site.asked


def test_of_a_large_answer_only_the_beginning_is_kept(call: Handler, site: str) -> None:
    # given an answer of 3 MB; when it is called; then the result has its first 100,000 characters
    assert "x" * 100_000 == run(call, {"url": f"{site}/large"})["body"]


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "file:///etc/passwd", "127.0.0.1"])
def test_what_is_no_http_url_is_refused(call: Handler, url: str) -> None:
    # given another scheme; when it is called; then the payload is refused
    with pytest.raises(InvalidPayload, match="url"):
        run(call, {"url": url})


def test_mails_and_calls_run_as_tasks_of_a_real_worker(
    client: nexusq_sdk.Client,
    queue: str,
    start_worker: Callable[..., Any],
    smtp: dict[str, str],
    mailbox: Mailbox,
    site: str,
) -> None:
    # given a worker that is set up for both
    environment = {f"NEXUSQ_{name.upper()}": value for name, value in smtp.items()}
    start_worker(queue, NEXUSQ_HTTP_HOSTS="127.0.0.1", **environment)

    # when tasks are submitted
    mail = client.submit("EMAIL_SEND", MAIL, queue=queue)
    rejected = client.submit("EMAIL_SEND", MAIL | {"to": "nobody@example.com"}, queue=queue)
    called = client.submit("HTTP_REQUEST", {"url": f"{site}/a"}, queue=queue)
    elsewhere = client.submit("HTTP_REQUEST", {"url": "http://localhost/"}, queue=queue)

    # then each ends as it should, and failures say why
    assert {"deliveryStatus": "SENT"} == mail.result(30)
    assert 1 == len(mailbox.taken)
    assert {"status": 200, "body": "Grüße"} == called.result(30)
    with pytest.raises(nexusq_sdk.TaskFailed, match="MailRefused: 127.0.0.1 refused the mail: 550 5.1.1 there is no"):
        rejected.result(30)
    with pytest.raises(nexusq_sdk.TaskFailed, match="HostNotAllowed: expected the host to be one of"):
        elsewhere.result(30)


@pytest.mark.parametrize("payload", [{"a": [1, None, "ü"]}, [1, 2], "text", 1.5, None])
def test_echo_gives_its_payload_back(client: nexusq_sdk.Client, payload: Any) -> None:
    # given a payload of any kind; when it is sent; then it comes back
    assert payload == client.submit("ECHO", payload).result(20)


def test_sleep_takes_as_long_as_it_is_told_and_refuses_what_is_no_time(client: nexusq_sdk.Client) -> None:
    # given a time; when it is slept; then it has passed
    task = client.submit("SLEEP", {"seconds": 0.2})
    assert {"slept": 0.2} == task.result(20)
    info = task.info()
    assert info.started_at
    assert info.finished_at
    assert (info.finished_at - info.started_at).total_seconds() >= 0.2

    # given what is none; when it is submitted; then it is refused
    for seconds in (-1, 86_401, "1", None):
        with pytest.raises(nexusq_sdk.Refused, match="seconds"):
            client.submit("SLEEP", {"seconds": seconds})
