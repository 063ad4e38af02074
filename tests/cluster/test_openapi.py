"""The published description, the wire's types and what is really served agree, whatever is added to any of them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import jsonschema_rs
import msgspec
import pytest
from starlette.routing import Route

import nexusq_sdk
from nexusq_sdk.protocol import blobs, wire, wire_reports
from nexusq_server import problems
from nexusq_server.api import create_app
from nexusq_server.openapi import openapi
from nexusq_server.settings import load_settings
from tests.conftest import Addresses, eventually

DOCUMENT: dict[str, Any] = msgspec.json.decode(openapi())
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
#: What describes the rest, and is not described itself.
UNDOCUMENTED = {("GET", "/openapi.json"), ("GET", "/docs")}


class Call(NamedTuple):
    method: str
    path: str
    description: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def parameters(self) -> dict[str, dict[str, Any]]:
        return {p["name"]: p["schema"] for p in self.description["parameters"] if p["in"] == "query"}


CALLS = [
    Call(method.upper(), path, call) for path, calls in DOCUMENT["paths"].items() for method, call in calls.items()
]
#: Those that take nothing but parameters: they can be asked without knowing what they are for.
READS = [call for call in CALLS if call.method == "GET"]


def wire_types() -> dict[str, type[msgspec.Struct]]:
    """Give what travels over HTTP; the rest of the wire is Kafka's."""
    bases = (wire.Strict, wire.Answer)
    return {
        name: kind
        for module in (wire, wire_reports)
        for name, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, bases) and kind not in bases
    }


def validator(schema: dict[str, Any]) -> Any:
    """Give what holds an answer against a schema of the document, timestamps' form included."""
    whole = schema | {"components": DOCUMENT["components"]}
    return jsonschema_rs.validator_for(whole, validate_formats=True)


@pytest.fixture(scope="module")
def known(cluster: Addresses, http: httpx.Client) -> Iterator[dict[str, str]]:
    """Give what there is, by the names of the paths' parameters: a batch that has ended, a task of it that failed, a
    name that the batch and a schedule have, a blob.
    """
    rows = [{"a": 1, "b": 1}, {"a": 1, "b": 0}]
    batch_id = http.post("/batches", json={"taskType": "DIVIDE", "payloads": rows}).json()["batchId"]

    def has_ended() -> None:
        assert http.get(f"/batches/{batch_id}").json()["finishedAt"]

    eventually(has_ended)
    schedule = {"taskType": "ECHO", "payload": {}, "cron": "@yearly"}
    http.put("/schedules/documented", json=schedule).raise_for_status()
    named = {"batchId": batch_id, "digest": "d", "new": True}
    http.put("/names/documented", json=named).raise_for_status()
    with nexusq_sdk.Client(cluster.url) as client:
        connection = client._connection
        assert connection.signing_key is not None
        blob = blobs.sign(connection.signing_key, b"")
        connection.put_blob(blobs.blob_id(blob), blob)
    named_by = {"taskId": f"{batch_id}-1", "batchId": batch_id, "name": "documented", "queue": "default"}
    yield named_by | {"blobId": blobs.blob_id(blob)}
    http.delete("/schedules/documented")


