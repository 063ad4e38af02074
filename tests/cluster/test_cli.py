"""The command line: what users type, what they get, and what they are told when it was wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

import nexusq_sdk
from nexusq_server.__main__ import main
from nexusq_server.cli import app
from tests.conftest import ROOT, Addresses

Run = Callable[..., Result]

ROWS = pd.DataFrame({"a": [1.0, 9.0, 4.0], "b": [2.0, 3.0, 0.0]})
PRESENT = ROWS[ROWS["b"] != 0]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cluster: Addresses) -> Run:
    """Run a command as a user does, in a folder of its own; nothing may end in a traceback."""
    monkeypatch.setenv("NEXUSQ_URL", cluster.url)
    monkeypatch.chdir(tmp_path)

    def run_one(*words: str) -> Result:
        result = CliRunner().invoke(app, list(words))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run_one


def error(result: Result, code: int = 1) -> str:
    """Give what was told in one line."""
    assert code == result.exit_code, result.output
    assert result.stderr.startswith("nexusq: ")
    assert 1 == result.stderr.count("\n"), result.stderr
    return result.stderr.removeprefix("nexusq: ").rstrip()


def write(rows: pd.DataFrame, name: str) -> str:
    if name.endswith(".csv"):
        rows.to_csv(name, index=False)
    elif name.endswith(".parquet"):
        rows.to_parquet(name)
    else:
        rows.to_json(name, orient="records", lines=True)
    return name


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet", "ROWS.CSV"])
def test_a_file_of_rows_becomes_a_batch(run: Run, client: nexusq_sdk.Client, name: str) -> None:
    # given a file; when it is submitted and waited for
    file = Path(write(PRESENT, name.lower())).rename(name)
    result = run("submit", "DIVIDE", str(file), "--wait")

    # then the id alone is printed, progress beside it, and each row has run
    assert 0 == result.exit_code, result.output
    batch = client.batch(result.stdout.strip())
    assert [0.5, 3.0] == list(batch.results())
    assert "2 of 2" in result.stderr


def test_without_wait_the_id_is_printed_at_once(run: Run, client: nexusq_sdk.Client) -> None:
    # given a file whose task takes long
    Path("rows.jsonl").write_text('{"seconds": 1.5}\n')

    # when it is submitted; then the batch still runs, and nothing but its id is said
    result = run("submit", "SLEEP", "rows.jsonl")
    batch = client.batch(result.stdout.strip())
    assert not batch.done()
    assert (0, "") == (result.exit_code, result.stderr)
    batch.wait(20)


def test_where_tasks_failed_wait_ends_with_3_and_says_how_to_see_why(run: Run) -> None:
    # given rows of which one divides by zero; when they are submitted
    result = run("submit", "DIVIDE", write(ROWS, "rows.csv"), "--wait")

    # then the exit code tells it, and the next command is named
    assert 3 == result.exit_code
    assert f"1 of 3 tasks failed; see why: nexusq report {result.stdout.strip()} -o outcomes.csv" in result.stderr


def test_what_a_file_says_reaches_the_handler_as_it_stands(run: Run, client: nexusq_sdk.Client) -> None:
    # given lines of JSON that look like dates and numbers, and cells that look like missing values
    Path("rows.jsonl").write_text(
        '{"zip": "01234", "date": "2026-01-01"}\n\n{"created_at": 5, "big": 12345678901234567}\n'
    )
    Path("rows.csv").write_text("name,note,count\nNA,None,1\nnull,,2\n")

    # when they are submitted
    ids = [run("submit", "ECHO", name, "--wait").stdout.strip() for name in ("rows.jsonl", "rows.csv")]

    # then nothing was taken for something else; only an empty cell is a missing value
    assert [
        {"zip": "01234", "date": "2026-01-01"},
        {"created_at": 5, "big": 12345678901234567},
    ] == list(client.batch(ids[0]).results())
    first, second = client.batch(ids[1]).results()
    assert {"name": "NA", "note": "None", "count": 1} == first
    assert ("null", None, 2) == (second["name"], second.get("note"), second["count"])


def test_a_file_that_can_not_be_read_is_told_before_anything_is_submitted(run: Run) -> None:
    # given files with faults; when they are submitted; then each is named with its fault
    Path("broken.jsonl").write_text('{"a": 1}\n{"a": \n')
    Path("empty.csv").write_text("")
    Path("text.parquet").write_text("a,b")
    Path("folder.csv").mkdir()
    assert error(run("submit", "ECHO", "broken.jsonl")).startswith("broken.jsonl, line 2: expected a payload in JSON")
    assert "empty.csv: No columns to parse from file" == error(run("submit", "ECHO", "empty.csv"))
    assert error(run("submit", "ECHO", "text.parquet")).startswith("text.parquet: ")
    assert "folder.csv: Is a directory" == error(run("submit", "ECHO", "folder.csv"))
    assert "missing.csv: No such file or directory" == error(run("submit", "ECHO", "missing.csv"))


@pytest.mark.parametrize("words", [("submit", "ECHO", "rows.xlsx"), ("report", "some-id", "-o", "rows.xlsx")])
def test_a_file_of_an_unknown_kind_is_refused_with_the_known_ones(run: Run, words: tuple[str, ...]) -> None:
    # given a name with another ending; when it is used; then the known endings are named
    result = run(*words)
    said = " ".join(result.stderr.replace("│", " ").split())
    assert 2 == result.exit_code
    assert "expected a file that ends in one of .csv, .jsonl, .parquet, got 'rows.xlsx'" in said


def test_rows_and_types_that_no_worker_takes_are_refused(run: Run) -> None:
    # given rows whose second has a text for a number, and a type that is misspelt
    Path("rows.jsonl").write_text('{"a": 1, "b": 2}\n{"a": "one", "b": 2}\n')

    # when they are submitted; then row and field, and the type that was meant, are named
    said = error(run("submit", "DIVIDE", "rows.jsonl"))
    assert "row 1" in said
    assert "'a'" in said
    assert "did you mean DIVIDE" in error(run("submit", "DIVDE", "rows.jsonl"))
    assert "'no type'" in error(run("submit", "no type", "rows.jsonl"))
    assert "got 'dead'" in error(run("submit", "ECHO", "rows.jsonl", "--queue", "dead"))


def test_a_type_whose_worker_is_yet_to_come_can_be_submitted(run: Run, queue: str) -> None:
    # given a type that nobody offers, and a queue that nobody serves; when it is let through; then it waits
    file = write(PRESENT, "rows.csv")
    result = run("submit", "NOT_YET_OFFERED", file, "--queue", queue, "--allow-unknown")
    assert 0 == result.exit_code, result.output
    assert 2 == json.loads(run("status", result.stdout.strip()).stdout)["counts"]["QUEUED"]


def test_status_tells_of_a_task_and_of_a_batch(run: Run) -> None:
    # given a batch that has ended
    batch = run("submit", "DIVIDE", write(ROWS, "rows.csv"), "--wait").stdout.strip()

    # when it and one of its tasks are asked for; then both are shown as the API has them
    shown = json.loads(run("status", batch).stdout)
    assert (3, 2, 1) == (shown["size"], shown["counts"]["COMPLETED"], shown["counts"]["FAILED"])
    task = json.loads(run("status", f"{batch}-2").stdout)
    assert ("FAILED", "ZeroDivisionError") == (task["status"], task["error"]["type"])


def test_an_id_that_never_was_is_told(run: Run) -> None:
    # given ids of nothing; when they are asked for; then that is said of both kinds
    unknown = "01a20e45-5716-74df-a356-688becb510f5"
    assert unknown in error(run("status", unknown))
    assert "task or a batch" in error(run("status", unknown))
    assert "nonsense" in error(run("status", "nonsense"))
    assert unknown in error(run("report", unknown))


def test_report_prints_counts_and_percentiles(run: Run) -> None:
    # given a batch; when its report is asked for; then it has a line for each status, with short times
    batch = run("submit", "DIVIDE", write(ROWS, "rows.csv"), "--wait").stdout.strip()
    lines = run("report", batch).stdout.splitlines()
    assert ["tasks", "p50", "p95", "p99", "max"] == lines[0].split()
    assert ["COMPLETED", "wait", "2"] == next(line.split()[:3] for line in lines if line.startswith("COMPLETED"))
    assert ["all", "wait", "3"] == next(line.split()[:3] for line in lines if line.startswith("all"))
    assert "0 days" not in "".join(lines)
    assert " ms" in lines[-1]


def test_a_written_report_can_be_read_again_by_pandas(run: Run, client: nexusq_sdk.Client) -> None:
    # given a batch and its frame
    batch = run("submit", "DIVIDE", write(ROWS, "rows.csv"), "--wait").stdout.strip()
    frame = client.batch(batch).frame()

    # when its report is written in each format
    for ending in ("csv", "jsonl", "parquet"):
        assert f"3 rows written to out.{ending}\n" == run("report", batch, "-o", f"out.{ending}").stdout

    # then pandas reads the same from each
    for read in (
        pd.read_csv("out.csv"),
        pd.read_json("out.jsonl", lines=True),
        pd.read_parquet("out.parquet"),
    ):
        assert list(frame.columns) == list(read.columns)
        for name in ("task_id", "task_type", "status", "attempt", "worker"):
            assert frame[name].astype(str).tolist() == read[name].astype(str).tolist()
        assert [0.5, 3.0] == read["result"].astype(float).tolist()[:2]
        assert read["result"].isna().tolist() == [False, False, True]
        assert ["float division by zero"] == read["error"].dropna().tolist()
        assert frame["traceback"][2] == read["traceback"][2]
        assert frame["finished_at"].tolist() == pd.to_datetime(read["finished_at"]).tolist()
        assert frame["duration"].tolist() == pd.to_timedelta(read["duration"]).tolist()


def test_a_report_that_can_not_be_written_is_told(run: Run) -> None:
    # given a folder that is not there; when a report is to be written into it; then it is named
    batch = run("submit", "DIVIDE", write(PRESENT, "rows.csv"), "--wait").stdout.strip()
    for ending in ("csv", "jsonl", "parquet"):
        assert "nowhere" in error(run("report", batch, "-o", f"nowhere/out.{ending}"))


def test_types_lists_what_workers_offer_with_their_fields(run: Run) -> None:
    # given the workers; when their types are listed; then each has its fields and its description in one line
    lines = [line.split() for line in run("types").stdout.splitlines()]
    assert ["DIVIDE", "a,", "b", "Divide", "a", "by", "b."] in lines
    assert ["path,", "line,", "seconds?"] == next(line[1:4] for line in lines if line[0] == "LEDGER")


def test_settings_lists_each_variable_and_no_password(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # given passwords in the environment
    monkeypatch.setenv("NEXUSQ_REDIS", "redis://:s3cret@redis:6379/0")
    monkeypatch.setenv("NEXUSQ_SMTP_PASSWORD", "s3cret")
    monkeypatch.setenv("NEXUSQ_RESULT_TTL", "36h")

    # when the settings are listed; then each stands in one line with its value and its default, passwords do not
    said = run("settings").stdout
    lines = {line.split()[0]: line.split() for line in said.splitlines()}
    assert "s3cret" not in said
    assert "redis://:(hidden)@redis:6379/0" == lines["NEXUSQ_REDIS"][1]
    assert "(hidden)" == lines["NEXUSQ_SMTP_PASSWORD"][1]
    assert ["36h", "1d"] == lines["NEXUSQ_RESULT_TTL"][1:3]
    assert "NEXUSQ_MAX_RESULT_KIB" in lines
    # those too that are read before there are settings
    read = {
        name
        for file in (ROOT / "server").rglob("*.py")
        for name in re.findall(r"NEXUSQ_[A-Z_]+[A-Z]", file.read_text())
    }
    assert set() == read - set(lines) - {"NEXUSQ_SDK"}


def test_with_the_sdk_alone_the_command_says_in_one_line_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "nexusq_server.cli")
    monkeypatch.setitem(sys.modules, "typer", None)

    with pytest.raises(SystemExit) as ended:
        main()

    assert str(ended.value).startswith(
        "nexusq: expected the server's packages to be installed, but typer is missing: pip install"
    )


@pytest.mark.parametrize("command", ["api", "worker", "up", "settings"])
def test_a_wrong_setting_stops_each_command_with_its_name(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    # given a wrong value; when a command is run; then it says which and what was expected
    monkeypatch.setenv("NEXUSQ_LEASE", "ten")
    result = run(command)
    assert 2 == result.exit_code
    assert "NEXUSQ_LEASE: expected a time above zero with its unit, such as 500ms" in result.stderr
    assert "got 'ten'" in result.stderr


def test_with_the_server_away_one_line_says_where_it_was_looked_for(run: Run) -> None:
    # given an address at which nothing answers, and one that is none
    write(PRESENT, "rows.csv")
    for words in (("types",), ("status", "x" * 36), ("report", "x" * 36), ("submit", "ECHO", "rows.csv")):
        # when something is asked there; then one line says so
        said = error(run(*words, "--url", "http://127.0.0.1:1"))
        assert said.startswith("expected a NexusQ to answer at http://127.0.0.1:1") or "id" in said
    assert "did you mean 'http://localhost:8000'?" in error(run("types", "--url", "localhost:8000"))


def test_version_is_printed_and_python_m_is_the_same_command(run: Run) -> None:
    # given the package; when its version is asked for; then both ways print it
    assert f"nexusq {nexusq_sdk.__version__}\n" == run("--version").stdout
    command = [sys.executable, "-m", "nexusq_server", "--version"]
    assert f"nexusq {nexusq_sdk.__version__}\n" == subprocess.check_output(command, text=True)
