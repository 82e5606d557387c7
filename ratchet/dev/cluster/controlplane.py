"""The control plane: the nodes' switch, etcd, and the daemons of Kubernetes."""

from __future__ import annotations

import json
import signal
import socket
import sys
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import urllib3

from ratchet.dev.cluster.binaries import kubernetes_version
from ratchet.dev.cluster.credentials import Credentials
from ratchet.dev.cluster.machine import Machine
from ratchet.store.api_errors import NotFoundError
from ratchet.store.apiserver import ApiServer, connect
from ratchet.store.connection import open_connection

Json = dict[str, Any]

ADDRESS, PREFIX = "10.250.0.10", 24
SERVICES = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"
PORT = 6443
SERVER = f"https://{ADDRESS}:{PORT}"
NAMES = [ADDRESS, SERVICE_ADDRESS, "127.0.0.1", "localhost", "kubernetes.default.svc"]
READY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """etcd, the API server, the controllers and the scheduler, on a machine."""

    machine: Machine
    credentials: Credentials
    kubeconfig: Path
    programs: Path

    def start(self, nodes: list[str]) -> None:
        """Start etcd and the API server, for nodes of these names. Writes `kubeconfig` for the host."""
        self.machine.start()
        for command in (
            "link add br0 type bridge",
            f"addr add {ADDRESS}/{PREFIX} dev br0",
            "link set br0 up",
        ):
            self.machine.run("ip", *command.split())
        self.credentials.write(NAMES, nodes)
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
            url = f"https://127.0.0.1:{listener.getsockname()[1]}"
            argv = [sys.executable, "-m", "ratchet.dev.cluster.relay", str(listener.fileno()), ADDRESS, str(PORT)]
            self.machine.start_daemon("relay", argv, pass_fds=(listener.fileno(),), own_files=False)
        self.credentials.write_kubeconfig(self.kubeconfig, "admin", url)
        self.start_etcd()
        self.start_api()

    def start_etcd(self) -> None:
        argv = ["etcd", "--data-dir", "/var/lib/etcd", "--logger", "zap"]
        for kind, port in (("client", 2379), ("peer", 2380)):
            argv += [f"--listen-{kind}-urls", f"http://127.0.0.1:{port}"]
        argv += ["--advertise-client-urls", "http://127.0.0.1:2379"]
        self.machine.start_daemon("etcd", argv)

    def start_api(self) -> None:
        """Start the API server, which waits for etcd by itself."""
        files = self.credentials
        self._start(
            "kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            f"--advertise-address={ADDRESS}",
            f"--secure-port={PORT}",
            f"--tls-cert-file={files.certificate}",
            f"--tls-private-key-file={files.certificate}",
            f"--token-auth-file={files.tokens}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={files.signing_key}",
            f"--service-account-signing-key-file={files.signing_key}",
            f"--service-cluster-ip-range={SERVICES}",
            "--allow-privileged=true",
            f"--audit-policy-file={self._audit_policy()}",
            f"--audit-log-path={self.audit_log}",
            "--kubelet-preferred-address-types=InternalIP",
            "--profiling=false",
            # It needs a newer etcd than Debian's. Without it clients list at once, instead of after a failure.
            "--feature-gates=WatchList=false",
        )

    def restart_api(self) -> None:
        """Kill the API server, forget all earlier versions of objects, and start it again.

        No watch continues from a version before that: each is answered 410 Gone.
        """
        self.machine.stop_daemon("kube-apiserver", signal.SIGKILL)
        self._compact_etcd()
        self.start_api()
        self.wait_for_api()

    def _compact_etcd(self) -> None:
        """Discard the history of etcd (etcd.io, "Maintenance")."""
        revision = self._call_etcd("kv/range", {"key": "AA=="})["header"]["revision"]
        self._call_etcd("kv/compaction", {"revision": revision})

    def _call_etcd(self, method: str, body: dict[str, object]) -> Json:
        """Call etcd through its gRPC gateway."""
        url, data = f"http://127.0.0.1:2379/v3/{method}", json.dumps(body)
        answer = self.machine.run("busybox", "wget", "-q", "-O", "-", f"--post-data={data}", url)
        return dict(json.loads(answer))

    @property
    def audit_log(self) -> Path:
        """The audit log of Ratchet's accounts: one JSON document a line (kubernetes.io, "Auditing")."""
        return self.machine.logs / "audit.log"

    def _audit_policy(self) -> Path:
        path = self.credentials.folder / "audit.json"
        rules = [
            {"level": "Metadata", "userGroups": ["system:serviceaccounts:ratchet"], "omitStages": ["RequestReceived"]}
        ]
        path.write_text(json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
        return path

    def start_controllers(self) -> None:
        """Start the controller manager and the scheduler."""
        files = self.credentials
        for name in ("kube-controller-manager", "kube-scheduler"):
            kubeconfig = files.write_kubeconfig(files.folder / f"{name}.kubeconfig", f"system:{name}", SERVER)
            options = [f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--profiling=false"]
            if name == "kube-controller-manager":
                options += [
                    f"--root-ca-file={files.authority}",
                    f"--service-account-private-key-file={files.signing_key}",
                    "--use-service-account-credentials=true",
                    "--flex-volume-plugin-dir=/var/lib/kubelet/volume-plugins",
                ]
            self._start(name, *options)

    def wait_for_api(self) -> None:
        """Wait until the API is ready. Raises RatchetError with the end of the API server's log."""
        what = f"the API of Kubernetes {kubernetes_version()}"
        self.machine.wait_for_daemon("kube-apiserver", what, self._is_ready, READY_SECONDS)

    def wait_for_controllers(self) -> None:
        """Wait until namespaces have what pods need: a service account and the CA certificate."""
        paths = [
            f"/api/v1/namespaces/default/{one}" for one in ("serviceaccounts/default", "configmaps/kube-root-ca.crt")
        ]

        def there() -> bool:
            return all(_exists(self.api(), path) for path in paths)

        self.machine.wait_for_daemon("kube-controller-manager", "the controllers at work", there, READY_SECONDS)

    def api(self) -> ApiServer:
        return connect(str(self.kubeconfig))

    def _start(self, name: str, *options: str) -> None:
        self.machine.start_daemon(name, [str(self.programs / name), *options])

    def _is_ready(self) -> bool:
        """Whether /readyz is ok and the namespace default exists.

        The controller manager ends if /healthz fails for 10 s, as it does until the API server has made its roles.
        """
        connection = open_connection(str(self.kubeconfig))
        try:
            answer = connection.pool.request(
                "GET", f"{connection.base}/readyz", headers=connection.credentials(), timeout=2.0, retries=False
            )
        except urllib3.exceptions.HTTPError:
            return False
        finally:
            connection.close()
        return answer.status == HTTPStatus.OK and _exists(self.api(), "/api/v1/namespaces/default")


def _exists(api: ApiServer, path: str) -> bool:
    try:
        api.get(path)
    except NotFoundError:
        return False
    return True
