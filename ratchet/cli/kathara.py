"""Convert the collision domains of a lab of Kathará that connect two machines (kathara.org, man kathara-lab.conf).

In a pod, `eth0` is the interface of the pod network. If a machine uses it, all interfaces are numbered one higher.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ratchet.cli.conversion import Conversion, Json
from ratchet.cli.documents import ManifestError
from ratchet.core.escape import excerpt

_LINE = re.compile(r"""(?P<machine>[\w.-]+)\[(?P<key>\w+)\]\s*=\s*(?P<quote>["']?)(?P<value>.*?)(?P=quote)\s*(\#.*)?""")
_SETTING = re.compile(r"LAB_[A-Z]+\s*=.*")
_NUMBER_MOST = 4  # digits


@dataclass(frozen=True, slots=True)
class _Interface:
    line: int
    machine: str
    number: int
    mac: str


def from_kathara(file: str, text: str) -> Conversion:
    """Convert a `lab.conf`. Raises ManifestError for a line that has another form."""
    found = Conversion()
    domains: dict[str, list[_Interface]] = {}
    settings = set[str]()
    for line, machine, key, value in _read(file, text):
        if key.isdecimal() and len(key) <= _NUMBER_MOST:
            domain, _, mac = value.partition("/")
            domains.setdefault(domain, []).append(_Interface(line, machine, int(key), mac))
        else:
            settings.add(key)
    found.unconverted += [f"settings of machines: {excerpt(key)} is not converted" for key in sorted(settings)]
    shift = int(any(one.number == 0 for interfaces in domains.values() for one in interfaces))
    for domain, interfaces in domains.items():
        _add_domain(found, domain, interfaces, shift)
    if shift and found.links:
        found.notes.append("interfaces are numbered one higher, because eth0 is the interface of the pod network")
    return found


def _read(file: str, text: str) -> Iterator[tuple[int, str, str, str]]:
    """The line, machine, key and value of each assignment."""
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.strip()
        if not content or content.startswith("#") or _SETTING.fullmatch(content):
            continue
        match = _LINE.fullmatch(content)
        if match is None:
            raise ManifestError(file, f"line {number}", f"expected machine[key]=value, found {excerpt(content)}")
        yield number, match["machine"], match["key"], match["value"]


def _add_domain(found: Conversion, domain: str, interfaces: list[_Interface], shift: int) -> None:
    place = f"line {interfaces[0].line}: collision domain {excerpt(domain)}"
    if len(interfaces) != 2:
        found.unconverted.append(f"{place}: {len(interfaces)} interfaces, a link has two")
        return
    macs = [one.mac or None for one in interfaces]
    properties: Json = {"mac": macs} if any(macs) else {}
    found.add(place, [(one.machine, f"eth{one.number + shift}") for one in interfaces], properties)
