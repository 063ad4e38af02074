"""Kafka and Redis as production has them: with TLS, and with log-ins or client certificates."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from kafka import KafkaAdminClient
from kafka.admin import UserScramCredentialUpsertion

import nexusq_sdk
from nexusq_server.local import kafka as local_kafka
from nexusq_server.local import redis as local_redis
from nexusq_server.local.cluster import free_ports
from tests.conftest import ROOT, eventually

PASSWORD = "correct-horse"
_LISTENERS = """
listeners=PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller},LOGIN://127.0.0.1:{login},CERT://127.0.0.1:{cert}
advertised.listeners=PLAINTEXT://127.0.0.1:{plain},LOGIN://127.0.0.1:{login},CERT://127.0.0.1:{cert}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_SSL,CERT:SSL
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={ca}
listener.name.cert.ssl.client.auth=required
listener.name.login.sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN
listener.name.login.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.login.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \\
  user_plain="{password}";
"""


class Secured(NamedTuple):
    """Where they answer, and the files that say whom to trust."""

    login: str
    certificate: str
    redis: str
    ca: str
    client_cert: str
    client_key: str


def _pkcs8(key: trustme.Blob) -> bytes:
    """Give a key in the form that Kafka reads."""
    private = serialization.load_pem_private_key(key.bytes(), None)
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@contextlib.contextmanager
def tunnel(certificate: trustme.LeafCert, to: int) -> Iterator[int]:
    """Speak TLS before a Redis that was built without it; give the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    loop = asyncio.new_event_loop()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, on = await asyncio.open_connection("127.0.0.1", to)
        await asyncio.gather(pipe(reader, on), pipe(back, writer))

    async def end() -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0, ssl=context))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.run_until_complete(end())
        loop.close()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    authority = trustme.CA()
    server, client = authority.issue_cert("127.0.0.1", "localhost"), authority.issue_cert("nexusq@example.com")
    files = {
        name: folder / name for name in ("ca.crt", "keystore.pem", "server.crt", "server.key", "user.crt", "user.key")
    }
    authority.cert_pem.write_to_path(files["ca.crt"])
    for name, issued in (("server", server), ("user", client)):
        issued.cert_chain_pems[0].write_to_path(files[f"{name}.crt"])
        files[f"{name}.key"].write_bytes(_pkcs8(issued.private_key_pem))
    files["keystore.pem"].write_bytes(files["server.key"].read_bytes() + server.cert_chain_pems[0].bytes())

    plain, controller, login, cert, redis_port = free_ports(5)
    command = local_kafka.prepare(folder / "kafka", plain, controller, local_kafka.find_java(), local_kafka.find_jars())
    places = {"plain": plain, "controller": controller, "login": login, "cert": cert}
    told = _LISTENERS.format(**places, keystore=files["keystore.pem"], ca=files["ca.crt"], password=PASSWORD)
    properties = folder / "kafka" / "server.properties"
    kept = [line for line in properties.read_text().splitlines() if "listeners=" not in line]
    properties.write_text("\n".join(kept) + told)
    redis_command = local_redis.command(local_redis.find_redis(), folder / "redis", redis_port)
    redis_command += ["--requirepass", PASSWORD]

    with (
        (folder / "kafka.log").open("w") as kafka_log,
        subprocess.Popen(command, cwd=folder / "kafka", stdout=kafka_log, stderr=kafka_log) as kafka,
        subprocess.Popen(redis_command, stdout=subprocess.DEVNULL) as redis,
        tunnel(server, redis_port) as tls_port,
    ):
        try:
            _add_login(f"127.0.0.1:{plain}", folder / "kafka.log")
            yield Secured(
                login=f"127.0.0.1:{login}",
                certificate=f"127.0.0.1:{cert}",
                redis=f"rediss://:{PASSWORD}@127.0.0.1:{tls_port}/0?ssl_ca_certs={files['ca.crt']}",
                ca=str(files["ca.crt"]),
                client_cert=str(files["user.crt"]),
                client_key=str(files["user.key"]),
            )
        finally:
            kafka.kill()
            redis.kill()


def _add_login(kafka: str, log: Path) -> None:
    def started() -> None:
        assert "Kafka Server started" in log.read_text(), log.read_text()[-3000:]

    eventually(started, 60)
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    admin.alter_user_scram_credentials([UserScramCredentialUpsertion("nexusq", "SCRAM-SHA-512", PASSWORD)])
    admin.close()


WAYS = ("a login by SCRAM", "a login by PLAIN", "a client certificate")


def settings_of(secured: Secured, way: str) -> dict[str, str]:
    told = {"NEXUSQ_REDIS": secured.redis, "NEXUSQ_KAFKA_CA": secured.ca, "NEXUSQ_KAFKA": secured.login}
    if way == "a client certificate":
        files = {"NEXUSQ_KAFKA_CERT": secured.client_cert, "NEXUSQ_KAFKA_KEY": secured.client_key}
        return told | files | {"NEXUSQ_KAFKA": secured.certificate, "NEXUSQ_KAFKA_SECURITY": "SSL"}
    user, how = ("nexusq", "SCRAM-SHA-512") if way == WAYS[0] else ("plain", "PLAIN")
    login = {"NEXUSQ_KAFKA_SASL": how, "NEXUSQ_KAFKA_USER": user, "NEXUSQ_KAFKA_PASSWORD": PASSWORD}
    return told | login | {"NEXUSQ_KAFKA_SECURITY": "SASL_SSL"}


@pytest.mark.parametrize("way", WAYS)
def test_tasks_run_over_tls_with(secured: Secured, tmp_path: Path, way: str) -> None:
    # given an API and a worker that are told how to speak to Kafka and Redis
    [port] = free_ports(1)
    environment = os.environ | settings_of(secured, way) | {"NEXUSQ_PORT": str(port), "PYTHONPATH": str(ROOT)}
    url = f"http://127.0.0.1:{port}"
    logs = [tmp_path / "api.log", tmp_path / "worker.log"]
    with (
        logs[0].open("w") as api_log,
        logs[1].open("w") as worker_log,
        subprocess.Popen([sys.executable, "-m", "nexusq_server", "api"], env=environment, stderr=api_log) as api,
        subprocess.Popen(
            [sys.executable, "-m", "nexusq_server", "worker"], env=environment, stderr=worker_log
        ) as worker,
    ):
        try:

            def ready() -> None:
                said = "\n".join(log.read_text() for log in logs)
                try:
                    assert httpx.get(f"{url}/readyz", timeout=5).is_success, said
                    assert httpx.get(f"{url}/workers", timeout=5).json()["workers"], said
                except httpx.TransportError as error:
                    raise AssertionError(said) from error

            eventually(ready, 60)

            # when a batch is submitted; then it is run, and how the queue stands is known
            with nexusq_sdk.Client(url) as client:
                batch = client.submit_batch("ECHO", range(100)).wait(timeout=60)
                assert list(range(100)) == list(batch.results())
                assert 1 == client.queues()["workers"].max()
        finally:
            for process in (worker, api):
                process.terminate()
                process.wait(30)
    assert PASSWORD not in "".join(log.read_text() for log in logs)
