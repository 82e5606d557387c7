"""Credentials of a cluster: a certificate authority, a token for each user, kubeconfigs."""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

ADMIN = ("admin", "system:masters")
SYSTEM = ("kube-controller-manager", "kube-scheduler", "kube-proxy")


@dataclass(frozen=True, slots=True)
class Credentials:
    """The files in a folder. `write` creates them."""

    folder: Path

    @property
    def authority(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def certificate(self) -> Path:
        """The certificate and key of the API server."""
        return self.folder / "apiserver.pem"

    @property
    def signing_key(self) -> Path:
        """The key that signs tokens of service accounts."""
        return self.folder / "service-accounts.key"

    @property
    def tokens(self) -> Path:
        """The users and their tokens (kubernetes.io, "Static token file")."""
        return self.folder / "tokens.csv"

    def write(self, names: list[str], nodes: list[str]) -> None:
        """Create all files, for an API server with these names and addresses, and for these nodes."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.authority)
        authority.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(self.certificate)
        key = ec.generate_private_key(ec.SECP256R1())
        self.signing_key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
        )
        users = [ADMIN, *((f"system:{name}", "") for name in SYSTEM)]
        users += [(f"system:node:{node}", "system:nodes") for node in nodes]
        lines = [f'{secrets.token_hex(24)},{user},{user},"{group}"' for user, group in users]
        self.tokens.write_text("\n".join(lines) + "\n")
        for path in self.folder.iterdir():
            path.chmod(0o600)

    def write_kubeconfig(self, path: Path, user: str, server: str) -> Path:
        """Write a kubeconfig for a user of the token file and the API server at a URL, and return its path."""
        token = next(line.split(",")[0] for line in self.tokens.read_text().splitlines() if line.split(",")[1] == user)
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "ratchet",
                    "cluster": {
                        "server": server,
                        "certificate-authority-data": _base64(self.authority.read_bytes()),
                    },
                }
            ],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "ratchet", "context": {"cluster": "ratchet", "user": user}}],
            "current-context": "ratchet",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(content, indent=2) + "\n")
        return path


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
