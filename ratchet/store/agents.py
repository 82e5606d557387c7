"""Queries to agents through the API server's proxy (the subresource `pods/proxy`).

The API server authenticates and authorizes the user, so agents need no accounts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from ratchet.errors import RatchetError
from ratchet.store.api_errors import NotFoundError
from ratchet.store.apiserver import ApiServer

Json = dict[str, Any]

SELECTOR = "app.kubernetes.io/name=ratchet-agent"
PORT_NAME, PORT = "metrics", 9472
PATIENCE_SECONDS = 3.0
ASKED_AT_ONCE = 16
_RUNNING = "status.phase=Running"


def ask_agent(api: ApiServer, namespace: str, node: str, uid: str) -> Json:
    """What the agent of a node observes of the link whose record has this UID.

    `namespace` is that of the agent's pod. Raises RatchetError.
    """
    with _naming(node, "it knows of no such link, or is older than this command"):
        pod = _agents(api, namespace, fieldSelector=f"spec.nodeName={node},{_RUNNING}").get(node)
        return _page(api, namespace, pod, f"links/{uid}")


def ask_for_proofs(api: ApiServer, namespace: str, nodes: Sequence[str]) -> dict[str, Json | RatchetError]:
    """What the agents of nodes have proven of their tunnels, or why an agent could not be asked, by node.

    Each agent is asked once, and several at a time.
    """
    try:
        pods = _agents(api, namespace, fieldSelector=_RUNNING)
    except RatchetError as error:
        return dict.fromkeys(nodes, RatchetError(f"cannot ask the agents: {_cause(error)}"))

    def ask(node: str) -> Json | RatchetError:
        try:
            with _naming(node, "it is older than this command"):
                return _page(api, namespace, pods.get(node), "proofs")
        except RatchetError as error:
            return error

    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        return dict(zip(nodes, pool.map(ask, nodes), strict=True))


@contextmanager
def _naming(node: str, unknown: str) -> Iterator[None]:
    """Let the errors of a query name the node. `unknown`: why the agent answers with 404."""
    failed = f"cannot ask the agent of {node}"
    try:
        yield
    except NotFoundError as error:
        raise RatchetError(f"{failed}: {unknown}") from error
    except RatchetError as error:
        raise RatchetError(f"{failed}: {_cause(error)}") from error


def _agents(api: ApiServer, namespace: str, **query: str) -> dict[str, Json]:
    """The pods of agents that run, by node."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    pods, _ = api.patient(PATIENCE_SECONDS).list(path, labelSelector=SELECTOR, **query)
    return {pod["spec"]["nodeName"]: pod for pod in pods if not pod["metadata"].get("deletionTimestamp")}


def _page(api: ApiServer, namespace: str, pod: Json | None, path: str) -> Json:
    if pod is None:
        raise RatchetError("cannot find the agent: no agent runs in a pod there, and others cannot be asked")
    proxy = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}:{_port(pod)}/proxy"
    return api.patient(PATIENCE_SECONDS).get(f"{proxy}/{path}")


def _port(pod: Json) -> int:
    ports = [port for container in pod["spec"]["containers"] for port in container.get("ports") or ()]
    return next((int(port["containerPort"]) for port in ports if port.get("name") == PORT_NAME), PORT)


def _cause(error: RatchetError) -> str:
    """The API server's message, without the path, which holds the record's UID."""
    return str(error).partition(": ")[2]
