"""What a testbed does on a real API server, where controllers are at work, in place of the kubelets that it lacks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from ratchet.errors import RatchetError
from ratchet.store.api_errors import AlreadyExistsError, NotFoundError
from ratchet.store.apiserver import ApiServer
from ratchet.store.paths import leases_path

log = logging.getLogger(__name__)

NODE_LEASES = leases_path("kube-node-lease")
# The node controller takes a node for unreachable after 40 s or more without a renewal.
RENEW_SECONDS = 10.0
DELETION_SECONDS = 120.0


def wait_until_deleted(api: ApiServer, namespace: str) -> None:
    """Wait for the end of a namespace that is being deleted. Raises RatchetError after DELETION_SECONDS."""
    until = time.monotonic() + DELETION_SECONDS
    while _is_terminating(api, namespace):
        if time.monotonic() > until:
            raise RatchetError(
                f"cannot create the namespace {namespace}: it is still being deleted after {DELETION_SECONDS:.0f} s",
                details="namespaces are deleted by the controller manager: check that it runs",
            )
        time.sleep(0.2)


def make_default_account(api: ApiServer, namespace: str) -> None:
    """Create the service account `default` unless a controller has. Without it no pod is admitted."""
    body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    with suppress(AlreadyExistsError):
        api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", body)


@contextmanager
def node_heartbeats(api: ApiServer, nodes: Collection[str]) -> Iterator[None]:
    """Renew the Leases of nodes within the block, as kubelets do.

    Without that, the node controller sets the nodes to not Ready, and evicts their pods. `nodes` may grow.
    """
    ended = threading.Event()

    def renew_all() -> None:
        while not ended.wait(RENEW_SECONDS):
            for node in list(nodes):
                try:
                    renew_node_lease(api, node)
                except RatchetError as error:
                    log.warning('node lease renewal failed node=%s cause="%s"', node, error)

    thread = threading.Thread(target=renew_all, name="node heartbeats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for node in nodes:
            _delete_node_lease(api, node)


def renew_node_lease(api: ApiServer, node: str) -> None:
    """Renew the Lease of a node, or create it (kubernetes.io, "Leases")."""
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    spec = {"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": now}
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node}, "spec": spec}
    try:
        api.patch(f"{NODE_LEASES}/{node}", body)
    except NotFoundError:
        api.create(NODE_LEASES, body)


def _delete_node_lease(api: ApiServer, node: str) -> None:
    path = f"{NODE_LEASES}/{node}"
    with suppress(NotFoundError):
        api.delete(path, uid=api.get(path)["metadata"]["uid"])


def _is_terminating(api: ApiServer, namespace: str) -> bool:
    try:
        return "deletionTimestamp" in api.get(f"/api/v1/namespaces/{namespace}")["metadata"]
    except NotFoundError:
        return False
