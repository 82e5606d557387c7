"""Which addresses of an ADD result container runtimes take as the IPs of a pod."""

from __future__ import annotations

from typing import Any


def containerd_pod_ips(result: dict[str, Any], ifname: str = "eth0") -> list[str]:
    """The addresses of the default interface, by its name.

    An address without an interface belongs to it (containerd/go-cni, result.go; containerd,
    internal/cri/server/sandbox_run.go, setupPodNetwork).
    """
    names = [interface["name"] for interface in result.get("interfaces", [])]

    def owner(ip: dict[str, Any]) -> str:
        return ifname if ip.get("interface") is None else str(names[ip["interface"]])

    return [_bare(ip) for ip in result["ips"] if owner(ip) == ifname]


def crio_pod_ips(result: dict[str, Any]) -> list[str]:
    """All addresses (cri-o, server/sandbox_network.go, networkStart and getSandboxIPs)."""
    return [_bare(ip) for ip in result["ips"]]


def _bare(ip: dict[str, Any]) -> str:
    return str(ip["address"]).partition("/")[0]
