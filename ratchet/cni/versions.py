"""Which versions of the CNI specification Ratchet speaks, and which command came with which."""

from __future__ import annotations

import re

from ratchet.cni.arguments import Command
from ratchet.cni.excerpt import quoted
from ratchet.errors import UnsupportedVersionError

SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
LATEST = SUPPORTED[-1]
# What a configuration without a cniVersion means (libcni, pkg/version): the file of 2017 has none.
UNVERSIONED = "0.1.0"

_SINCE = {Command.CHECK: "0.4.0", Command.GC: "1.1.0", Command.STATUS: "1.1.0"}
_PREV_RESULT_SINCE = "0.4.0"
_SEMANTIC = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}")


def at_least(version: str, minimum: str) -> bool:
    """Whether `version` is `minimum` or later; both are of SUPPORTED."""
    return SUPPORTED.index(version) >= SUPPORTED.index(minimum)


def exists(command: Command, version: str) -> bool:
    """Whether the specification of that version knows the command."""
    return at_least(version, _SINCE.get(command, UNVERSIONED))


def require(command: Command, version: str) -> None:
    """Refuse a command that the configuration's version does not know: CHECK came with 0.4.0, GC and STATUS with 1.1.0.

    Raises UnsupportedVersionError (code 1).
    """
    if not exists(command, version):
        raise UnsupportedVersionError(
            f"cannot run {command}: it needs cniVersion {_SINCE[command]}, the configuration has {version}",
            details=f"set cniVersion to {_SINCE[command]} or later",
        )


def gives_prev_result(version: str) -> bool:
    """Whether DEL and CHECK are given the result of ADD as `prevResult`."""
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
    """The latest version that both sides speak and that is not above `ceiling`; None where there is none."""
    common = [version for version in SUPPORTED if version in theirs and at_least(ceiling, version)]
    return common[-1] if common else None


def looks_like_version(value: object) -> bool:
    """Whether a value has the form of a version, so that it can be echoed to whoever asked with it."""
    return isinstance(value, str) and _SEMANTIC.fullmatch(value) is not None
