"""Queries to agents through the API server's proxy (the subresource `pods/proxy`).

The API server authenticates and authorizes the user, so agents need no accounts.
"""

from __future__ import annotations

from typing import Any

from ratchet.errors import RatchetError
from ratchet.store.api_errors import NotFoundError
from ratchet.store.apiserver import ApiServer

Json = dict[str, Any]

SELECTOR = "app.kubernetes.io/name=ratchet-agent"
PORT_NAME, PORT = "metrics", 9472
PATIENCE_SECONDS = 3.0


def ask_agent(api: ApiServer, namespace: str, node: str, uid: str) -> Json:
    """What the agent of a node observes of the link whose record has this UID.

    `namespace` is that of the agent's pod. Raises RatchetError.
    """
    api, failed = api.patient(PATIENCE_SECONDS), f"cannot ask the agent of {node}"
    try:
        pod = _agent_of(api, namespace, node)
        if pod is not None:
            name = pod["metadata"]["name"]
            return api.get(f"/api/v1/namespaces/{namespace}/pods/{name}:{_port(pod)}/proxy/links/{uid}")
    except NotFoundError as error:
        raise RatchetError(f"{failed}: it knows of no such link, or is older than this command") from error
    except RatchetError as error:
        raise RatchetError(f"{failed}: {_cause(error)}") from error
    raise RatchetError(f"{failed}: no agent runs in a pod there, and others cannot be asked")


def _agent_of(api: ApiServer, namespace: str, node: str) -> Json | None:
    path, where = f"/api/v1/namespaces/{namespace}/pods", f"spec.nodeName={node},status.phase=Running"
    pods, _ = api.list(path, labelSelector=SELECTOR, fieldSelector=where)
    return next((pod for pod in pods if not pod["metadata"].get("deletionTimestamp")), None)


def _port(pod: Json) -> int:
    ports = [port for container in pod["spec"]["containers"] for port in container.get("ports") or ()]
    return next((int(port["containerPort"]) for port in ports if port.get("name") == PORT_NAME), PORT)


def _cause(error: RatchetError) -> str:
    """The API server's message, without the path, which holds the record's UID."""
    return str(error).partition(": ")[2]
