"""Kubeconfigs with static credentials, read without the `kubernetes` package, whose import takes 0.15 s of CPU.

Every call of the daemonless plugin reads a kubeconfig. Kubeconfigs with anything else, and unusable ones, are left to
the package: it knows all kinds of credentials, and has the error messages.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CLUSTER_KEYS = {
    "server",
    "certificate-authority",
    "certificate-authority-data",
    "insecure-skip-tls-verify",
    "tls-server-name",
}
_USER_KEYS = {"token", "tokenFile", "client-certificate", "client-key"}
_ALTERNATIVES = ({"token", "tokenFile"}, {"certificate-authority", "certificate-authority-data"})
_PROXY_VARIABLES = {"http_proxy", "https_proxy", "all_proxy"}


@dataclass(frozen=True, slots=True)
class StaticAccess:
    """Access to one API server: its URL, how to verify it, and the client's credentials.

    `ca_data` is PEM. `token` is a bearer token. An empty string is a value that is not set.
    """

    server: str
    ca_file: str = ""
    ca_data: str = ""
    verify: bool = True
    tls_server_name: str = ""
    cert_file: str = ""
    key_file: str = ""
    token: str = ""


def read_static(
    kubeconfig: str, context: str | None = None, environ: Mapping[str, str] = os.environ
) -> StaticAccess | None:
    """The access that a kubeconfig's context gives (None: its current context).

    None if the kubeconfig needs the `kubernetes` package: it is several files, has other keys or other types of values,
    names a file that cannot be read, or a proxy is set in the environment.
    """
    if any(name.lower() in _PROXY_VARIABLES and value for name, value in environ.items()):
        return None
    path = Path(kubeconfig)
    try:
        return _static(_parse(path.read_text()), context, path.parent)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _parse(text: str) -> Any:
    """Raises ValueError if the text is neither JSON nor YAML."""
    if text.lstrip().startswith("{"):
        return json.loads(text)
    import yaml  # takes 15 ms, and `ratchet install` writes JSON

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  # both are safe
    except yaml.YAMLError as cause:
        raise ValueError("not YAML") from cause


def _static(config: Any, context: str | None, folder: Path) -> StaticAccess | None:
    """Raises KeyError, TypeError, ValueError or OSError if the kubeconfig is not as expected."""
    chosen = _named(config["contexts"], context or config["current-context"])["context"]
    cluster = _named(config["clusters"], chosen["cluster"])["cluster"]
    user = _named(config["users"], chosen["user"])["user"] if chosen.get("user") else {}
    if user is None:
        user = {}
    if not cluster.keys() <= _CLUSTER_KEYS or not user.keys() <= _USER_KEYS:
        return None
    if any(both <= cluster.keys() | user.keys() for both in _ALTERNATIVES):
        return None
    insecure = cluster.get("insecure-skip-tls-verify", False)
    if not isinstance(insecure, bool):
        return None
    return StaticAccess(
        server=_text(cluster, "server", required=True).rstrip("/"),
        ca_file=_file(cluster, "certificate-authority", folder),
        ca_data=_decoded(_text(cluster, "certificate-authority-data")),
        verify=not insecure,
        tls_server_name=_text(cluster, "tls-server-name"),
        cert_file=_file(user, "client-certificate", folder),
        key_file=_file(user, "client-key", folder),
        token=_text(user, "token") or _content(_file(user, "tokenFile", folder)),
    )


def _named(entries: Any, name: str) -> Any:
    """The one entry with a name. Raises KeyError if there is none, or more than one."""
    found = [one for one in entries if one["name"] == name]
    if len(found) != 1:
        raise KeyError(name)
    return found[0]


def _text(section: Mapping[str, Any], key: str, *, required: bool = False) -> str:
    value = section[key] if required else section.get(key, "")
    if not isinstance(value, str) or (required and not value):
        raise TypeError(key)
    return value


def _file(section: Mapping[str, Any], key: str, folder: Path) -> str:
    """A path that may be relative to the kubeconfig's folder. Raises FileNotFoundError."""
    value = _text(section, key)
    if not value:
        return ""
    path = folder / value
    if not path.is_file():
        raise FileNotFoundError(path)
    return str(path)


def _content(path: str) -> str:
    return Path(path).read_text().strip() if path else ""


def _decoded(data: str) -> str:
    return b64decode(data, validate=True).decode()
