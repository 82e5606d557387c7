"""The interface names of network operating systems, by the kind of a containerlab node.

A router's image expects the names of Linux. Containerlab accepts its own names too, except for cEOS: there it accepts
those of Linux only. Source: containerlab.dev/manual/topo-def-file, "Interface naming", and its kinds' pages.
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


def _ceos(match: _Match) -> str:
    return "eth" + match["ports"].replace("/", "_")


def _sros(match: _Match) -> str:
    return f"eth{match['port'] or match['connector']}"


def _dashed(match: _Match) -> str:
    return "e" + match[0].removeprefix("ethernet-").replace("/", "-")


_NUMBER = r"[0-9]{1,4}"
_GIGABIT = r"(?:Gi|GigabitEthernet) ?"
_TEN_GIGABIT = r"(?:Gi|GigabitEthernet|Te|TenGigE|TenGigabitEthernet) ?"
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
    (("cisco_asav", "cisco_ftdv"), *_machine(rf"{_GIGABIT}0/(?P<port>{_NUMBER})", 0)),
    (("cisco_cat9kv",), *_machine(rf"{_GIGABIT}1/0/(?P<port>{_NUMBER})", 1)),
    (("cisco_n9kv", "vr-n9kv", "vr-cisco_n9kv"), *_machine(rf"(?:Et|Ethernet) ?1/(?P<port>{_NUMBER})", 1)),
    (("arista_ceos", "ceos"), re.compile(rf"(?:Et|Ethernet)(?P<ports>{_NUMBER}(?:/{_NUMBER}){{0,2}})"), _ceos),
    (("arista_veos", "vr-veos", "vr-arista_veos"), *_machine(rf"(?:Et|Ethernet)1/(?P<port>{_NUMBER})", 1)),
    (
        (
            *("cisco_xrv9k", "vr-xrv9k", "vr-cisco_xrv9k", "cisco_xrv", "vr-xrv", "vr-cisco_xrv"),
            "cisco_xrd_vrouter",
        ),
        *_machine(rf"{_TEN_GIGABIT}0/0/0/(?P<port>{_NUMBER})", 0),
    ),
    (
        (
            *("juniper_vmx", "vr-vmx", "vr-juniper_vmx", "juniper_vsrx", "vr-vsrx", "vr-juniper_vsrx"),
            *("juniper_vqfx", "vr-vqfx", "vr-juniper_vqfx", "juniper_vjunosrouter", "juniper_vjunosswitch"),
            "juniper_vjunosevolved",
        ),
        *_machine(_JUNOS, 0),
    ),
    (("juniper_cjunosevolved", "cjunosevolved"), *_machine(rf"et-0/0/(?P<port>{_NUMBER})", -3)),
    (
        ("nokia_sros", "vr-sros", "vr-nokia_sros"),
        re.compile(rf"1/1/(?:(?P<port>{_NUMBER})|c(?P<connector>{_NUMBER})/1)"),
        _sros,
    ),
    (("aruba_aoscx", "vr-aoscx", "vr-aruba_aoscx"), *_machine(rf"1/1/(?P<port>{_NUMBER})", 1)),
    (("f5_bigip-ve",), *_machine(rf"1\.(?P<port>{_NUMBER})", 1)),
    (("ciena_saos", "vr-ciena_saos"), *_machine(rf"(?P<port>{_NUMBER})", 1)),
    (("fortinet_fortigate",), *_machine(rf"port(?P<port>{_NUMBER})", 2)),
    (("spirent_stc",), *_machine(r"port(?P<port>[1-9])", 1)),
    (("nvidia_cumulusvx",), *_machine(rf"swp(?P<port>{_NUMBER})", 1)),
    (("paloalto_panos", "vr-pan", "vr-paloalto_panos"), *_machine(rf"Ethernet1/(?P<port>{_NUMBER})", 1)),
    (("mikrotik_ros", "vr-ros", "vr-mikrotik_ros"), *_machine(rf"ether(?P<port>{_NUMBER})", 2)),
    (("freebsd",), *_machine(rf"vtnet(?P<port>{_NUMBER})", 1)),
    (("openbsd",), *_machine(rf"vio(?P<port>{_NUMBER})", 1)),
)


_ALIASES = {kind: (pattern, name) for kinds, pattern, name in _KINDS for kind in kinds}
