"""The supported versions of the CNI specification, and the version that introduced each command."""

from __future__ import annotations

import re

from ratchet.cni.command import Command
from ratchet.core.escape import quoted
from ratchet.errors import UnsupportedVersionError

SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
LATEST = SUPPORTED[-1]
# The version of a configuration without a cniVersion (libcni, pkg/version), such as that of 2017.
UNVERSIONED = "0.1.0"

_SINCE = {Command.CHECK: "0.4.0", Command.GC: "1.1.0", Command.STATUS: "1.1.0"}
_PREV_RESULT_SINCE = "0.4.0"
_SEMANTIC = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}")


def at_least(version: str, minimum: str) -> bool:
    """Whether `version` is `minimum` or later, by the order of SUPPORTED. Raises ValueError for any other version."""
    return SUPPORTED.index(version) >= SUPPORTED.index(minimum)


def exists(command: Command, version: str) -> bool:
    """Whether that version of the specification has the command."""
    return at_least(version, _SINCE.get(command, UNVERSIONED))


def require(command: Command, version: str) -> None:
    """Reject a command that the configuration's version does not have.

    CHECK came with 0.4.0, GC and STATUS with 1.1.0. Raises UnsupportedVersionError (code 1).
    """
    if not exists(command, version):
        raise UnsupportedVersionError(
            f"cannot run {command}: it needs cniVersion {_SINCE[command]}, the configuration has {version}",
            details=f"set cniVersion to {_SINCE[command]} or later",
        )


def gives_prev_result(version: str) -> bool:
    """Whether DEL and CHECK get the result of ADD as `prevResult`."""
    return at_least(version, _PREV_RESULT_SINCE)


def supported(version: str) -> str:
    """The version itself, or 0.1.0 for an empty one; raises UnsupportedVersionError (code 1)."""
    if not version:
        return UNVERSIONED
    if version not in SUPPORTED:
        raise UnsupportedVersionError(
            f"cannot speak cniVersion {quoted(version)}: it is not supported",
            details=f"supported versions: {', '.join(SUPPORTED)}",
        )
    return version


def highest_common(theirs: list[str], ceiling: str) -> str | None:
    """The latest version up to `ceiling` that both sides support; None if there is none."""
    common = [version for version in SUPPORTED if version in theirs and at_least(ceiling, version)]
    return common[-1] if common else None


def looks_like_version(value: object) -> bool:
    """Whether a value has the form of a version, so that it can be echoed to the caller."""
    return isinstance(value, str) and _SEMANTIC.fullmatch(value) is not None
