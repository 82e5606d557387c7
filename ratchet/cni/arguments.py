"""Parameters from the environment: the `CNI_*` variables (SPEC.md, section 2, "Parameters")."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ratchet.cni.command import Command, invalid_variable, read_command
from ratchet.core.escape import quoted
from ratchet.errors import InvalidEnvironmentError

_ATTACHMENT = ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME")
_REQUIRED = {
    Command.ADD: _ATTACHMENT,
    Command.CHECK: _ATTACHMENT,
    Command.DEL: ("CNI_CONTAINERID", "CNI_IFNAME"),
    Command.GC: ("CNI_PATH",),
    Command.STATUS: (),
    Command.VERSION: (),
}

_CONTAINER_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
# A container ID plus a suffix becomes a file name; file names have at most 255 bytes.
_CONTAINER_ID_LENGTH = 200
_IFNAME_BYTES = 15  # IFNAMSIZ, less the terminating zero
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_UID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9-]{0,127}")


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of one call of the plugin.

    `netns` is a path, empty if the runtime no longer has one (DEL). `path` are the directories of `CNI_PATH`, `args`
    the pairs of `CNI_ARGS`. `variables` are all `CNI_*` variables unchanged, for delegated plugins. GC, STATUS and
    VERSION have no attachment: container_id, netns and ifname are empty.

    `root` is where this process finds the file system that the caller's plugin paths refer to; empty: its own.
    """

    command: Command
    container_id: str
    netns: str
    ifname: str
    path: tuple[str, ...]
    args: Mapping[str, str]
    variables: Mapping[str, str]
    root: str = ""

    @property
    def pod_namespace(self) -> str:
        return self.args.get("K8S_POD_NAMESPACE", "")

    @property
    def pod_name(self) -> str:
        return self.args.get("K8S_POD_NAME", "")

    @property
    def pod_uid(self) -> str:
        return self.args.get("K8S_POD_UID", "")


def read_arguments(environ: Mapping[str, str]) -> Arguments:
    """Read a call's arguments from the environment.

    Variables that the command does not need are not validated. Raises InvalidEnvironmentError (code 4). Its message
    names all missing variables, or the invalid one.
    """
    variables = {name: value for name, value in environ.items() if name.startswith("CNI_")}
    command = read_command(variables)
    _require_present(command, variables)
    attached = command in (Command.ADD, Command.CHECK, Command.DEL)
    return Arguments(
        command=command,
        container_id=_container_id(variables["CNI_CONTAINERID"]) if attached else "",
        netns=_netns(variables.get("CNI_NETNS", ""), command) if attached else "",
        ifname=_ifname(variables["CNI_IFNAME"]) if attached else "",
        path=tuple(filter(None, variables.get("CNI_PATH", "").split(os.pathsep))),
        args=_pod_args(variables.get("CNI_ARGS", "")) if attached else {},
        variables=variables,
    )


def _require_present(command: Command, variables: Mapping[str, str]) -> None:
    missing = [name for name in _REQUIRED[command] if not variables.get(name)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise InvalidEnvironmentError(f"cannot run {command}: {', '.join(missing)} {verb} missing from the environment")


def _container_id(text: str) -> str:
    if len(text) > _CONTAINER_ID_LENGTH:
        raise invalid_variable("CNI_CONTAINERID", text, f"is longer than {_CONTAINER_ID_LENGTH} characters")
    if not _CONTAINER_ID.fullmatch(text):
        raise invalid_variable(
            "CNI_CONTAINERID", text, "may hold letters, digits, '_', '.' and '-', a letter or digit first"
        )
    return text


def _netns(text: str, command: Command) -> str:
    # DEL must succeed whatever is left of the sandbox (SPEC.md, section 2, "DEL").
    if command is not Command.DEL and not (text.startswith("/") and text.isprintable()):
        raise invalid_variable("CNI_NETNS", text, "must be an absolute path")
    return text


def _ifname(text: str) -> str:
    fault = ifname_fault(text)
    if fault:
        raise invalid_variable("CNI_IFNAME", text, fault)
    return text


def ifname_fault(name: str) -> str:
    """Why the kernel or the specification rejects an interface name; empty if it is valid.

    The rules are libcni's ValidateInterfaceName and dev_valid_name of net/core/dev.c. Names with unprintable characters
    are rejected too, because names are shown to people.
    """
    if not name or name in (".", ".."):
        return "must be the name of an interface"
    if not name.isprintable() or any(char in "/:" or char.isspace() for char in name):
        return "must not hold '/', ':', white space or what cannot be printed"
    if len(name.encode()) > _IFNAME_BYTES:
        return f"is longer than {_IFNAME_BYTES} bytes"
    return ""


def _pod_args(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for pair in filter(None, text.split(";")):
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise invalid_variable("CNI_ARGS", pair, "is not of the form KEY=VALUE")
        if pairs.setdefault(key, value) != value:
            raise invalid_variable("CNI_ARGS", pair, f"gives {quoted(key)} a second value")
    _check_pod(pairs)
    return pairs


def _check_pod(pairs: Mapping[str, str]) -> None:
    # Pod names become parts of URLs, so invalid names are rejected here.
    rules: dict[str, tuple[Callable[[str], object], str]] = {
        "K8S_POD_NAMESPACE": (is_dns_label, "is not the name of a namespace"),
        "K8S_POD_NAME": (is_dns_subdomain, "is not the name of a pod"),
        "K8S_POD_UID": (_UID.fullmatch, "is not a UID"),
    }
    for key, (holds, fault) in rules.items():
        value = pairs.get(key, "")
        if value and not holds(value):
            raise invalid_variable("CNI_ARGS", f"{key}={value}", fault)


def is_dns_label(text: str) -> bool:
    """Whether the text is a valid Kubernetes namespace name (RFC 1123 label, at most 63 characters)."""
    return _LABEL.fullmatch(text) is not None


def is_dns_subdomain(text: str) -> bool:
    """Whether the text is a valid Kubernetes pod name (RFC 1123 subdomain, at most 253 characters)."""
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None
