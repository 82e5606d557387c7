"""What goes back to the runtime on stdout besides results: errors and versions (SPEC.md, section 5)."""

from __future__ import annotations

from typing import Any

from ratchet.cni.decode import decode
from ratchet.cni.versions import LATEST, SUPPORTED, UNVERSIONED, looks_like_version
from ratchet.errors import RatchetError


def error_json(error: RatchetError, version: str) -> dict[str, Any]:
    """The error as the runtime reads it: cniVersion, code, msg, details."""
    return {"cniVersion": version, "code": error.code, "msg": str(error), "details": error.details}


def version_json(version: str) -> dict[str, Any]:
    """The answer to VERSION; `version` is the asker's, echoed."""
    return {"cniVersion": version, "supportedVersions": list(SUPPORTED)}


def answer_version(stdin: bytes) -> str:
    """The cniVersion to answer an error with, whatever is wrong with the configuration: its own where we speak it.

    Never raises: the answer to an unreadable configuration is in the latest version.
    """
    version = _stated_version(stdin)
    if version == "":
        return UNVERSIONED
    return version if isinstance(version, str) and version in SUPPORTED else LATEST


def asked_version(stdin: bytes) -> str:
    """The cniVersion that whoever asks for VERSION has stated; the latest where stdin is empty or no version."""
    version = _stated_version(stdin)
    return version if isinstance(version, str) and looks_like_version(version) else LATEST


def _stated_version(stdin: bytes) -> object:
    try:
        obj = decode(stdin)
    except ValueError:
        return None
    return obj.get("cniVersion", "") if isinstance(obj, dict) else None
