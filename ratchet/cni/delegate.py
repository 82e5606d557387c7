"""Run delegated plugins as the runtime runs us, with their own configuration (SPEC.md, section 4).

A delegate gets its own `name` if it has one, else ours. It gets its own `cniVersion`, else ours, or the latest earlier
version that its binary supports. Its configuration and its result are a Delegation, which is kept for DEL and CHECK.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from time import monotonic
from typing import Any

from ratchet.cni.arguments import Arguments
from ratchet.cni.attachments import VALID_ATTACHMENTS_KEYS
from ratchet.cni.budget import DELEGATE_SECONDS as _MOST
from ratchet.cni.command import Command
from ratchet.cni.config import NetworkConfig
from ratchet.cni.decode import decode
from ratchet.cni.delegation import Delegation, prepare
from ratchet.cni.execute import STDOUT_LIMIT, CompletedPlugin, find_plugin, run_plugin
from ratchet.cni.versions import LATEST, UNVERSIONED, exists, gives_prev_result, highest_common
from ratchet.core.escape import excerpt, excerpt_end
from ratchet.errors import DelegateError, UnavailableError, UnsupportedVersionError

_VERSION_TIMEOUT = 5.0  # seconds

_NOT_AVAILABLE = (UnavailableError.code, 51)  # SPEC.md, section 2, "STATUS"


def add(
    delegate: Mapping[str, Any],
    network: NetworkConfig,
    arguments: Arguments,
    *,
    timeout: float = _MOST[Command.ADD],
) -> Delegation:
    """Add the sandbox to the delegate's network; `timeout` in seconds.

    Raises DelegateError with the plugin's own code and message if it printed them. What the plugin did before it failed
    remains until its DEL (SPEC.md, section 4).
    """
    prepared = prepare(delegate, network)
    used, completed = _run_in_common_version(prepared, Command.ADD, arguments, timeout)
    cannot = _cannot(Command.ADD, used)
    if len(completed.stdout) > STDOUT_LIMIT:
        raise DelegateError(f"{cannot}: it printed more than {STDOUT_LIMIT} bytes")
    done = replace(used, result=_printed_result(completed, cannot), stderr=_tail(completed))
    done.decoded_result()
    return done


def delete(delegation: Delegation, arguments: Arguments, *, timeout: float = _MOST[Command.DEL]) -> str:
    """Run the delegate's DEL with the kept configuration and, from 0.4.0 on, the kept result.

    Returns the tail of the plugin's stderr. Raises DelegateError. Its text never contains "not found": containerd would
    conclude that the sandbox is gone, and forget it.
    """
    try:
        _, completed = _run_in_common_version(delegation, Command.DEL, arguments, timeout)
    except DelegateError as error:
        softened = DelegateError(_soften(str(error)), details=_soften(error.details))
        softened.code = error.code
        raise softened from error
    return _tail(completed)


def check(delegation: Delegation, arguments: Arguments, *, timeout: float = _MOST[Command.CHECK]) -> str:
    """Run the delegate's CHECK. A version below 0.4.0 has no CHECK, and passes.

    Returns the tail of the plugin's stderr. Raises DelegateError with the plugin's error.
    """
    if not exists(Command.CHECK, delegation.version):
        return ""
    return _tail(_run(delegation, Command.CHECK, arguments, timeout))


def gc(
    delegate: Mapping[str, Any],
    network: NetworkConfig,
    arguments: Arguments,
    *,
    timeout: float = _MOST[Command.GC],
) -> bool:
    """Run the delegate's GC with the runtime's valid attachments.

    Returns False if the delegate has no GC (a version below 1.1.0) or the runtime gave no list. A plugin would take a
    missing list for an empty one and remove the addresses of all pods. Raises DelegateError.
    """
    prepared = prepare(delegate, network)
    if network.valid_attachments is None or not exists(Command.GC, prepared.version):
        return False
    delegation = _spoken(prepared, arguments)
    if not exists(Command.GC, delegation.version):
        return False
    listed = [{"containerID": one.container_id, "ifname": one.ifname} for one in network.valid_attachments]
    config = {**delegation.config, **dict.fromkeys(VALID_ATTACHMENTS_KEYS, listed)}
    _run(replace(delegation, config=config), Command.GC, arguments, timeout)
    return True


def status(
    delegate: Mapping[str, Any],
    network: NetworkConfig,
    arguments: Arguments,
    *,
    timeout: float = _MOST[Command.STATUS],
) -> bool:
    """Run the delegate's STATUS. Returns False if it has no STATUS (a version below 1.1.0).

    Raises DelegateError with code 50 or 51, also if the plugin does not exist or supports no common version.
    """
    try:
        delegation = _spoken(prepare(delegate, network), arguments)
        if exists(Command.STATUS, delegation.version):
            _run(delegation, Command.STATUS, arguments, timeout)
            return True
    except DelegateError as error:
        if error.code not in _NOT_AVAILABLE:
            error.code = UnavailableError.code
        raise
    return False


def _run_in_common_version(
    delegation: Delegation, command: Command, arguments: Arguments, timeout: float
) -> tuple[Delegation, CompletedPlugin]:
    """Run a command; if the plugin rejects the version, run it again in the latest common version.

    To ask for its versions first would cost one more process at each pod start. A plugin checks the version before it
    acts, so there is nothing to undo between the two runs.
    """
    deadline = monotonic() + timeout
    try:
        return delegation, _run(delegation, command, arguments, timeout)
    except DelegateError as error:
        if error.code != UnsupportedVersionError.code:
            raise
        other = _spoken(delegation, arguments)
        if other.version == delegation.version:
            raise
    return other, _run(other, command, arguments, max(0.0, deadline - monotonic()))


def _spoken(delegation: Delegation, arguments: Arguments) -> Delegation:
    """The delegation in the latest version, up to its own, that the plugin supports."""
    binary = find_plugin(delegation.type, arguments.path, arguments.root)
    theirs = _versions_of(binary, delegation, arguments.root)
    version = highest_common(theirs, delegation.version)
    if version is None:
        error = DelegateError(
            f"cannot use the delegate (type {excerpt(delegation.type)}): it speaks none of the CNI versions up to "
            f"{delegation.version}",
            details=f"it says that it speaks {excerpt(', '.join(theirs), 300)}",
        )
        error.code = UnsupportedVersionError.code
        raise error
    return replace(delegation, config={**delegation.config, "cniVersion": version})


def _versions_of(binary: str, delegation: Delegation, root: str) -> list[str]:
    # Plugins built on old libraries require these variables even for VERSION (libcni, pkg/invoke).
    variables = {"CNI_COMMAND": "VERSION", "CNI_NETNS": "dummy", "CNI_IFNAME": "dummy", "CNI_PATH": "dummy"}
    completed = run_plugin(binary, json.dumps({"cniVersion": LATEST}).encode(), variables, _VERSION_TIMEOUT, root)
    answer = _decoded(completed)
    listed = answer.get("supportedVersions") if answer else None
    if completed.status == 0 and isinstance(listed, list):
        return [version for version in listed if isinstance(version, str)]
    if answer and answer.get("msg") == "unknown CNI_COMMAND: VERSION":
        return [UNVERSIONED]
    raise _failure(completed, f"cannot ask the delegate (type {excerpt(delegation.type)}) for its versions")


def _run(delegation: Delegation, command: Command, arguments: Arguments, timeout: float) -> CompletedPlugin:
    binary = find_plugin(delegation.type, arguments.path, arguments.root)
    config = dict(delegation.config)
    takes_result = command in (Command.DEL, Command.CHECK) and gives_prev_result(delegation.version)
    if takes_result and delegation.result is not None:
        config["prevResult"] = delegation.result
    variables = {**arguments.variables, "CNI_COMMAND": command}
    completed = run_plugin(binary, json.dumps(config).encode(), variables, timeout, arguments.root)
    if completed.timed_out or completed.status != 0:
        raise _failure(completed, _cannot(command, delegation))
    return completed


def _failure(completed: CompletedPlugin, cannot: str) -> DelegateError:
    """The plugin's own error if it printed one, else how it ended and what it wrote."""
    said = _decoded(completed) if not completed.timed_out else None
    if not said or not isinstance(said.get("msg"), str):
        wrote = excerpt(completed.stdout.decode(errors="replace").strip(), 300)
        cause = f"{completed.ending()}{f', having printed {wrote}' if wrote else ''}"
        return DelegateError(f"{cannot}: {cause}", details=_tail(completed))
    details = said.get("details")
    own = excerpt(details, 1000) if isinstance(details, str) else ""
    error = DelegateError(f"{cannot}: {excerpt(said['msg'], 1000)}", details=own or _tail(completed))
    code = said.get("code")
    if type(code) is int and 0 < code < 1 << 31:
        error.code = code
    return error


def _printed_result(completed: CompletedPlugin, cannot: str) -> Mapping[str, Any]:
    result = _decoded(completed)
    if result is None:
        wrote = excerpt(completed.stdout.decode(errors="replace").strip(), 300)
        cause = f"it printed no result in JSON but {wrote}" if wrote else "it printed no result"
        raise DelegateError(f"{cannot}: {cause}", details=_tail(completed))
    return result


def _decoded(completed: CompletedPlugin) -> dict[str, Any] | None:
    try:
        value = decode(completed.stdout)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _cannot(command: Command, delegation: Delegation) -> str:
    verbs = {
        Command.ADD: "add",
        Command.DEL: "delete",
        Command.CHECK: "check",
        Command.GC: "collect garbage of",
        Command.STATUS: "ask the status of",
    }
    return f"cannot {verbs[command]} the delegate network (type {excerpt(delegation.type)})"


def _tail(completed: CompletedPlugin) -> str:
    return excerpt_end(completed.stderr.decode(errors="replace").strip())


def _soften(text: str) -> str:
    return text.replace("not found", "missing")
