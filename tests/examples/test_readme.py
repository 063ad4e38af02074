"""What the README shows is what happens: its blocks are run as a reader would paste them."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import nbformat
import pytest
import redis
import typer
from nbclient import NotebookClient

from nexusq_server.cli import app
from tests.conftest import ROOT, Addresses, eventually

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def block(language: str, with_text: str) -> str:
    """Give the README's one block of a language that holds a text."""
    (found,) = [body for kind, body in BLOCKS if kind == language and with_text in body]
    return found


NEXUSQ_LINES = [shlex.split(line, comments=True) for line in block("sh", "nexusq submit").splitlines()]


def run_cells(sources: list[str], folder: Path) -> Any:
    """Run cells in a kernel as JupyterLab would; one that raises fails the test."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    return execute(notebook, folder)


def execute(notebook: Any, folder: Path) -> Any:
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    return client.execute()


def shown(cell: Any) -> str:
    """Give all that a cell has put out, as text."""
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "\n".join(texts)


def test_the_notebook_lines_run_as_pasted_and_end_with_an_outcome_for_each_mail(tmp_path: Path) -> None:
    # given the README's lines in a cell
    pasted = block("python", "nexusq_sdk.local()")

    # when they run, a cell looks at what they made, and the lines on retries and priorities follow
    look = "print(batch.counts()['COMPLETED'], cluster.mails(), type(people.join(batch.frame())).__name__)"
    further = block("python", "priority=")
    executed = run_cells([pasted, look, further, "client.unschedule('nightly')\ncluster.close()"], tmp_path)

    # then each mail was sent, and the cell's last line shows the frame
    assert "100 100 DataFrame\n" == shown(executed.cells[1])
    assert "user99@example.com" in shown(executed.cells[0])
    assert "COMPLETED" in shown(executed.cells[0])


def test_a_function_of_a_cell_runs_on_the_workers(cluster: Addresses, tmp_path: Path) -> None:
    # given a notebook with a client
    client = f"import pandas as pd, nexusq_sdk\nclient = nexusq_sdk.Client({cluster.url!r})"

    # when the README's cell runs, and one looks at what it gave
    pasted = block("python", "client.map(")
    look = "print(list(batch.results()), powers[-1], client.task(f'{batch.id}-0').stdout())\nclient.close()"
    executed = run_cells([client, pasted, look], tmp_path)

    # then it is what the function returns and prints
    assert "[103, 108] 387420489 at work\n\n" == shown(executed.cells[2])


def test_the_notebook_lines_are_ten() -> None:
    lines = block("python", "nexusq_sdk.local()").splitlines()
    assert 10 == len([line for line in lines if line.strip()])


def test_the_handler_that_is_tried_again_succeeds_at_its_second_attempt(
    cluster: Addresses, queue: str, tmp_path: Path, start_worker: Any, client: Any
) -> None:
    # given the README's module on a worker
    (tmp_path / "my_downloads.py").write_text(block("python", "DOWNLOAD"))
    start_worker(queue, NEXUSQ_TASKS="my_downloads", PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")

    # when a task of its type is submitted
    task = client.submit("DOWNLOAD", {"url": "https://example.com"}, queue=queue)

    # then it has had two attempts
    assert "https://example.com" == task.result(timeout=30)
    assert 2 == task.info().attempt


def test_the_handler_runs_on_the_worker_and_by_the_submit_line_that_follow_it(
    cluster: Addresses, queue: str, tmp_path: Path, http: httpx.Client
) -> None:
    # given the README's module where the reader stands, and rows for it
    (tmp_path / "my_tasks.py").write_text(block("python", "RESIZE_IMAGE"))
    (tmp_path / "images.csv").write_text("path,width\na.png,20\nb.png,30\n")
    _, worker_line, submit_line = NEXUSQ_LINES
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "NEXUSQ_URL": cluster.url,
        "NEXUSQ_REDIS": cluster.redis_url,
        "NEXUSQ_KAFKA": cluster.kafka,
        "NEXUSQ_QUEUES": queue,
    }
    log = tmp_path / "worker.log"

    # when a worker is started by the line, on a queue of its own
    with log.open("w") as output:
        worker = subprocess.Popen(worker_line, cwd=tmp_path, env=environment, stderr=output)
    try:

        def offered() -> None:
            assert worker.poll() is None, log.read_text()
            offers = [entry for entry in http.get("/workers").json()["workers"] if queue in entry["queues"]]
            assert [50] == [entry["concurrency"] for entry in offers if "RESIZE_IMAGE" in entry["taskTypes"]]

        eventually(offered)
        submit = [*submit_line, "--queue", queue]
        submitted = subprocess.run(submit, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    finally:
        worker.terminate()
        worker.wait(60)

    # then the submit line waits for the end of both rows
    assert 0 == submitted.returncode, submitted.stderr
    page = http.get(f"/batches/{submitted.stdout.strip()}/tasks").json()
    assert [{"path": "a.png", "width": 20}, {"path": "b.png", "width": 30}] == page["columns"]["result"]


@pytest.mark.parametrize("words", NEXUSQ_LINES, ids=" ".join)
def test_each_nexusq_line_is_one_that_the_command_understands(words: list[str]) -> None:
    program, name, *arguments = words
    assert "nexusq" == program

    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    with command.make_context(name, arguments):  # refuses unknown options and values, runs nothing
        pass


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_each_nox_session_that_is_named_is_on_the_menu(document: str) -> None:
    source = (ROOT / "noxfile.py").read_text()
    menu = set(re.findall(r"^@nox\.session.*\ndef (\w+)", source, re.MULTILINE))

    named = re.findall(r"nox -s ((?:\w+ ?)+)", (ROOT / document).read_text())

    assert named
    assert {name for names in named for name in names.split()} <= menu


def test_the_curl_lines_answer_what_the_comments_below_them_say(
    cluster: Addresses, redis_client: redis.Redis, tmp_path: Path
) -> None:
    # given the commands and the answers that stand below them
    text = block("sh", "curl").replace("http://127.0.0.1:8000", cluster.url)
    post, posted, get, got, hgetall = re.split(r"^(# .*)\n", text, flags=re.MULTILINE)

    def run(command: str) -> Any:
        script = command.replace("curl", "curl -sS")
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
        return json.loads(done.stdout)

    def said(comment: str) -> dict[str, Any]:
        return json.loads(comment.removeprefix("# ").replace(", ...}", "}"))

    # when the first is run, its answer is that of the comment but for the id
    answer = run(post)
    placeholder = said(posted)["taskId"]
    assert said(posted) == answer | {"taskId": placeholder}

    # then the second one shows what its comment says, and more
    def completed() -> None:
        assert said(got).items() <= (run(get.replace(placeholder, answer["taskId"])) | {"taskId": placeholder}).items()

    eventually(completed)

    # and the third one shows it as Redis has it
    line = hgetall.replace(placeholder, answer["taskId"]).replace("redis://127.0.0.1:6379/0", cluster.redis_url)
    program, flag, url, *words = shlex.split(line, comments=True)
    assert ("redis-cli", "-u", cluster.redis_url) == (program, flag, url)
    if shutil.which(program):
        printed = subprocess.run([program, flag, url, *words], capture_output=True, text=True, check=True)
        values = printed.stdout.splitlines()
        fields = dict(zip(values[::2], values[1::2], strict=True))
    else:  # the same words by another client
        fields = redis_client.execute_command(*words)
    assert ("COMPLETED", "EMAIL_SEND") == (fields["status"], fields["taskType"])


def tour() -> Any:
    return nbformat.read(ROOT / "notebooks" / "tour.ipynb", as_version=4)


def cell_with(notebook: Any, text: str) -> Any:
    (found,) = [cell for cell in notebook.cells if cell.cell_type == "code" and text in cell.source]
    return found


def test_the_tour_runs_on_a_cluster_that_it_starts_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEXUSQ_URL", raising=False)

    executed = execute(tour(), ROOT / "notebooks")

    assert "300 of 300" in shown(cell_with(executed, "mailing.progress()"))
    assert "300 of 300" in shown(cell_with(executed, "other.batch(mailing.id)"))
    assert "row 2: expected 'to'" in shown(cell_with(executed, "nexusq_sdk.Refused"))
    assert 3 == shown(cell_with(executed, "failed = outcomes")).count("ZeroDivisionError")
    assert "average = spent / orders" in shown(cell_with(executed, 'failed["traceback"]'))
    assert "[300 rows x 3 columns]" in shown(cell_with(executed, "mail_file"))


def test_the_tour_runs_on_the_cluster_that_nexusq_url_names(
    cluster: Addresses, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NEXUSQ_URL", cluster.url)

    executed = execute(tour(), ROOT / "notebooks")

    assert "300 of 300" in shown(cell_with(executed, "mailing.wait()"))
    assert f"The workers of {cluster.url} sent them" in shown(cell_with(executed, "mail_file"))


def test_the_tour_is_saved_as_it_ran_without_a_machines_paths_and_times() -> None:
    saved = tour()
    cells = [cell for cell in saved.cells if cell.cell_type == "code"]

    assert list(range(1, len(cells) + 1)) == [cell.execution_count for cell in cells]
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert not [cell for cell in cells if "execution" in cell.metadata]
    outputs = json.dumps([cell.outputs for cell in cells])
    assert not re.findall(r"/(?:home|root|tmp|work|Users)/", outputs)
