"""What a plugin reaches the API with on a node that has no agent: a kubeconfig with the account of the installer's pod.

Its token is renewed by the kubelet long before it ends, and the file follows.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ratchet.errors import RatchetError
from ratchet.install.files import install_file

# Where the kubelet puts it (kubernetes.io/docs/tasks/run-application/access-api-from-pod).
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """A file at `path` by which the API at the URL `server` is reached with the account that is mounted in a folder."""

    path: Path
    server: str
    account: Path = ACCOUNT

    def write(self) -> bool:
        """Write the file, for root alone, if it is not as it has to be now; whether it was not. Raises RatchetError."""
        content = self._content()
        try:
            if self.path.is_file() and self.path.read_bytes() == content:
                return False
        except OSError as cause:
            raise RatchetError(f"cannot read {self.path}: {cause.strerror}") from cause
        install_file(self.path, content, 0o600)
        return True

    def _content(self) -> bytes:
        authority = b64encode(self._read("ca.crt")).decode()
        token = self._read("token").decode().strip()
        cluster = {"server": self.server, "certificate-authority-data": authority}
        said = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "ratchet", "cluster": cluster}],
            "users": [{"name": "ratchet", "user": {"token": token}}],
            "contexts": [{"name": "ratchet", "context": {"cluster": "ratchet", "user": "ratchet"}}],
            "current-context": "ratchet",
        }
        return f"{json.dumps(said, indent=2)}\n".encode()  # JSON is YAML

    def _read(self, name: str) -> bytes:
        path = self.account / name
        try:
            return path.read_bytes()
        except OSError as cause:
            raise RatchetError(f"cannot write {self.path}: cannot read {path}: {cause.strerror}") from cause


def server_of(environment: Mapping[str, str]) -> str:
    """The API's URL as a pod has it in its environment. Raises RatchetError where this is in no pod."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise RatchetError(
            "cannot write a kubeconfig: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set",
            details="it is for a pod of the cluster; elsewhere write one by hand, and name it with --kubeconfig",
        )
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
