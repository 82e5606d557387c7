"""From the pods' labels and annotations to the links that they want. All of it is tenants' input.

The wanted links are a function of the pods of a namespace alone: either end computes the same, in whatever order the
pods come. What a pod may not ask for is refused with an error that names the pod and the label.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Interface, ip_address, ip_interface

from ratchet.core.model import Address, End, Link, Pod, PodRef, Side
from ratchet.core.naming import record_name
from ratchet.errors import InvalidIntentError

ENABLED = "ratchet"
POD_NAME = "ratchet.pod_name"
PRIMARY = "ratchet.primary"
PAIR_NAME = "ratchet.pair_name"
LOCAL_IFNAME, LOCAL_IP, LOCAL_PREFIX = "ratchet.local_ifname", "ratchet.local_ip", "ratchet.local_prefix"
PAIR_IFNAME, PAIR_IP, PAIR_PREFIX = "ratchet.pair_ifname", "ratchet.pair_ip", "ratchet.pair_prefix"
WAIT = "ratchet.wait"
CARRIED = ("ratchet.target_pod", "ratchet.target_container", "ratchet.public_ip")

KNOWN = frozenset(
    {ENABLED, POD_NAME, PRIMARY, PAIR_NAME, WAIT, *CARRIED}
    | {LOCAL_IFNAME, LOCAL_IP, LOCAL_PREFIX, PAIR_IFNAME, PAIR_IP, PAIR_PREFIX}
)

ADDRESSES_MAX = 16
# The kubelet gives a sandbox four minutes, in which the delegates and the way back need their share.
WAIT_MAX_SECONDS = 150.0
_DEFAULT_PREFIX = {4: 24, 6: 64}
_IFNAME = re.compile(r"[a-z][a-z0-9_.-]{0,14}")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,251}[A-Za-z0-9])?")
_SECONDS = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3})?")
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class WantedLink:
    """A link as its primary declares it; `pair` is None while no eligible pod answers to the name."""

    link: Link
    primary: Pod
    pair: Pod | None

    def pod(self, side: Side) -> Pod | None:
        return self.primary if side is Side.PRIMARY else self.pair


@dataclass(frozen=True, slots=True)
class Wanted:
    """The wanted links of a namespace, and for each pod whose declaration was refused why."""

    links: tuple[WantedLink, ...]
    refused: Mapping[str, InvalidIntentError]
    _ends: Mapping[PodRef, list[tuple[WantedLink, Side]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ends: dict[PodRef, list[tuple[WantedLink, Side]]] = {}
        for wanted in self.links:
            for side in Side:
                if (holder := wanted.pod(side)) is not None:
                    ends.setdefault(holder.ref, []).append((wanted, side))
        object.__setattr__(self, "_ends", ends)

    def ends_of(self, pod: Pod) -> tuple[tuple[WantedLink, Side], ...]:
        """The ends that are this pod's, in the order of the links' names."""
        return tuple(self._ends.get(pod.ref, ()))


# What pods were read to declare, by pod: the pod as it was then, and its link, or why it was refused.
Declarations = dict[PodRef, tuple[Pod, Link | InvalidIntentError | None]]


def setting(pod: Pod, key: str) -> str | None:
    """What the pod says under `key`: the annotation where there is one, else the label."""
    return pod.annotations.get(key, pod.labels.get(key))


def asks_for_links(pod: Pod) -> bool:
    """`ratchet: "true"`, in any case. In 2017 the label's mere presence was enough."""
    return (setting(pod, ENABLED) or "").strip().lower() == "true"


def meant_name(pod: Pod) -> str:
    """The name by which other pods mean this one."""
    return setting(pod, POD_NAME) or pod.ref.name


def is_primary(pod: Pod) -> bool | None:
    """True: it declares a link. False: it expects to be named by another. None: it takes what names it.

    Raises InvalidIntentError for any other word.
    """
    said = setting(pod, PRIMARY)
    if said is None:
        return None
    words = {"true": True, "false": False}
    if said.strip().lower() not in words:
        raise _refusal(pod, PRIMARY, f'"{_shown(said)}" is neither "true" nor "false"')
    return words[said.strip().lower()]


def wait_of(pod: Pod) -> float | None:
    """For how many seconds the pod's start may be held for its peers; None where it does not say.

    Raises InvalidIntentError for what is no number of seconds between 0 and 150: kubelets give up at 240.
    """
    said = setting(pod, WAIT)
    if said is None:
        return None
    if not _SECONDS.fullmatch(said.strip()) or float(said) > WAIT_MAX_SECONDS:
        raise _refusal(pod, WAIT, f'"{_shown(said)}" is not a number of seconds from 0 to {WAIT_MAX_SECONDS:.0f}')
    return float(said)


