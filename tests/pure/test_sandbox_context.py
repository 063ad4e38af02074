"""`nox -s sandbox -- --context`: what it does to somebody's cluster, by a kubectl that notes its calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox.images import Images
from sandbox.kubernetes import Cluster
from sandbox.manifests import kubectl
from sandbox.shell import ROOT, SandboxError, run

OURS = {"metadata": {"labels": {"app.kubernetes.io/part-of": "nexusq-sandbox"}}}
PRODUCTION: dict[str, Any] = {"metadata": {"labels": {"kubernetes.io/metadata.name": "nexusq"}}}
STUB = """#!/bin/sh
echo "$*" >>"$HERE/calls"
case "$*" in
*get-contexts*) echo kind-theirs; echo prod ;;
*"get namespace"*) cat "$HERE/namespace" ;;
*"apply --kustomize"*) for folder; do :; done; "$KUBECTL" kustomize "$folder" >"$HERE/rendered" ;;
*"get deployments"*) echo "deployment.apps/nexusq-api 1/1" ;;
esac
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with such a kubectl, which is first on PATH; no Docker."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "kubectl").write_text(STUB)
    (programs / "kubectl").chmod(0o755)
    monkeypatch.setenv("KUBECTL", kubectl())
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin")
    (tmp_path / "namespace").write_text("")
    return tmp_path


def sandbox(*words: str) -> tuple[int, str]:
    answer = subprocess.run(
        [sys.executable, "-m", "sandbox", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return answer.returncode, answer.stdout + answer.stderr


def deleted(here: Path) -> list[str]:
    return [line for line in (here / "calls").read_text().splitlines() if " delete " in line]


def test_down_removes_the_sandboxs_namespace_and_nothing_else(here: Path) -> None:
    (here / "namespace").write_text(json.dumps(OURS))
    code, said = sandbox("--context", "kind-theirs", "--down")
    assert code == 0, said
    inside = "--context kind-theirs --namespace nexusq delete"
    assert [f"{inside} deployments,statefulsets --all", f"{inside} pods --all --grace-period=5"] == deleted(here)[:2]
    assert ["--context kind-theirs delete namespace nexusq --ignore-not-found"] == deleted(here)[2:]


def test_a_namespace_of_that_name_that_is_not_the_sandboxs_is_left_alone(here: Path) -> None:
    (here / "namespace").write_text(json.dumps(PRODUCTION))
    code, said = sandbox("--context", "prod", "--down")
    assert code == 1
    assert "expected namespace nexusq of prod to be the sandbox's" in said
    assert [] == deleted(here)


def test_down_where_there_is_none_says_so(here: Path) -> None:
    code, said = sandbox("--context", "kind-theirs", "--down")
    assert code == 0
    assert "there is no sandbox in kind-theirs" in said
    assert [] == deleted(here)


def test_status_needs_no_docker_and_says_how_its_pages_are_reached(here: Path) -> None:
    (here / "namespace").write_text(json.dumps(OURS))
    code, said = sandbox("--context", "kind-theirs", "--status")
    assert code == 0, said
    assert "deployment.apps/nexusq-api 1/1" in said
    assert "kubectl --context kind-theirs --namespace nexusq port-forward service/jupyter 8888:8888" in said


def test_status_where_there_is_none_fails_and_says_how_to_get_one(here: Path) -> None:
    code, said = sandbox("--context", "kind-theirs", "--status")
    assert code == 1
    assert "there is no sandbox in kind-theirs: python -m nox -s sandbox -- --context kind-theirs" in said


def test_a_context_that_kubectl_does_not_know_is_refused_with_those_that_it_does(here: Path) -> None:
    code, said = sandbox("--context", "kind-thiers", "--down")
    assert code == 1
    assert (
        "expected --context to be one that kubectl knows (kind-theirs, prod), got 'kind-thiers'; "
        "did you mean 'kind-theirs'?" in said
    )


@pytest.mark.parametrize(("node_ports", "kind"), [(False, "ClusterIP"), (True, "NodePort")])
def test_only_a_cluster_of_its_own_has_ports_of_its_nodes_opened(here: Path, node_ports: bool, kind: str) -> None:
    images = Images("registry.example.com/me/nexusq-api:1", "nexusq-sandbox:1", "nexusq-sandbox:1")
    Cluster("kind-theirs").apply(images, 3, node_ports=node_ports)
    rendered = list(yaml.safe_load_all((here / "rendered").read_text()))
    services = {item["metadata"]["name"]: item["spec"] for item in rendered if item["kind"] == "Service"}
    for name in ("nexusq-api", "jupyter", "mail"):
        assert kind == services[name]["type"]
        assert node_ports == any("nodePort" in port for port in services[name]["ports"])
    # The sandbox's own namespace is one that --down takes for it.
    [namespace] = [item for item in rendered if item["kind"] == "Namespace"]
    (here / "namespace").write_text(json.dumps(namespace))
    assert Cluster("kind-theirs").is_there()
    [api] = [item for item in rendered if (item["kind"], item["metadata"]["name"]) == ("Deployment", "nexusq-api")]
    assert "registry.example.com/me/nexusq-api:1" == api["spec"]["template"]["spec"]["containers"][0]["image"]


def test_the_reason_why_a_program_failed_is_shown_even_if_it_had_printed_much() -> None:
    long = "import sys; print('done\\n' * 99); sys.exit('the port ' + 'is taken')"  # its command line has no such words
    with pytest.raises(SandboxError, match="the port is taken"):
        run(sys.executable, "-c", long)
