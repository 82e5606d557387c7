"""Responses to the runtime other than results: errors and versions (SPEC.md, section 5)."""

from __future__ import annotations

import json
from typing import Any

from ratchet.cni.decode import decode
from ratchet.cni.versions import LATEST, SUPPORTED, UNVERSIONED, looks_like_version
from ratchet.errors import RatchetError


def error_json(error: RatchetError, version: str) -> dict[str, Any]:
    """The error as CNI JSON: cniVersion, code, msg, details."""
    return {"cniVersion": version, "code": error.code, "msg": str(error), "details": error.details}


def version_json(version: str) -> dict[str, Any]:
    """The response to VERSION; `version` is the request's cniVersion, echoed."""
    return {"cniVersion": version, "supportedVersions": list(SUPPORTED)}


def encode(result: dict[str, Any] | None) -> bytes:
    """A result or an error as the runtime reads it from stdout. None: nothing."""
    return b"" if result is None else json.dumps(result).encode() + b"\n"


def answer_version(stdin: bytes) -> str:
    """The cniVersion for an error response: the configuration's own if it is supported.

    Never raises. The response to an unreadable configuration has the latest version.
    """
    version = _stated_version(stdin)
    if version == "":
        return UNVERSIONED
    return version if isinstance(version, str) and version in SUPPORTED else LATEST


def asked_version(stdin: bytes) -> str:
    """The cniVersion in a VERSION request; the latest version if stdin is empty or states none."""
    version = _stated_version(stdin)
    return version if isinstance(version, str) and looks_like_version(version) else LATEST


def _stated_version(stdin: bytes) -> object:
    try:
        obj = decode(stdin)
    except ValueError:
        return None
    return obj.get("cniVersion", "") if isinstance(obj, dict) else None
