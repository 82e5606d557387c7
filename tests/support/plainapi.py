"""An API server with fixed responses, for commands that only read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ratchet.core.model import Link
from ratchet.core.pod import Pod
from ratchet.store.codec.links import encode_link
from tests.support.links import declaring_pod, pod

Json = dict[str, Any]

NOT_FOUND: Json = {"kind": "Status", "reason": "NotFound", "message": "not found"}


class Api:
    """An API server: its responses by path, and the requests that it received."""

    def __init__(self, url: str, answers: dict[str, tuple[int, object]]) -> None:
        self.url, self.answers = url, answers
        self.asked: list[tuple[str, Mapping[str, list[str]]]] = []


@contextmanager
def serving(*links: Link, **agents_of: Json) -> Iterator[Api]:
    """Run an API server with these records and the pods that declare the link of `tests.support.links`.

    `agents_of`: the response of each node's agent. A `_` in the node's name stands for `-`.
    """
    records = "/api/v1/namespaces/ratchet/configmaps"
    items = [encode_link(link) for link in links]
    for link, item in zip(links, items, strict=True):
        item["metadata"] |= {"uid": link.uid, "resourceVersion": "1"}
    answers: dict[str, tuple[int, object]] = {records: (200, {"items": items, "metadata": {"resourceVersion": "1"}})}
    answers |= {f"{records}/{item['metadata']['name']}": (200, item) for item in items}
    pods = [agent_pod(node.replace("_", "-")) for node in agents_of]
    for namespace in {link.namespace for link in links}:
        declaring = [plain_pod(one) for one in (declaring_pod(), pod("pair-pod"))]
        answers[f"/api/v1/namespaces/{namespace}/pods"] = (200, {"items": declaring, "metadata": {}})
        answers[f"/api/v1/namespaces/{namespace}/configmaps"] = (200, {"items": [], "metadata": {}})
    answers["/api/v1/namespaces/ratchet/pods"] = (200, {"items": pods, "metadata": {}})
    for node, answer in agents_of.items():
        proxy = f"/api/v1/namespaces/ratchet/pods/agent-of-{node.replace('_', '-')}:9999/proxy"
        answers |= {f"{proxy}/links/{link.uid}": (200, answer) for link in links}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            api.asked.append((unquote(url.path), query))
            status, answer = api.answers.get(unquote(url.path), (404, NOT_FOUND))
            if "fieldSelector" in query and isinstance(answer, dict):
                node = query["fieldSelector"][0].partition(",")[0].partition("=")[2]
                answer = {**answer, "items": [one for one in answer["items"] if one["spec"]["nodeName"] == node]}
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        api = Api(f"http://127.0.0.1:{server.server_address[1]}", answers)
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()


def plain_pod(one: Pod) -> Json:
    metadata = {"namespace": one.ref.namespace, "name": one.ref.name, "uid": one.ref.uid, "labels": dict(one.labels)}
    return {"metadata": metadata, "spec": {"nodeName": one.node}, "status": {"phase": one.phase}}


def agent_pod(node: str) -> Json:
    ports = [{"name": "metrics", "containerPort": 9999}]
    return {"metadata": {"name": f"agent-of-{node}"}, "spec": {"nodeName": node, "containers": [{"ports": ports}]}}


def kubeconfig(folder: Path, api: Api) -> str:
    cluster = {"name": "c", "cluster": {"server": api.url}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    users = [{"name": "u", "user": {"token": "t"}}]
    said = {"clusters": [cluster], "contexts": [context], "users": users, "current-context": "x"}
    file = folder / "kubeconfig"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **said}))
    return str(file)
