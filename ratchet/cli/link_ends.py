"""What happens to the ends of links if declarations change: which are taken, kept and removed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum

from ratchet.cli.declarations import Declarations
from ratchet.cli.topology_faults import topology_faults
from ratchet.core.drift import NOT_DECLARED
from ratchet.core.intent import WantedLink, absence, asks_for_links, names_of
from ratchet.core.kinds import Wiring
from ratchet.core.model import SIDES, Link, Side
from ratchet.core.pod import Pod, PodRef


class Obstacle(IntEnum):
    """Why an end is not made at once. Of a link's obstacles, the greatest decides."""

    ABSENT = 0  # its pod does not run
    RUNNING = 1  # its pod has to restart
    REJECTED = 2  # its pod cannot start


class LinkEnds:
    """The ends of a namespace's links, in its pods and records.

    `before` and `after` are the declarations now and after the change. Of `found`, the records of the namespace,
    `records` has those with a sandbox, by name.
    """

    def __init__(self, before: Declarations, after: Declarations, found: Iterable[Link]) -> None:
        self.records = {one.name: one for one in found if not one.abandoned}
        self._after = after
        self._earlier = {name: one for one in before.wanted.links for name in one.record_names()}
        self._wanted = {name for one in after.wanted.links for name in one.record_names()}
        self._pods = {pod.ref.name: pod for pod in before.pods}
        # The ends of pods that exist: a record can have the sandbox of an earlier pod for a while.
        self._held = {
            (pod.ref.name, record.end(side).ifname): (record, side)
            for record in self.records.values()
            for side in SIDES
            if (pod := self._pod_at(record, side)) is not None
        }
        self._networked = {name for name, _ in self._held}
        self._was_rejected, self._rejected = _Rejections(before), _Rejections(after)

    def earlier(self, one: WantedLink) -> WantedLink | None:
        """The link as declared before, None if it was not."""
        return next((self._earlier[name] for name in sorted(one.record_names()) if name in self._earlier), None)

    def rejection(self, link: Link) -> str | None:
        """The error of a declaration that may declare a link; None if there is none. Agents do not remove it then."""
        return self._rejected.of_link(link)

    def declares_itself(self, record: Link, side: Side, earlier: WantedLink | None) -> bool:
        """Whether the pod at this end has declared the link itself, so that it is fixed while the pod runs."""
        pod = self._pod_at(record, side)
        return pod is not None and earlier is not None and earlier.is_declared_by(pod)

    # Ends to be made

    def obstacle(self, one: WantedLink, side: Side) -> tuple[Obstacle, str] | None:
        """Why an end of a declared link is not made at once, in words; None if it is."""
        name, ifname = one.endpoint(side)
        pod, running = one.pod(side), self._pods.get(name)
        if pod is None:
            why = absence(name, self._after.pods, ifname)
            return Obstacle.ABSENT, f"when pod {name} starts: {why}"
        if pod.host_network:
            return Obstacle.REJECTED, f"cannot link pod {pod.ref}: it uses the host's network"
        if running is None or not self._has_started(running):
            if (error := self._after.wanted.refused.get(pod.ref.uid)) is not None:
                return Obstacle.REJECTED, str(error)
            return Obstacle.ABSENT, f"when pod {name} starts"
        if not asks_for_links(running):
            return Obstacle.RUNNING, _restart([pod.ref], 'it has started without ratchet: "true"')
        if not one.is_declared_by_others(pod):
            return Obstacle.RUNNING, _restart([pod.ref], "it declares the link itself")
        held = self._held_by_another(one, side)
        if held is not None and held[1] not in self.removed(held[0]):
            return Obstacle.RUNNING, _restart([pod.ref], f"{ifname} belongs to link {held[0].name}")
        return None

    def moves(self, one: WantedLink, sides: Iterable[Side]) -> tuple[str, ...]:
        """The running interfaces of a link to be made that lead to other peers now, in words."""
        found = []
        for side in sides:
            held = self._held_by_another(one, side)
            if held is not None and self.obstacle(one, side) is None:
                (name, ifname), (record, at) = one.endpoint(side), held
                new, old = one.endpoint(side.other), self._endpoint(record, at.other)
                words = f"leads to {':'.join(new)} instead of {':'.join(old)}, and {self._interface_after(record, one)}"
                found.append(f"{ifname} of pod {name} {words}")
        return tuple(found)

    def _interface_after(self, record: Link, new: WantedLink) -> str:
        """What happens to the interface of an end that a new link takes, in words. A cable can be handed over."""
        earlier = self._earlier.get(record.name)
        wiring = new.effective_wiring(Wiring.PANEL)  # the default of the node is unknown here
        if record.wiring is Wiring.DIRECT or wiring is Wiring.DIRECT or earlier is None or not earlier.live:
            return "its interface is replaced"
        if new.wiring is None and earlier.wiring is not None:
            return "its interface stays if panel wiring is the default of its node, else it is replaced"
        return "its interface stays"

    def _held_by_another(self, one: WantedLink, side: Side) -> tuple[Link, Side] | None:
        """The end of another link that has this interface of the running pod."""
        held = self._held.get(one.endpoint(side))
        return None if held is None or held[0].name in one.record_names() else held

    def _has_started(self, pod: Pod) -> bool:
        return pod.phase == "Running" or pod.networked is not None or pod.ref.name in self._networked

    # Ends to be removed

    def removed(self, record: Link) -> frozenset[Side]:
        """The ends of a link that agents remove from running pods because nothing declares it any more.

        An end goes if a topology has declared it that running pods follow, or once the other end is gone. What a pod
        has declared itself stays.
        """
        if record.name in self._wanted or self.rejection(record) is not None:
            return frozenset()
        earlier = self._earlier.get(record.name)
        # Of a declaration that was rejected, nothing else is known.
        live = earlier.live if earlier is not None else self._was_rejected.of_link(record) is not None
        held = [side for side in SIDES if record.sandbox(side) is not None]
        if not live and len(held) == 2:
            return frozenset()
        return frozenset(side for side in held if not self.declares_itself(record, side, earlier))

    def removal(self, record: Link, side: Side) -> str:
        """What happens to a removed end, in words."""
        name, ifname = self._endpoint(record, side)
        pod = self._pod_at(record, side)
        own = self._after.wanted.ends_of(pod) if pod is not None else ()
        taken = (one.link.name for one, at in own if one.link.end(at).ifname == ifname and not self.obstacle(one, at))
        heir = next(taken, None)
        return f"{ifname} of pod {name} {f'goes to link {heir}' if heir else 'is removed'}"

    def ending(self, record: Link, kept: Sequence[Side], earlier: WantedLink | None) -> str:
        """What ends the kept ends of an undeclared link: a restart of the pods that declared it, else of either pod."""
        declaring = [side for side in kept if self.declares_itself(record, side, earlier)]
        return _restart([ref for side in declaring or kept if (ref := _ref(record, side))], NOT_DECLARED)

    def _pod_at(self, record: Link, side: Side) -> Pod | None:
        """The pod whose sandbox is at this end, as it is now."""
        ref = _ref(record, side)
        pod = self._pods.get(ref.name) if ref is not None else None
        return pod if pod is not None and ref is not None and pod.ref.is_same_pod(ref) else None

    def _endpoint(self, record: Link, side: Side) -> tuple[str, str]:
        ref, end = _ref(record, side), record.end(side)
        return (ref.name if ref is not None else end.name), end.ifname


