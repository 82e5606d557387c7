"""The sysctls and offloads of an interface, read and reset in the calling thread's network namespace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from ratchet.core.endpoint_spec import IFNAME
from ratchet.core.interface import Device, InterfaceSpec
from ratchet.datapath import ethtool, sysctl

# Documentation/networking/ip-sysctl.rst: gratuitous ARP and unsolicited neighbour advertisements.
_ANNOUNCING = (f"net.ipv4.conf.{IFNAME}.arp_notify", f"net.ipv6.conf.{IFNAME}.ndisc_notify")


def with_settings(spec: InterfaceSpec, device: Device) -> Device:
    """The device with the sysctls and offloads that `spec` sets or resets. Raises OSError."""
    assumed = spec.offloads and "offloads" not in spec.resets
    return replace(
        device,
        sysctls=sysctl.read_sysctls(spec.ifname, (name for name, _ in spec.sysctls)),
        offloads=assumed or ethtool.has_offloads(spec.ifname),
        stale_sysctls=sysctl.stale_sysctls(spec.ifname, (name for name in spec.resets if "." in name)),
    )


@contextmanager
def announcing_addresses(ifname: str) -> Iterator[None]:
    """Within the block, the kernel announces a new MAC address of an interface to its neighbours. Raises OSError."""
    before = sysctl.read_sysctls(ifname, _ANNOUNCING)
    for name, _ in before:
        sysctl.write_sysctl(ifname, (name, 1))
    try:
        yield
    finally:
        for setting in before:
            sysctl.write_sysctl(ifname, setting)


def reset_settings(spec: InterfaceSpec, device: Device) -> None:
    """Give the `resets` of `spec` the values of a new interface. Raises OSError."""
    for name in device.stale_sysctls:
        sysctl.reset_sysctl(spec.ifname, name)
    if "offloads" in spec.resets and not device.offloads:
        ethtool.enable_offloads(spec.ifname, gro=device.kind == "vxlan")
