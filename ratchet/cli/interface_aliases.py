"""The interface names that containerlab accepts besides those of Linux, by the kind of a node.

A router's image expects the names of Linux. Source: containerlab.dev/manual/topo-def-file, "Interface naming", and its
kinds' pages.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_Match = re.Match[str]
_Name = Callable[[_Match], str]

_IOL_PORTS_PER_SLOT = 4
_NO_ALIAS = re.compile(r"(?!)")


def linux_name(kind: str, ifname: str) -> str:
    """The name that an interface has in Linux; the name itself if it is no alias of this kind."""
    pattern, name = _ALIASES.get(kind, (_NO_ALIAS, str))
    match = pattern.fullmatch(ifname)
    return name(match) if match else ifname


def _machine(pattern: str, first: int) -> tuple[re.Pattern[str], _Name]:
    """The ports of a virtual machine. The port `first` is eth1, because eth0 is for management."""

    def name(match: _Match) -> str:
        number = int(match["port"]) - first + 1
        return f"eth{number}" if number > 0 else match[0]

    return re.compile(pattern), name


def _iol(match: _Match) -> str:
    return f"eth{int(match['slot']) * _IOL_PORTS_PER_SLOT + int(match['port'])}"


def _dashed(match: _Match) -> str:
    return "e" + match[0].removeprefix("ethernet-").replace("/", "-")


_NUMBER = r"[0-9]{1,4}"
_GIGABIT = r"(?:Gi|GigabitEthernet) ?"
_JUNOS = rf"(?:et|xe|ge)-0/0/(?P<port>{_NUMBER})"
_KINDS: tuple[tuple[tuple[str, ...], re.Pattern[str], _Name], ...] = (
    (("cisco_iol",), re.compile(rf"(?:e|Ethernet) ?(?P<slot>{_NUMBER})/(?P<port>[0-3])"), _iol),
    (("nokia_srlinux", "srl"), re.compile(rf"ethernet-{_NUMBER}(/{_NUMBER}){{1,2}}"), _dashed),
    (("nokia_srsim",), re.compile(rf"{_NUMBER}/(x{_NUMBER}/)?{_NUMBER}(/c{_NUMBER})?/{_NUMBER}"), _dashed),
    (
        ("cisco_csr1000v", "vr-csr", "vr-cisco_csr1000v", "cisco_c8000v"),
        *_machine(rf"{_GIGABIT}(?P<port>{_NUMBER})", 2),
    ),
    (("cisco_vios",), *_machine(rf"{_GIGABIT}(?P<port>{_NUMBER})", 0)),
    (("cisco_cat9kv",), *_machine(rf"{_GIGABIT}1/0/(?P<port>{_NUMBER})", 1)),
    (("cisco_n9kv", "vr-n9kv", "vr-cisco_n9kv"), *_machine(rf"(?:Et|Ethernet) ?1/(?P<port>{_NUMBER})", 1)),
    (("arista_veos", "vr-veos", "vr-arista_veos"), *_machine(rf"(?:Et|Ethernet)1/(?P<port>{_NUMBER})", 1)),
    (
        ("cisco_xrv9k", "vr-xrv9k", "vr-cisco_xrv9k", "cisco_xrv", "vr-xrv", "vr-cisco_xrv"),
        *_machine(rf"(?:Gi|GigabitEthernet|Te|TenGigE|TenGigabitEthernet) ?0/0/0/(?P<port>{_NUMBER})", 0),
    ),
    (
        (
            *("juniper_vmx", "vr-vmx", "vr-juniper_vmx", "juniper_vsrx", "vr-vsrx", "vr-juniper_vsrx"),
            *("juniper_vqfx", "vr-vqfx", "vr-juniper_vqfx", "juniper_vjunosrouter", "juniper_vjunosswitch"),
        ),
        *_machine(_JUNOS, 0),
    ),
    (("nokia_sros", "vr-sros", "vr-nokia_sros", "aruba_aoscx"), *_machine(rf"1/1/(?P<port>{_NUMBER})", 1)),
    (("f5_bigip-ve",), *_machine(rf"1\.(?P<port>{_NUMBER})", 1)),
)


_ALIASES = {kind: (pattern, name) for kinds, pattern, name in _KINDS for kind in kinds}