def wanted_links(
    pods: Iterable[Pod], reserved: Collection[str] = ("eth0",), read: Declarations | None = None
) -> Wanted:
    """The links that the pods of one namespace want, whatever the order of `pods`.

    Where several pods answer to one name (a Deployment that is being rolled) the newest that is not being deleted
    has it. Where two links want one interface of a pod, the older primary's has it and the other is refused.
    `reserved` are interface names that belong to the runtime, `lo` always among them. Whoever asks again and again,
    with the same `reserved`, gives the same `read` each time.
    """
    eligible = sorted((pod for pod in pods if asks_for_links(pod) and not pod.finished), key=_seniority)
    holders = _holders(eligible)
    declarations = _declarations(eligible, {*reserved, "lo"}, {} if read is None else read)
    refused: dict[str, InvalidIntentError] = {}
    declared: dict[str, WantedLink] = {}
    for pod, link in declarations:
        if isinstance(link, InvalidIntentError):
            refused[pod.ref.uid] = link
        elif link is not None and holders[meant_name(pod)].ref == pod.ref:
            pair = holders.get(link.pair.name)
            if pair is not None and pair.ref == pod.ref:
                refused[pod.ref.uid] = _refusal(pod, PAIR_NAME, "a pod cannot be linked to itself")
            else:
                declared[link.name] = WantedLink(link, pod, pair)
    return Wanted(tuple(sorted(_without_collisions(declared.values(), refused), key=_record)), refused)


def unknown_settings(pod: Pod) -> tuple[str, ...]:
    """Labels and annotations under `ratchet.` that mean nothing to us: most likely misspelt."""
    said = {*pod.labels, *pod.annotations}
    return tuple(sorted(key for key in said if key.startswith("ratchet.") and key not in KNOWN))


def superseding(pod: Pod, pods: Iterable[Pod]) -> Pod | None:
    """The pod that has taken this one's name, if one has."""
    holder = _holder(meant_name(pod), pods)
    return holder if holder is not None and holder.ref != pod.ref else None


def _declarations(
    pods: Iterable[Pod], reserved: Collection[str], read: Declarations
) -> Iterable[tuple[Pod, Link | InvalidIntentError | None]]:
    """What each pod declares; of a pod that is the very same as when it was read before, what it was read as then."""
    before = dict(read)
    read.clear()
    for pod in pods:
        known = before.get(pod.ref)
        read[pod.ref] = known if known is not None and known[0] is pod else (pod, _declaration(pod, reserved))
    return list(read.values())


def _declaration(pod: Pod, reserved: Collection[str]) -> Link | InvalidIntentError | None:
    try:
        return _declared_link(pod, reserved)
    except InvalidIntentError as error:
        return error


def _declared_link(pod: Pod, reserved: Collection[str]) -> Link | None:
    name = _pod_name(pod, POD_NAME, meant_name(pod))
    if not is_primary(pod):
        return None
    pair = _pod_name(pod, PAIR_NAME, setting(pod, PAIR_NAME))
    if pair == name:
        raise _refusal(pod, PAIR_NAME, "a pod cannot be linked to itself")
    local_ifname = _ifname(pod, LOCAL_IFNAME, reserved)
    pair_ifname = _ifname(pod, PAIR_IFNAME, reserved)
    local = _addresses(pod, LOCAL_IP, LOCAL_PREFIX)
    remote = _addresses(pod, PAIR_IP, PAIR_PREFIX)
    if twice := {one.ip for one in local} & {one.ip for one in remote}:
        raise _refusal(pod, PAIR_IP, f"{min(map(str, twice))} is the other end's address too ({LOCAL_IP})")
    return Link(
        name=record_name(pod.ref.namespace, name, local_ifname, pair, pair_ifname),
        namespace=pod.ref.namespace,
        primary=End(name, local_ifname, local, _carried(pod)),
        pair=End(pair, pair_ifname, remote),
    )


def _without_collisions(links: Iterable[WantedLink], refused: dict[str, InvalidIntentError]) -> Iterable[WantedLink]:
    """The links in order of their primaries' age, less those that want what an older one has."""
    taken: dict[tuple[str, str], WantedLink] = {}
    for wanted in sorted(links, key=lambda one: _seniority(one.primary)):
        claims = [(_answering(wanted, side), wanted.link.end(side).ifname) for side in Side]
        if clash := next((claim for claim in claims if claim in taken), None):
            mine = LOCAL_IFNAME if clash == claims[0] else PAIR_IFNAME
            cause = f"{clash[1]} in pod {clash[0]} is taken by the link {taken[clash].link.name}"
            refused[wanted.primary.ref.uid] = _refusal(wanted.primary, mine, cause)
            continue
        taken.update(dict.fromkeys(claims, wanted))
        yield wanted


def _answering(wanted: WantedLink, side: Side) -> str:
    pod = wanted.pod(side)
    return pod.ref.name if pod else wanted.link.end(side).name


def _called(name: str, pods: Iterable[Pod]) -> list[Pod]:
    return [pod for pod in pods if name in (pod.ref.name, meant_name(pod))]


def _holder(name: str, pods: Iterable[Pod]) -> Pod | None:
    """The pod that a name means, if there is one."""
    return _holders(pod for pod in _called(name, pods) if asks_for_links(pod) and not pod.finished).get(name)


