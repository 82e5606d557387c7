"""An API server with fixed responses, for commands that only read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ratchet.core.model import Link
from ratchet.core.pod import Pod
from ratchet.store.codec.links import encode_link
from tests.support.http_server import HttpServer, JsonHandler, running
from tests.support.links import declaring_pod, pod

Json = dict[str, Any]
Responses = dict[str, tuple[int, object]]

RECORDS = "/api/v1/namespaces/ratchet/configmaps"
AGENT_PODS = "/api/v1/namespaces/ratchet/pods"
NOT_FOUND: Json = {"kind": "Status", "reason": "NotFound", "message": "not found"}


class StaticApi(HttpServer):
    """An API server: its responses by path, and the requests that it received."""

    def __init__(self, responses: Responses) -> None:
        super().__init__(_Handler)
        self.responses = responses
        self.requests: list[tuple[str, Mapping[str, list[str]]]] = []


class _Handler(JsonHandler):
    server: StaticApi

    def get(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        self.server.requests.append((unquote(url.path), query))
        status, content = self.server.responses.get(unquote(url.path), (404, NOT_FOUND))
        selected = query.get("fieldSelector", [""])[0]
        if selected.startswith("spec.nodeName=") and isinstance(content, dict):
            node = selected.partition(",")[0].partition("=")[2]
            content = {**content, "items": [one for one in content["items"] if one["spec"]["nodeName"] == node]}
        self.send(status, content)


@contextmanager
def serving(*links: Link, **agents_of: Json) -> Iterator[StaticApi]:
    """Run an API server with these records and the pods that declare the link of `tests.support.links`.

    `agents_of`: the response of each node's agent. A `_` in the node's name stands for `-`.
    """
    agents = {node.replace("_", "-"): response for node, response in agents_of.items()}
    with running(StaticApi(_records(links) | _declarations(links) | _agents(links, agents))) as api:
        yield api


def _records(links: tuple[Link, ...]) -> Responses:
    items = [encode_link(link) for link in links]
    for link, item in zip(links, items, strict=True):
        item["metadata"] |= {"uid": link.uid, "resourceVersion": "1"}
    return {RECORDS: _list(items)} | {f"{RECORDS}/{item['metadata']['name']}": (200, item) for item in items}


def _declarations(links: tuple[Link, ...]) -> Responses:
    responses: Responses = {}
    for namespace in {link.namespace for link in links}:
        responses[f"/api/v1/namespaces/{namespace}/pods"] = _list(map(_pod, (declaring_pod(), pod("pair-pod"))))
        responses[f"/api/v1/namespaces/{namespace}/configmaps"] = _list(())
    return responses


def _agents(links: tuple[Link, ...], agents: Mapping[str, Json]) -> Responses:
    responses: Responses = {AGENT_PODS: _list(map(_agent_pod, agents))}
    for node, answer in agents.items():
        proxy = f"{AGENT_PODS}/agent-of-{node}:9999/proxy"
        responses |= {f"{proxy}/links/{link.uid}": (200, answer) for link in links} | {f"{proxy}/proofs": (200, answer)}
    return responses


def _list(items: Iterable[Json]) -> tuple[int, object]:
    return 200, {"items": list(items), "metadata": {"resourceVersion": "1"}}


def _pod(one: Pod) -> Json:
    metadata = {"namespace": one.ref.namespace, "name": one.ref.name, "uid": one.ref.uid, "labels": dict(one.labels)}
    return {"metadata": metadata, "spec": {"nodeName": one.node}, "status": {"phase": one.phase}}


def _agent_pod(node: str) -> Json:
    ports = [{"name": "metrics", "containerPort": 9999}]
    return {"metadata": {"name": f"agent-of-{node}"}, "spec": {"nodeName": node, "containers": [{"ports": ports}]}}
