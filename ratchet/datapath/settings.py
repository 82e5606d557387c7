"""The sysctls and offloads of an interface, read and reset in the calling thread's network namespace."""

from __future__ import annotations

from dataclasses import replace

from ratchet.core.interface import Device, InterfaceSpec
from ratchet.datapath import ethtool, sysctl


def with_settings(spec: InterfaceSpec, device: Device) -> Device:
    """The device with the sysctls and offloads that `spec` sets or resets. Raises OSError."""
    assumed = spec.offloads and "offloads" not in spec.resets
    return replace(
        device,
        sysctls=sysctl.read_sysctls(spec.ifname, (name for name, _ in spec.sysctls)),
        offloads=assumed or ethtool.has_offloads(spec.ifname),
        stale_sysctls=sysctl.stale_sysctls(spec.ifname, (name for name in spec.resets if "." in name)),
    )


def reset_settings(spec: InterfaceSpec, device: Device) -> None:
    """Give the `resets` of `spec` the values of a new interface. Raises OSError."""
    for name in device.stale_sysctls:
        sysctl.reset_sysctl(spec.ifname, name)
    if "offloads" in spec.resets and not device.offloads:
        ethtool.enable_offloads(spec.ifname, gro=device.kind == "vxlan")
