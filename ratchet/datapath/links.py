"""Observe, create, unplug and remove the interfaces of a link: idempotent and thread-safe.

No state of a link is kept between calls. "The node" is the calling thread's network namespace; a pod is identified by
the path of its namespace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from ratchet.core.interface import Device, InterfaceSpec, Observed, VethWire, VxlanWire, Wire, is_panel_wire
from ratchet.core.sandbox import Location
from ratchet.core.tunnel_guard import owner_of
from ratchet.datapath import tunnel_guard
from ratchet.datapath.parse import device_of
from ratchet.datapath.pod_netns import OpenPod, open_pod
from ratchet.datapath.veth import ensure_veth, make_veth, observe_veth
from ratchet.datapath.vxlan import ensure_tunnel, make_tunnel, observe_tunnel, unplug_tunnel
from ratchet.errors import NamespaceGoneError


def observe(wire: Wire) -> Observed:
    """Observe the interfaces of a link, and the forwarding entries of a tunnel.

    Raises NamespaceGoneError, which names the path, if a pod's namespace does not exist.
    """
    if is_panel_wire(wire):
        from ratchet.datapath.panel import links as panel_links  # direct wiring does not need them

        return panel_links.observe(wire)
    with _opened(wire) as (near, far):
        return _observed(near, far)


def observe_port(location: Location, ifname: str) -> Device | None:
    """The end's interface, None if there is none; `wired` and `carrier_fixed` are not determined.

    A cable is a "veth" here. `observe` tells its carrier, and where it leads.

    Raises NamespaceGoneError. Raises ForeignInterfaceError if Ratchet created the interface for another link.
    """
    with open_pod(_any_interface(location, ifname)) as pod:
        device = device_of(pod.observe())
        if device is not None and device.ours:
            pod.refuse_foreign(device, "look at")
        return device


def panel_tunnels(path: str) -> dict[str, tuple[Device, str]]:
    """Ratchet's tunnels in the patch panel at `path`, by name, each with its owner (`core.tunnel_guard.owner_of`).

    Empty if there is no panel. Raises DatapathError.
    """
    from ratchet.datapath.panel.tunnels import tunnels_of

    return tunnels_of(path)


def ensure(wire: Wire, search: Sequence[str] = ()) -> bool:
    """Make the interfaces of a link in direct wiring match `wire`. Returns whether anything changed.

    A difference is corrected in place if the kernel allows it, else the interface is replaced. If the call fails, it
    removes what it created. `search`: further paths of namespaces in which a stale device may hold the tunnel's VNI.

    Raises NamespaceGoneError, HostNamespaceError, ForeignInterfaceError (with nothing changed), and DatapathError with
    the kernel's reason.
    """
    with _opened(wire) as (near, far):
        return _ensured(wire, near, far, search)


def make(wire: Wire) -> Observed:
    """Create the link's interfaces if nothing is in the way, and observe them. Leaves existing ones alone.

    The guard and the forwarding entries of a tunnel that it has created are not read back. Raises as `ensure` does,
    except for a foreign interface, which is part of the observation.
    """
    if is_panel_wire(wire):
        from ratchet.datapath.panel import links as panel_links  # direct wiring does not need them

        return panel_links.make(wire)
    with _opened(wire) as (near, far):
        if isinstance(wire, VxlanWire):
            made = make_tunnel(wire, near)
        else:
            made = isinstance(wire, VethWire) and far is not None and make_veth(wire, near, far)
        return _observed(near, far, is_new=made)


def build(wire: Wire, observed: Observed | None = None, *, evict: bool = True) -> Observed:
    """Make the link's interfaces match `wire`, as `ensure` does, and observe them.

    `observed`: the interfaces as the caller has just observed them under the link's lock. Raises as `ensure` does.
    Without `evict`, raises VniInUseError if another tunnel on this node has the VNI. With it, such a tunnel is removed;
    raises VniForeignError if it is not Ratchet's.
    """
    if is_panel_wire(wire):
        from ratchet.datapath.panel import links as panel_links  # direct wiring does not need them

        return panel_links.build(wire, observed, evict=evict)
    with _opened(wire) as (near, far):
        _ensured(wire, near, far, evict=evict, observed=observed)
        return _observed(near, far, is_new=True)


def remove(location: Location, ifname: str) -> bool:
    """Delete the end's interface, and a vEth's peer with it. A cable's tunnel goes too.

    Returns False if it or its namespace is gone already. Raises HostNamespaceError. Raises ForeignInterfaceError, and
    leaves the interface, if it is not Ratchet's or belongs to another link.
    """
    if location.slot is not None:
        from ratchet.datapath.panel import links as panel_links

        if panel_links.remove(location):
            return True
    removed = _done_to_ours("remove", location, ifname, lambda pod, device: pod.take_down(device))
    if not removed:
        tunnel_guard.forget(owner_of(location.cookie, location.index))
    return removed


@contextmanager
def removing(location: Location, ifname: str) -> Iterator[None]:
    """Remove an interface, as `remove` does, while the block runs. It is gone when the block ends.

    The kernel waits some 20 ms until no CPU can still use the interface; the block uses that time. Raises as `remove`
    does.
    """
    with ThreadPoolExecutor(1) as helper:
        removal = helper.submit(remove, location, ifname)
        try:
            yield
        finally:
            removal.result()


def unplug(location: Location, ifname: str) -> bool:
    """Take the carrier from the end of a tunnel, as if the cable were pulled.

    Returns True if the carrier was taken. Returns False if the interface or its namespace is gone, if it has no carrier
    already, or if the kernel cannot take it. Returns False also for a vEth, whose carrier the kernel controls. `ensure`
    restores the carrier.

    Raises HostNamespaceError. Raises ForeignInterfaceError if the interface is not Ratchet's or is another link's.
    """
    return _done_to_ours("unplug", location, ifname, unplug_tunnel)


@contextmanager
def _opened(wire: Wire) -> Iterator[tuple[OpenPod, OpenPod | None]]:
    """Open the pods of the link: the near one, and for a vEth also the far one."""
    with open_pod(wire.near) as near:
        if not isinstance(wire, VethWire):
            yield near, None
        else:
            with open_pod(wire.far) as far:
                yield near, far


def _observed(near: OpenPod, far: OpenPod | None, *, is_new: bool = False) -> Observed:
    """Observe the opened interfaces; without what this call has just made of a tunnel if it `is_new`."""
    return observe_tunnel(near, is_new=is_new) if far is None else observe_veth(near, far)


def _ensured(
    wire: Wire,
    near: OpenPod,
    far: OpenPod | None,
    search: Sequence[str] = (),
    *,
    evict: bool = True,
    observed: Observed | None = None,
) -> bool:
    if isinstance(wire, VxlanWire):
        return ensure_tunnel(wire, near, search, evict=evict, observed=observed)
    assert isinstance(wire, VethWire) and far is not None  # noqa: S101  # `_opened` has opened both pods of a vEth
    return ensure_veth(wire, near, far)


def _done_to_ours(verb: str, location: Location, ifname: str, do: Callable[[OpenPod, Device], bool]) -> bool:
    """Run `do` on the end's interface and return its result; False if it or its namespace is gone."""
    try:
        with open_pod(_any_interface(location, ifname)) as pod:
            device = device_of(pod.observe())
            if device is None:
                return False
            pod.refuse_foreign(device, verb)
            return do(pod, device)
    except NamespaceGoneError:
        return False


def _any_interface(location: Location, ifname: str) -> InterfaceSpec:
    return InterfaceSpec(location.netns, ifname, addresses=(), mtu=0, cookie=location.cookie, index=location.index)