class _Rejections:
    """The errors of rejected declarations, by the pods' names."""

    def __init__(self, declarations: Declarations) -> None:
        refused = declarations.wanted.refused
        self._by_name = {
            name: str(refused[pod.ref.uid])
            for pod in declarations.pods
            if pod.ref.uid in refused
            for name in names_of(pod)
        }
        # A topology whose pods cannot be read may declare a link of any pod.
        self._unread = next((str(one) for one in topology_faults(declarations.topologies) if one.names is None), None)

    def of_link(self, link: Link) -> str | None:
        """The error that may concern the pods of a link."""
        sandboxes = [one for one in map(link.sandbox, SIDES) if one is not None]
        names = {link.primary.name, link.pair.name} | {one.pod.name for one in sandboxes}
        return next((self._by_name[name] for name in sorted(names) if name in self._by_name), self._unread)


def restart_of(record: Link, side: Side, words: Sequence[str]) -> str:
    """The message that an edit waits for a restart of the pod at this end."""
    ref = _ref(record, side)
    return _restart([ref] if ref is not None else [], "; ".join(words))


def _restart(pods: Iterable[PodRef], why: str) -> str:
    return f"wants a restart of pod {' or pod '.join(map(str, pods))}: {why}"


def _ref(record: Link, side: Side) -> PodRef | None:
    sandbox = record.sandbox(side)
    return sandbox.pod if sandbox is not None else None


def side_in(one: WantedLink, record: Link, side: Side) -> Side:
    """The side of a declared link that is `side` in the record, which can have the roles the other way round."""
    return side if one.link.oriented_as(record) is one.link else side.other
