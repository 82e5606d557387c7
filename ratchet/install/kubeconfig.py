"""The kubeconfig of a plugin without an agent. It has the service account of the installer's pod.

The kubelet renews the token long before it expires, and the installer writes the file again.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ratchet.errors import RatchetError
from ratchet.install.files import install_file, read_file

# Where the kubelet mounts the account (kubernetes.io/docs/tasks/run-application/access-api-from-pod).
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """A kubeconfig file.

    `server`: the URL of the API server. `account`: the folder with the token and the CA certificate.
    """

    path: Path
    server: str
    account: Path = ACCOUNT

    def write(self) -> bool:
        """Write the file for root alone, if its content changed. Returns whether it did. Raises RatchetError."""
        content = self._content()
        if read_file(self.path) == content:
            return False
        install_file(self.path, content, 0o600)
        return True

    def _content(self) -> bytes:
        authority = b64encode(self._read("ca.crt")).decode()
        token = self._read("token").decode().strip()
        cluster = {"server": self.server, "certificate-authority-data": authority}
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "ratchet", "cluster": cluster}],
            "users": [{"name": "ratchet", "user": {"token": token}}],
            "contexts": [{"name": "ratchet", "context": {"cluster": "ratchet", "user": "ratchet"}}],
            "current-context": "ratchet",
        }
        return f"{json.dumps(kubeconfig, indent=2)}\n".encode()  # JSON is YAML

    def _read(self, name: str) -> bytes:
        path = self.account / name
        try:
            return path.read_bytes()
        except OSError as cause:
            raise RatchetError(f"cannot write {self.path}: cannot read {path}: {cause.strerror}") from cause


def api_server_url(environment: Mapping[str, str]) -> str:
    """The URL of the API server, from the environment of a pod. Raises RatchetError outside a pod."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise RatchetError(
            "cannot write a kubeconfig: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set",
            details="this works in a pod only; elsewhere write a kubeconfig yourself and use --kubeconfig",
        )
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
