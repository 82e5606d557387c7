"""Look at a wire, make it so, unplug it, take it down: idempotent, safe from several threads at once.

Nothing of a link is kept between calls. "The node" is the calling thread's network namespace; pods are known by the
paths of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from ratchet.core.interface import Device, InterfaceSpec, Observed, VethWire, Wire
from ratchet.core.model import Location
from ratchet.datapath.parse import device_of
from ratchet.datapath.pod_netns import OpenPod, open_pod
from ratchet.datapath.veth import ensure_veth, make_veth, observe_veth
from ratchet.datapath.vxlan import ensure_tunnel, make_tunnel, observe_tunnel, unplug_tunnel
from ratchet.errors import NamespaceGoneError


def observe(wire: Wire) -> Observed:
    """What stands where the wire should.

    Raises NamespaceGoneError, naming the path, if a pod's namespace is not there.
    """
    with _opened(wire) as (near, far):
        return _observed(near, far)


def observe_port(location: Location, ifname: str) -> Device | None:
    """The end's interface, None if there is none; `wired` and `carrier_fixed` are not judged.

    Raises NamespaceGoneError; ForeignInterfaceError where the interface is of Ratchet and belongs to another link.
    """
    with open_pod(_any_interface(location, ifname)) as pod:
        device = device_of(pod.observe())
        if device is not None and device.ours:
            pod.refuse_foreign(device, "look at")
        return device


def ensure(wire: Wire, search: Sequence[str] = ()) -> bool:
    """Have the wire stand; whether anything had to be done for it.

    What is there and right stays as it is; what differs is changed in place where the kernel allows, else made anew.
    Should it fail half-way, what this call has made is taken down again. `search`: further paths of namespaces in
    which a left-over may hold the tunnel's VNI. Raises NamespaceGoneError, HostNamespaceError, ForeignInterfaceError
    (and then has touched nothing), DatapathError with the kernel's reason.
    """
    with _opened(wire) as (near, far):
        return _ensured(wire, near, far, search)


def make(wire: Wire) -> Observed:
    """Make the wire if nothing is in its way, and what stands then; nothing that was there is touched.

    Raises as `ensure` does, but for an interface that is not ours, which is seen.
    """
    with _opened(wire) as (near, far):
        if not isinstance(wire, VethWire):
            make_tunnel(wire, near)
        elif far is not None:
            make_veth(wire, near, far)
        return _observed(near, far)


def build(wire: Wire, *, evict: bool = True) -> Observed:
    """Have the wire stand, as `ensure` does it, and what stands then.

    Raises as `ensure` does, VniInUseError where another tunnel on this node has the VNI and is not to be taken down
    (`evict`), and VniForeignError where that tunnel is not ours.
    """
    with _opened(wire) as (near, far):
        _ensured(wire, near, far, evict=evict)
        return _observed(near, far)


def remove(location: Location, ifname: str) -> bool:
    """Delete the end's interface, and with a vEth its peer; False where it, or the namespace, is gone already.

    Raises ForeignInterfaceError, and leaves it, if it is not ours or another link's; HostNamespaceError.
    """
    return _done_to_ours("remove", location, ifname, lambda pod, device: pod.delete(device.index))


@contextmanager
def removing(location: Location, ifname: str) -> Iterator[None]:
    """Have an interface removed, as `remove` does it, while the block runs; it is gone when that is over.

    The kernel waits some 20 ms until nobody can still be at it, in which something else can be done. Raises as `remove`
    does.
    """
    with ThreadPoolExecutor(1) as helper:
        removal = helper.submit(remove, location, ifname)
        try:
            yield
        finally:
            removal.result()


def unplug(location: Location, ifname: str) -> bool:
    """Take the carrier from the end of a tunnel of ours, as if the cable were pulled; whether anything had to be done.

    False where the interface or the namespace is gone, where there is no tunnel (a vEth's carrier is the kernel's
    business), where it has no carrier already, and where the kernel cannot take it. `ensure` gives it back. Raises
    ForeignInterfaceError if it is not ours or another link's; HostNamespaceError.
    """
    return _done_to_ours("unplug", location, ifname, unplug_tunnel)


@contextmanager
def _opened(wire: Wire) -> Iterator[tuple[OpenPod, OpenPod | None]]:
    """The pods that the wire is in: this node's one, and with a vEth the other."""
    with open_pod(wire.near) as near:
        if not isinstance(wire, VethWire):
            yield near, None
        else:
            with open_pod(wire.far) as far:
                yield near, far


def _observed(near: OpenPod, far: OpenPod | None) -> Observed:
    return observe_tunnel(near) if far is None else observe_veth(near, far)


def _ensured(wire: Wire, near: OpenPod, far: OpenPod | None, search: Sequence[str] = (), *, evict: bool = True) -> bool:
    if not isinstance(wire, VethWire):
        return ensure_tunnel(wire, near, search, evict=evict)
    assert far is not None  # noqa: S101  # a vEth was opened at both ends
    return ensure_veth(wire, near, far)


def _done_to_ours(verb: str, location: Location, ifname: str, do: Callable[[OpenPod, Device], bool]) -> bool:
    """Whether `do` had anything to do to the end's interface; False where it, or the namespace, is gone."""
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
