"""What the rendered manifests promise: of every overlay, with whatever components fit it."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml

from nexusq_server.settings import Settings, load_settings, parse_duration
from sandbox.manifests import compose_faults, everything, faults_of
from sandbox.shell import ROOT

#: A worker's end once its grace is over: settle, commit, leave the group.
LEAVING_SECONDS = 30
Objects = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rendered() -> dict[str, Objects]:
    return dict(everything())


def pods_of(objects: Objects) -> dict[str, dict[str, Any]]:
    """Give the pods' specs by the names of what makes them."""
    kinds = {"Deployment", "StatefulSet"}
    return {item["metadata"]["name"]: item["spec"]["template"]["spec"] for item in objects if item["kind"] in kinds}


def containers_of(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def environment_of(container: dict[str, Any], objects: Objects) -> dict[str, str]:
    """Give what a container's environment is made of; what the cluster fills in is left out."""
    told: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        [(kind, reference)] = source.items()
        wanted = "ConfigMap" if kind == "configMapRef" else "Secret"
        [found] = [item for item in objects if (item["kind"], item["metadata"]["name"]) == (wanted, reference["name"])]
        told |= found["data"] if wanted == "ConfigMap" else dict.fromkeys(found["data"], "secret")
    return told | {entry["name"]: entry["value"] for entry in container.get("env", ()) if "value" in entry}


def test_all_objects_and_the_compose_file_are_as_their_schemas_have_them(rendered: dict[str, Objects]) -> None:
    assert [] == [fault for objects in rendered.values() for item in objects for fault in faults_of(item)]
    assert "" == compose_faults()


def test_a_field_that_is_none_is_found_wherever_it_is(rendered: dict[str, Objects]) -> None:
    for objects in (rendered["sandbox + keda"], rendered["production"]):
        for item in objects:
            if "spec" not in item:
                continue
            broken = copy.deepcopy(item)
            broken["spec"]["replicaz"] = 1
            assert faults_of(broken), item["kind"]


def test_every_pod_is_fit_for_the_restricted_level_and_has_a_read_only_root(rendered: dict[str, Objects]) -> None:
    for objects in rendered.values():
        assert pods_of(objects).keys() >= {"nexusq-api", "nexusq-worker"}
        for pod in pods_of(objects).values():
            assert pod["securityContext"]["runAsNonRoot"]
            assert pod["securityContext"]["runAsUser"] > 0
            assert {"type": "RuntimeDefault"} == pod["securityContext"]["seccompProfile"]
            assert not pod["automountServiceAccountToken"]
            assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(pod)
            assert all("hostPath" not in volume for volume in pod.get("volumes", ()))
            for container in containers_of(pod):
                security = container["securityContext"]
                assert security["readOnlyRootFilesystem"]
                assert not security["allowPrivilegeEscalation"]
                assert ["ALL"] == security["capabilities"]["drop"]
                assert "memory" in container["resources"]["limits"]
                assert {"cpu", "memory"} == set(container["resources"]["requests"])
                assert "IfNotPresent" == container["imagePullPolicy"]
        [namespace] = [item for item in objects if item["kind"] == "Namespace"]
        assert "restricted" == namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]


def test_services_put_nothing_into_an_environment_that_is_read_as_settings(rendered: dict[str, Objects]) -> None:
    for objects in rendered.values():
        assert all(pod["enableServiceLinks"] is False for pod in pods_of(objects).values())