def test_every_route_is_documented_and_every_documented_call_is_served() -> None:
    app = create_app(load_settings())
    routes = [route for route in app.routes if isinstance(route, Route)]
    assert len(routes) == len(app.routes)

    served = {(method, route.path) for route in routes for method in (route.methods or ()) if method != "HEAD"}

    def unnamed(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
        return {(method, re.sub(r"\{\w+(:\w+)?\}", "{}", path)) for method, path in pairs}

    assert unnamed(served) - UNDOCUMENTED == unnamed({(call.method, call.path) for call in CALLS})


def test_the_server_publishes_this_very_document(http: httpx.Client) -> None:
    assert DOCUMENT == http.get("/openapi.json").json()


@pytest.mark.parametrize("name", sorted(wire_types()))
def test_a_wire_type_is_published_with_all_its_fields(name: str) -> None:
    fields = msgspec.structs.fields(wire_types()[name])

    published = SCHEMAS[name]

    assert [field.encode_name for field in fields] == list(published["properties"])
    assert {field.encode_name for field in fields if field.required} == set(published.get("required", []))
    strict = issubclass(wire_types()[name], wire.Strict)
    assert strict == (published.get("additionalProperties") is False)


@pytest.mark.parametrize("name", sorted(name for name, schema in SCHEMAS.items() if "examples" in schema))
def test_an_example_is_of_its_type_and_fits_its_schema(name: str) -> None:
    for example in SCHEMAS[name]["examples"]:
        value = msgspec.json.decode(msgspec.json.encode(example), type=wire_types()[name])
        assert set(example) <= {field.encode_name for field in msgspec.structs.fields(value)}
        validator({"$ref": f"#/components/schemas/{name}"}).validate(example)


def test_every_body_and_answer_of_a_call_has_an_example_or_a_description() -> None:
    for call in CALLS:
        contents = [call.description.get("requestBody", {}).get("content", {})]
        contents += [answer.get("content", {}) for answer in call.description["responses"].values()]
        for content in contents:
            for medium in content.values():
                reference = medium["schema"].get("$ref", "").removeprefix("#/components/schemas/")
                assert not reference or reference in SCHEMAS, f"{call}: {reference}"
        assert call.description["summary"]


def test_every_way_of_refusing_stands_in_the_document() -> None:
    documented = {
        int(status): answer["description"]
        for call in CALLS
        for status, answer in call.description["responses"].items()
        if int(status) >= 400
    }

    for refusal in problems.Refusal.__subclasses__():
        assert refusal.title in documented[refusal.status]


def _answers(call: Call, http: httpx.Client, known: dict[str, str], **asked: str) -> httpx.Response:
    return http.request(call.method, call.path.format(**known), params=asked)


@pytest.mark.parametrize("call", READS, ids=str)
def test_a_live_answer_fits_the_documented_schema(http: httpx.Client, known: dict[str, str], call: Call) -> None:
    answer = _answers(call, http, known)

    documented = call.description["responses"][str(answer.status_code)]
    assert answer.is_success
    content = documented["content"][answer.headers["content-type"]]
    if answer.headers["content-type"] != "application/json":
        return
    validator(content["schema"]).validate(answer.json())
    # an older SDK passes over what it does not know; the document should know it all
    schema = content["schema"]
    published = SCHEMAS[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    assert set(answer.json()) <= set(published["properties"])


@pytest.mark.parametrize("call", [call for call in READS if "{" in call.path], ids=str)
def test_what_is_not_there_is_answered_as_documented(http: httpx.Client, call: Call) -> None:
    answer = http.request(call.method, re.sub(r"\{\w+\}", "01a20e45-5716-74df-a356-688becb510f5", call.path))

    content = call.description["responses"][str(answer.status_code)]["content"]
    assert 404 == answer.status_code
    validator(content[answer.headers["content-type"]]["schema"]).validate(answer.json())


@pytest.mark.parametrize("call", [call for call in READS if call.parameters], ids=str)
def test_the_documented_parameters_are_those_that_are_taken(
    http: httpx.Client, known: dict[str, str], call: Call
) -> None:
    refusal = _answers(call, http, known, nonsense="1").json()

    said = re.search(r"expected query parameters among (.+), got 'nonsense'", refusal["detail"])
    assert said, refusal
    assert sorted(call.parameters) == sorted(said[1].split(", "))


def test_the_documented_parameters_of_lines_are_those_that_are_taken(http: httpx.Client) -> None:
    [call] = [call for call in CALLS if str(call) == "POST /batches"]
    headers = {"Content-Type": "application/x-ndjson"}
    assert "application/x-ndjson" in call.description["requestBody"]["content"]

    refusal = http.post("/batches", params={"nonsense": "1"}, headers=headers).json()

    said = re.search(r"expected query parameters among (.+), got 'nonsense'", refusal["detail"])
    assert said, refusal
    assert sorted(call.parameters) == sorted(said[1].split(", "))
    # a chunk's fields and options, as far as they fit into parameters
    fields = {f.encode_name for kind in (wire.SubmitChunk, wire.Options) for f in msgspec.structs.fields(kind)}
    assert fields - {"payloads", "options", "backoff"} == set(call.parameters)


@pytest.mark.parametrize("path", ["/tasks", "/batches"])
def test_the_documented_example_of_a_submit_is_accepted_as_it_stands(http: httpx.Client, path: str) -> None:
    [call] = [call for call in CALLS if str(call) == f"POST {path}"]
    name = call.description["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]

    answer = http.post(path, json=SCHEMAS[name]["examples"][0])

    assert 202 == answer.status_code, answer.text
    schema = call.description["responses"]["202"]["content"]["application/json"]["schema"]
    validator(schema).validate(answer.json())
