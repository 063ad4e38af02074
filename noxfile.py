"""The menu: ``nox -l`` lists it, ``nox -s NAME`` runs one; what stands after ``--`` goes to the session.

Each session installs exactly what its lock in ``requirements/`` names, into an environment of its own that is used
again as long as the lock stays the same. Nothing is needed but Python and pip.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests"]

ROOT = Path(__file__).parent
REQUIREMENTS = ROOT / "requirements"
UV = "uv==0.13.9"


def install(session: nox.Session, lock: str, project: bool = True) -> None:
    """Install what a lock names, and NexusQ itself from this checkout; skip it if that is already there."""
    names = [REQUIREMENTS / f"{lock}.txt", REQUIREMENTS / "build.txt", ROOT / "pyproject.toml"]
    wanted = hashlib.sha256(b"".join(name.read_bytes() for name in names) + str(ROOT).encode()).hexdigest()
    stamp = Path(session.virtualenv.location, f"installed-{lock}")
    if stamp.exists() and stamp.read_text() == wanted:
        return
    # pip alone would do, in half a minute instead of three seconds. (`run_install`: nox's own --install-only and
    # --no-install mean these, and what they skip is not stamped.)
    session.run_install("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV)
    uv = ("python", "-m", "uv", "pip", "install", "--quiet", "--python", session.virtualenv.location)
    done = session.run_install(*uv, "--require-hashes", "-r", str(names[0]))
    if project:
        session.run_install(*uv, "--no-deps", "--build-constraints", str(names[1]), "-e", str(ROOT))
    if done is not None:
        stamp.write_text(wanted)


@nox.session
def quickstart(session: nox.Session) -> None:
    """Run the main job here: real Kafka and Redis, 1,000 mails from a DataFrame, a report."""
    install(session, "local")
    session.run("python", "notebooks/quickstart.py")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the whole test suite against real Kafka and Redis, which it starts by itself."""
    install(session, "dev")
    session.run("pytest", *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """Kill workers, APIs, Kafka and Redis at random for two minutes (`-- --minutes 10 --seed 1`), then judge."""
    install(session, "dev")
    session.run("python", "-m", "tests.chaos", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure NexusQ beside the bare loop and its peers (`-- --quick`: three minutes); docs/performance.md says how."""
    install(session, "bench")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def sandbox(session: nox.Session) -> None:
    """Stand up all of it on kind (`-- --engine compose`, `--status`, `--down`, `--help`) and prove it by a batch."""
    install(session, "local")
    session.run("python", "-m", "sandbox", *session.posargs)


@nox.session
def k8s(session: nox.Session) -> None:
    """Check the rendered manifests against Kubernetes' schemas, the compose file against its own; offline."""
    install(session, "dev")
    session.run("python", "-m", "sandbox.manifests", *session.posargs)


@nox.session
def lab(session: nox.Session) -> None:
    """Restart and kill the sandbox's parts while batches run, and judge (`-- compose`, `-- kind`): needs Docker."""
    install(session, "local")
    session.run("python", "-m", "sandbox.lab", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style (ruff) and that imports run one way (import-linter)."""
    install(session, "dev")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    """Check types: mypy, strict."""
    install(session, "dev")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Check that links in the documents lead somewhere and that docstrings' examples run."""
    install(session, "dev")
    session.run("pytest", "tests/examples/test_docs.py", *session.posargs)


@nox.session(name="format")
def format_(session: nox.Session) -> None:
    """Bring the code into shape (ruff)."""
    install(session, "dev")
    session.run("ruff", "check", "--fix", ".", success_codes=[0, 1])
    session.run("ruff", "format", ".")


@nox.session
def notebooks(session: nox.Session) -> None:
    """Execute the notebooks (or those named) on the embedded cluster, in place; `-- --check` saves nothing."""
    install(session, "dev")
    names = [word for word in session.posargs if word != "--check"]
    # Not `jupyter execute`: that one would save at what time each cell ran.
    options = ("--execute", "--ExecutePreprocessor.record_timing=False", "--ExecutePreprocessor.timeout=300")
    with tempfile.TemporaryDirectory() as folder:
        check = ("--to", "notebook", "--output-dir", folder)
        for name in names or sorted(map(str, Path("notebooks").glob("*.ipynb"))):
            session.run(
                *("jupyter", "nbconvert", "--log-level", "WARN", *options),
                *(check if "--check" in session.posargs else ("--inplace",)),
                name,
                env={"NEXUSQ_URL": None},
            )


@nox.session
def browser(session: nox.Session) -> None:
    """Drive a JupyterLab in a headless Chromium; pictures go to .ci/artifacts (`-- --artifacts FOLDER`)."""
    install(session, "browser")
    session.run("pytest", "tests/browser", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Build wheel and sdist into dist/."""
    install(session, "dev")
    session.run("python", "-m", "uv", "build", "--build-constraints", str(REQUIREMENTS / "build.txt"))


@nox.session
def lock(session: nox.Session) -> None:
    """Bring the locks in requirements/ up to date with pyproject.toml; `-- --upgrade` takes newer versions."""
    session.install(UV)
    os.chdir(ROOT)
    for name, options in {
        "server": ["pyproject.toml", "--extra", "server"],
        "local": ["pyproject.toml", "--extra", "local"],
        "sandbox": ["pyproject.toml", "--extra", "sandbox"],
        "dev": ["pyproject.toml", "--extra", "dev"],
        "browser": ["pyproject.toml", "--extra", "browser"],
        "bench": ["pyproject.toml", "--extra", "bench"],
        "build": ["requirements/build.in"],
    }.items():
        session.run(
            *("python", "-m", "uv", "pip", "compile", *options, "--universal", "--python-version", "3.11"),
            *("--generate-hashes", "--no-annotate", "--quiet", "--custom-compile-command", "python -m nox -s lock"),
            *("--output-file", f"requirements/{name}.txt", *session.posargs),
        )
