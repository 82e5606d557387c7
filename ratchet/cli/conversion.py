"""Links that are converted from another tool's file, and what of the file is not converted.

Each converted link is read as an agent reads it. So what is printed is valid, or reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml

from ratchet.cli.documents import ManifestError
from ratchet.cli.object_rules import name_problem
from ratchet.cli.topology_faults import RESERVED, topology_faults
from ratchet.core.escape import excerpt
from ratchet.core.intent import values
from ratchet.core.pod import Topology

Json = dict[str, Any]
Ends = Sequence[tuple[str, str]]

_IFNAME_MOST, _NAME_MOST = 15, 63


@dataclass(slots=True)
class Conversion:
    """Links of one namespace, a line for each thing that is not converted, and notes on what differs.

    `not_pods`: why a node is no pod, by its name. `namespace` is empty for that of the topology's user.
    """

    namespace: str = ""
    not_pods: Mapping[str, str] = field(default_factory=dict)
    links: list[Json] = field(default_factory=list)
    unconverted: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _names: dict[str, str] = field(default_factory=dict)
    _used: dict[tuple[str, str], str] = field(default_factory=dict)  # the place of each endpoint's link

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Report a link with a value of another type, and go on with the next one."""
        try:
            yield
        except ManifestError as error:
            self.unconverted.append(f"{error.where}: {error.cause}")

    def add(self, place: str, ends: Ends, properties: Mapping[str, Any]) -> Json | None:
        """Add a link, and return it. None if it is not converted."""
        if problem := self._problem(ends):
            self.unconverted.append(f"{place}: {problem}")
            return None
        pods = [(self._pod_name(name), ifname) for name, ifname in ends]
        link: Json = {"endpoints": [f"{name}:{ifname}" for name, ifname in pods], **properties}
        if problem := link_problem(link):
            self.unconverted.append(f"{place}: {problem}")
            return None
        self._used |= dict.fromkeys(ends, place)
        self.links.append(link)
        return link

    def _problem(self, ends: Ends) -> str:
        """Why there can be no link between these endpoints; empty if there can."""
        for name, ifname in ends:
            if reason := self.not_pods.get(name):
                return reason
            try:
                values.interface_name(ifname, RESERVED)
            except ValueError as cause:
                nearest = nearest_ifname(ifname)
                return f"{cause}; the nearest valid name is {nearest}" if nearest else str(cause)
            if (name, ifname) in self._used:
                return f"{ifname} of {excerpt(name)} is also used by {self._used[name, ifname]}"
        return ""

    def _pod_name(self, name: str) -> str:
        """The name of a node's pod. One that Kubernetes rejects, or that is taken by then, is changed with a note."""
        if name not in self._names:
            is_valid = not name_problem(name)
            used = _unique(name if is_valid else nearest_name(name), self._names.values())
            if used != name:
                cause = f"another node uses {name}" if is_valid else "Kubernetes rejects it"
                self.notes.append(f'pod name "{excerpt(name)}" is changed to {used}, because {cause}')
            self._names[name] = used
        return self._names[name]


def link_problem(link: Json) -> str:
    """Why an agent would reject a link of a topology; empty if it would not."""
    faults = topology_faults([Topology("default", "imported", list_text([link]))])
    return next((one.cause for one in faults), "")


def list_text(links: Sequence[Json]) -> str:
    """The links as the text of a topology, one in each line."""
    return "".join(f"- {yaml.safe_dump(link, default_flow_style=True, width=1000)}" for link in links)


def nearest_name(name: str) -> str:
    """A valid name of a pod or a ConfigMap that resembles another one."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower())[:_NAME_MOST].strip("-.") or "imported"


def nearest_ifname(ifname: str) -> str:
    """A valid interface name that resembles another one; empty if nothing resembles it."""
    nearest = re.sub(r"[^A-Za-z0-9_.]+", "-", ifname).lstrip("-_.0123456789")[:_IFNAME_MOST].rstrip("-")
    return "" if nearest in (*RESERVED, "all", "default") else nearest


def _unique(name: str, taken: Iterable[str]) -> str:
    """The name, with a number if it is taken."""
    names, number = set(taken), 2
    found = name
    while found in names:
        found, number = f"{name}-{number}", number + 1
    return found
