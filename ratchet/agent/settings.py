"""Settings of the agent: flags, environment variables and a file, read and validated.

The flag `--node-name` is the variable `RATCHET_NODE_NAME` and the key `node_name` of the file. A flag overrides the
variable, the variable overrides the file, and the file overrides the default.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratchet.agent.options import HEARTBEATS_TO_BE_LOST, OPTIONS, Option, variable
from ratchet.cni.arguments import is_dns_subdomain
from ratchet.core.declared_memory import MIB
from ratchet.core.escape import quoted
from ratchet.core.kinds import Wiring
from ratchet.core.limits import AnnotationLimits, LinkLimits, TopologyLimits
from ratchet.core.ports import PortRange, range_fault
from ratchet.errors import InvalidConfigError


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of an agent; `OPTIONS` has the meaning of each.

    `kubeconfig` is None for in-cluster credentials. The parent is None if the agent has to find it. `wait`, `resync`,
    `heartbeat`, `node_lost_after` and `drain_seconds` are seconds. `vni_range` is the first and the last VNI,
    `vxlan_ports` the first and the last UDP port of links (None: `core.ports.default_range`). `metrics_addr` and
    `health_addr` are "host:port", ":port" for all addresses, or "" for none. `host_root` is "" if the agent has the
    node's own file system.
    """

    node_name: str
    kubeconfig: str | None
    namespace: str
    topologies: bool
    topologies_per_namespace: int
    topology_links_per_namespace: int
    topology_bytes_per_namespace: int
    annotation_bytes_per_namespace: int
    declaration_memory: int
    socket: str
    state_dir: str
    spool_dir: str
    host_root: str
    panel: str
    parent_interface: str | None
    parent_address: str | None
    wiring: Wiring
    vxlan_port: int
    vxlan_ports: PortRange | None
    guard: bool
    vni_range: tuple[int, int]
    links_per_pod: int
    links_per_namespace: int
    links_per_node: int
    wait: float | None
    wait_policy: str
    workers: int
    resync: float
    heartbeat: float
    node_lost_after: float
    metrics_addr: str
    health_addr: str
    log_format: str
    log_level: str
    events: bool
    readiness: bool
    drain_seconds: float

    @property
    def limits(self) -> LinkLimits:
        return LinkLimits(self.links_per_pod, self.links_per_namespace)

    @property
    def topology_limits(self) -> TopologyLimits:
        return TopologyLimits(
            self.topologies_per_namespace, self.topology_links_per_namespace, self.topology_bytes_per_namespace
        )

    @property
    def annotation_limits(self) -> AnnotationLimits:
        return AnnotationLimits(self.annotation_bytes_per_namespace)

    @property
    def declaration_memory_bytes(self) -> int:
        """The memory for declarations in bytes."""
        return self.declaration_memory * MIB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the agent's flags; `settings_of` reads them."""
    parser.add_argument(
        "--config", metavar="FILE", help=f"file of settings, YAML or JSON (default: none; env: {variable('config')})"
    )
    groups = {option.group: parser.add_argument_group(option.group) for option in OPTIONS}
    for option in OPTIONS:
        text = f"{option.help} (default: {option.shown}; env: {', '.join(option.variables)})".replace("%", "%%")
        if option.metavar:
            groups[option.group].add_argument(option.flag, metavar=option.metavar, help=text)
        else:
            groups[option.group].add_argument(option.flag, action=argparse.BooleanOptionalAction, help=text)


def settings_of(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    """The settings of parsed arguments (of `add_arguments`) and an environment.

    Raises InvalidConfigError that names the flag, the variable or the key, and the value.
    """
    path: str = arguments.config or environ.get(variable("config")) or ""
    file = _file(path) if path else {}
    given = {option.name: _given(option, arguments, environ, file, path) for option in OPTIONS}
    values: dict[str, Any] = {}
    for option in OPTIONS:
        found = given[option.name]
        values[option.name] = _value(option, found) if found else option.default
    if values["node_name"] is None:
        values["node_name"] = _own_name()
    if values["spool_dir"] is None:
        values["spool_dir"] = f"{values['state_dir'].rstrip('/')}/spool"
    settings = Settings(**values)
    if settings.node_lost_after < HEARTBEATS_TO_BE_LOST * settings.heartbeat:
        raise _too_soon_lost(settings, given)
    if settings.vxlan_ports is not None and (fault := range_fault(settings.vxlan_port, settings.vxlan_ports)):
        raise _fault(fault)
    return settings


@dataclass(frozen=True, slots=True)
class _Given:
    """A value and its source: the flag, the variable, or the key and its file."""

    value: object
    where: str


def _given(
    option: Option, arguments: argparse.Namespace, environ: Mapping[str, str], file: Mapping[str, Any], path: str
) -> _Given | None:
    """The value that overrides the others; None if there is only the default."""
    flag = getattr(arguments, option.name)
    if flag is not None:
        return _Given(flag, option.flag)
    for name in option.variables:
        value = environ.get(name)
        if value or (value is not None and option.may_be_empty):
            return _Given(value, name)
    if file.get(option.name) is not None:
        return _Given(file[option.name], f'"{option.name}" in {path}')
    return None


def _value(option: Option, given: _Given) -> Any:
    """The converted value. Raises InvalidConfigError that names its source."""
    try:
        return option.read(given.value)
    except ValueError as wanted:
        raise _fault(f"{given.where} must be {wanted}, not {quoted(given.value)}") from wanted


def _file(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = json.loads(text) if path.endswith(".json") else _yaml(text)
    except (OSError, ValueError, RecursionError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else " ".join(str(cause).split())
        raise InvalidConfigError(f"cannot read the settings in {path}: {reason}") from cause
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidConfigError(f"cannot read the settings in {path}: {quoted(content)} is not a mapping")
    known = {option.name for option in OPTIONS}
    if unknown := [str(key) for key in content if key not in known]:
        raise InvalidConfigError(
            f"cannot read the settings in {path}: unknown keys: {', '.join(map(quoted, unknown))}",
            details=f"known keys: {', '.join(sorted(known))}",
        )
    return content


def _yaml(text: str) -> Any:
    """The content of a YAML text; raises ValueError."""
    import yaml  # here, because the agent without such a file and the other commands start without it

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as cause:
        raise ValueError(str(cause)) from cause


def _own_name() -> str:
    """The node name that the kubelet derives from this host's name."""
    name = os.uname().nodename.strip().lower()
    if not is_dns_subdomain(name):
        raise _fault(f"the host name {quoted(name)} is not a valid node name: set --node-name")
    return name


def _too_soon_lost(settings: Settings, given: Mapping[str, _Given | None]) -> InvalidConfigError:
    def source(name: str) -> str:
        found = given[name]
        return found.where if found else f"{name} (default)"

    least = HEARTBEATS_TO_BE_LOST * settings.heartbeat
    return _fault(
        f"{source('node_lost_after')} must be at least {HEARTBEATS_TO_BE_LOST} times {source('heartbeat')}, "
        f"so {least:g} seconds, not {settings.node_lost_after:g}"
    )


def _fault(cause: str) -> InvalidConfigError:
    return InvalidConfigError(f"cannot read the agent's settings: {cause}")