def test_a_worker_is_given_longer_to_end_than_it_gives_its_tasks(rendered: dict[str, Objects]) -> None:
    for objects in rendered.values():
        pod = pods_of(objects)["nexusq-worker"]
        grace = parse_duration(environment_of(pod["containers"][0], objects)["NEXUSQ_GRACE"]).total_seconds()
        assert grace + LEAVING_SECONDS <= pod["terminationGracePeriodSeconds"]
        api = pods_of(objects)["nexusq-api"]
        before = api["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        submit = Settings.model_fields["submit_timeout"].default.total_seconds()
        assert before + submit + 2 < api["terminationGracePeriodSeconds"]


def test_every_setting_is_one_that_the_server_has_and_takes(
    rendered: dict[str, Objects], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {f"NEXUSQ_{name.upper()}" for name in Settings.model_fields} | {"NEXUSQ_URL"}
    for name, objects in rendered.items():
        for pod in pods_of(objects).values():
            for container in containers_of(pod):
                told = {key: value for key, value in environment_of(container, objects).items() if "NEXUSQ_" in key}
                assert set(told) <= known
                if container["name"] not in {"api", "worker"}:
                    continue
                assert {"NEXUSQ_KAFKA", "NEXUSQ_REDIS"} <= set(told)
                with monkeypatch.context() as patch:
                    for key, value in told.items():
                        if value != "secret" and key != "NEXUSQ_KAFKA_CA":  # a file that is mounted there
                            patch.setenv(key, value)
                    if "production" in name:
                        patch.setenv("NEXUSQ_KAFKA_USER", "u")
                        patch.setenv("NEXUSQ_KAFKA_PASSWORD", "p")
                    load_settings()


def test_every_part_has_a_network_policy_and_what_stores_data_lets_only_nexusq_in(
    rendered: dict[str, Objects],
) -> None:
    for objects in rendered.values():
        policies = {item["metadata"]["name"]: item["spec"] for item in objects if item["kind"] == "NetworkPolicy"}
        covered = {
            policy["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/name") for policy in policies.values()
        }
        assert set(pods_of(objects)) <= covered
        for name in {"kafka", "redis"} & set(policies):
            allowed = {
                value
                for rule in policies[name]["ingress"]
                for peer in rule["from"]
                for expression in peer["podSelector"].get("matchExpressions", ())
                for value in expression["values"]
            }
            assert allowed - {"kafka"} == {"nexusq-api", "nexusq-worker"}


def test_production_brings_neither_kafka_nor_redis_nor_a_tag_that_moves(rendered: dict[str, Objects]) -> None:
    for name, objects in rendered.items():
        if not name.startswith("production"):
            continue
        assert {"nexusq-api", "nexusq-worker"} == set(pods_of(objects))
        for pod in pods_of(objects).values():
            for container in containers_of(pod):
                assert re.search(r":\d+\.\d+\.\d+$", container["image"])
                told = environment_of(container, objects)
                assert "SASL_SSL" == told["NEXUSQ_KAFKA_SECURITY"]


def test_three_kafka_nodes_keep_each_record_twice_at_the_least(rendered: dict[str, Objects]) -> None:
    objects = rendered["sandbox + kafka-three-nodes"]
    [kafka] = [item for item in objects if (item["kind"], item["metadata"]["name"]) == ("StatefulSet", "kafka")]
    told = environment_of(kafka["spec"]["template"]["spec"]["containers"][0], objects)
    worker = environment_of(pods_of(objects)["nexusq-worker"]["containers"][0], objects)

    assert (3, "2", "3") == (kafka["spec"]["replicas"], told["KAFKA_MIN_INSYNC_REPLICAS"], worker["NEXUSQ_REPLICATION"])
    assert [str(node) for node in range(3)] == [
        voter.partition("@")[0] for voter in told["KAFKA_CONTROLLER_QUORUM_VOTERS"].split(",")
    ]


def test_the_scaler_asks_the_backlog_of_a_service_that_is_there(rendered: dict[str, Objects]) -> None:
    for name in ("sandbox + keda", "production + keda"):
        [scaled] = [item for item in rendered[name] if item["kind"] == "ScaledObject"]
        [trigger] = scaled["spec"]["triggers"]
        found = re.fullmatch(
            r"http://([a-z-]+)\.([a-z-]+)\.svc\.cluster\.local:(\d+)/queues/default/backlog", trigger["metadata"]["url"]
        )
        assert found is not None
        [service] = [
            item for item in rendered[name] if (item["kind"], item["metadata"]["name"]) == ("Service", found[1])
        ]
        assert (found[2], int(found[3])) == (service["metadata"]["namespace"], service["spec"]["ports"][0]["port"])
        [worker] = [item for item in rendered[name] if item["metadata"]["name"] == "nexusq-worker" and "spec" in item
                    and item["kind"] == "Deployment"]  # fmt: skip
        assert scaled["spec"]["scaleTargetRef"]["name"] == worker["metadata"]["name"]
        assert "replicas" not in worker["spec"]


def test_kinds_ports_lead_to_the_services_that_they_are_for(rendered: dict[str, Objects]) -> None:
    cluster = yaml.safe_load((ROOT / "sandbox" / "kind.yaml").read_text())
    opened = {entry["containerPort"]: entry for entry in cluster["nodes"][0]["extraPortMappings"]}
    served = {
        port["nodePort"]: port["port"]
        for item in rendered["sandbox"]
        if item["kind"] == "Service"
        for port in item["spec"]["ports"]
        if "nodePort" in port
    }

    assert {port: entry["hostPort"] for port, entry in opened.items()} == served
    assert {"127.0.0.1"} == {entry["listenAddress"] for entry in opened.values()}


def test_compose_opens_ports_on_this_machine_alone_and_waits_longer_than_workers_do() -> None:
    compose = yaml.safe_load((ROOT / "sandbox" / "docker-compose.yaml").read_text())
    settings = dict(
        line.split("=", 1) for line in (ROOT / "sandbox" / ".env").read_text().splitlines() if "=" in line[:30]
    )

    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    grace = parse_duration(settings["NEXUSQ_GRACE"]).total_seconds()
    assert grace + LEAVING_SECONDS <= int(compose["services"]["worker"]["stop_grace_period"].rstrip("s"))
    assert all(compose["services"][name]["healthcheck"] for name in ("kafka", "redis", "mail", "jupyter"))
