"""The sysctls that a link may set on its interfaces (Documentation/networking/ip-sysctl.rst).

Each acts on one interface in the pod's own namespace, and reads back as it was written.
"""

from __future__ import annotations

from ratchet.core.endpoint_spec import IFNAME

_IPV4 = (
    *("accept_local", "accept_redirects", "arp_accept", "arp_announce", "arp_evict_nocarrier"),
    *("arp_filter", "arp_ignore", "arp_notify", "bc_forwarding", "disable_policy", "disable_xfrm"),
    *("drop_gratuitous_arp", "drop_unicast_in_l2_multicast", "force_igmp_version", "forwarding"),
    *("ignore_routes_with_linkdown", "log_martians", "proxy_arp", "proxy_arp_pvlan", "rp_filter"),
    *("secure_redirects", "send_redirects", "shared_media", "src_valid_mark"),
)
_IPV6 = (
    *("accept_dad", "accept_redirects", "addr_gen_mode", "autoconf", "dad_transmits", "disable_ipv6"),
    *("disable_policy", "drop_unicast_in_l2_multicast", "drop_unsolicited_na", "force_mld_version"),
    *("force_tllao", "forwarding", "hop_limit", "ignore_routes_with_linkdown", "keep_addr_on_down"),
    *("ndisc_evict_nocarrier", "ndisc_notify", "ndisc_tclass", "proxy_ndp", "router_solicitations"),
    *("rpl_seg_enabled", "seg6_enabled", "seg6_require_hmac", "suppress_frag_ndisc", "use_tempaddr"),
)
_NEIGHBOURS = ("app_solicit", "gc_stale_time", "mcast_resolicit", "mcast_solicit", "ucast_solicit")

ALLOWED = frozenset(
    {
        *(f"net.ipv4.conf.{IFNAME}.{name}" for name in _IPV4),
        *(f"net.ipv6.conf.{IFNAME}.{name}" for name in _IPV6),
        *(f"net.{family}.neigh.{IFNAME}.{name}" for family in ("ipv4", "ipv6") for name in _NEIGHBOURS),
        f"net.mpls.conf.{IFNAME}.input",
    }
)
DISABLE_IPV6 = f"net.ipv6.conf.{IFNAME}.disable_ipv6"

_KEPT = {f"net.ipv6.conf.{IFNAME}.accept_ra": "ratchet keeps it at 0: the other end must not become the pod's router"}


def why_not(name: str) -> str | None:
    """The reason why a link may not set a sysctl; None if it may."""
    if name in ALLOWED:
        return None
    if name in _KEPT:
        return _KEPT[name]
    if IFNAME not in name.split("."):
        return f"not a sysctl of an interface, such as net.ipv4.conf.{IFNAME}.rp_filter"
    return "not an allowed sysctl of a link"