def _holders(eligible: Iterable[Pod]) -> dict[str, Pod]:
    """For each name the pod that it means: of those that answer to it, the newest that is not being deleted."""
    holders: dict[str, Pod] = {}
    for pod in eligible:
        for name in {meant_name(pod), pod.ref.name}:
            holder = holders.get(name)
            if holder is None or _precedence(holder) < _precedence(pod):
                holders[name] = pod
    return holders


def _precedence(pod: Pod) -> tuple[bool, tuple[datetime, str, str]]:
    return (not pod.deleting, _seniority(pod))


def _seniority(pod: Pod) -> tuple[datetime, str, str]:
    return (pod.created or _LONG_AGO, pod.ref.name, pod.ref.uid)


def _record(wanted: WantedLink) -> str:
    return wanted.link.name


def _carried(pod: Pod) -> Mapping[str, str]:
    said = {key.removeprefix("ratchet."): setting(pod, key) for key in CARRIED}
    return {key: _shown(value) for key, value in said.items() if value}


def _pod_name(pod: Pod, key: str, value: str | None) -> str:
    if not value:
        raise _refusal(pod, key, "it is missing")
    if not _NAME.fullmatch(value):
        raise _refusal(pod, key, f'"{_shown(value)}" is not a name')
    return value


def _ifname(pod: Pod, key: str, reserved: Collection[str]) -> str:
    value = setting(pod, key)
    if not value:
        raise _refusal(pod, key, "it is missing")
    if not _IFNAME.fullmatch(value):
        raise _refusal(pod, key, f'"{_shown(value)}" is no interface name (a-z, then up to 14 of a-z 0-9 _ . -)')
    if value in reserved:
        raise _refusal(pod, key, f"{value} belongs to the runtime")
    if value in ("all", "default"):
        raise _refusal(pod, key, f"the kernel keeps the name {value} for itself")
    return value


def _addresses(pod: Pod, key: str, prefix_key: str) -> tuple[Address, ...]:
    """The addresses under `key`, a comma between them; the prefix is the address's own, else the label's, else /24."""
    said = setting(pod, key)
    if said is None:
        return ()
    words = [word.strip() for word in said.split(",")]
    if len(words) > ADDRESSES_MAX:
        raise _refusal(pod, key, f"{len(words)} addresses are more than {ADDRESSES_MAX}")
    addresses = tuple(_address(pod, key, word, _prefix(pod, prefix_key)) for word in words)
    if len({address.ip for address in addresses}) < len(addresses):
        raise _refusal(pod, key, "an address is there twice")
    return addresses


def _address(pod: Pod, key: str, word: str, prefix: int | None) -> Address:
    try:
        if "/" in word:
            address = ip_interface(word)
        else:
            plain = ip_address(word)
            address = ip_interface((plain, _DEFAULT_PREFIX[plain.version] if prefix is None else prefix))
    except ValueError as cause:
        raise _refusal(pod, key, f'"{_shown(word)}" is no address: {_shown(str(cause))}') from cause
    bare = address.ip  # an IPv6Interface is asked about its whole network where its address is meant
    if "%" in word or bare.is_unspecified or bare.is_multicast or bare.is_loopback or not address.network.prefixlen:
        raise _refusal(pod, key, f"{_shown(word)} is not an address that an interface can have")
    if isinstance(address, IPv4Interface) and address.network.prefixlen < 31:
        edges = (address.network.network_address, address.network.broadcast_address)
        if address.ip in edges:
            raise _refusal(pod, key, f"{address} is its network's own or broadcast address")
    return address


def _prefix(pod: Pod, key: str) -> int | None:
    said = setting(pod, key)
    if said is None:
        return None
    if not re.fullmatch(r"[0-9]{1,3}", said) or not 1 <= int(said) <= 128:
        raise _refusal(pod, key, f'"{_shown(said)}" is no prefix length')
    return int(said)


def _refusal(pod: Pod, key: str, cause: str) -> InvalidIntentError:
    return InvalidIntentError(
        f"cannot link pod {pod.ref}: {key}: {cause}", details=f"mend the label or annotation {key} of pod {pod.ref}"
    )


def _shown(value: str) -> str:
    """Tenants' text made fit to print: escaped where it is not printable ASCII, and not long."""
    escaped = value.encode("unicode_escape").decode("ascii")
    return escaped if len(escaped) <= 80 else f"{escaped[:77]}..."


def absence(name: str, pods: Iterable[Pod], ifname: str) -> str:
    """Why the pod that is meant by `name` has not joined its end of a link yet, in words for a person."""
    called = _called(name, pods)
    pod = _holder(name, called)
    if pod is None:
        if not called:
            return "there is no such pod"
        other = called[0]
        return f"it is {other.phase}" if asks_for_links(other) else f'it is not labelled {ENABLED}: "true"'
    if pod.deleting:
        return "it is being deleted"
    if not pod.node:
        return "it is not scheduled"
    return f"it is scheduled on {pod.node} and its {ifname} has not been asked for yet"
