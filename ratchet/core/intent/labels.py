"""The link that a pod's labels declare, as in 2017. An annotation overrides the label of its name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from ratchet.core.endpoint_spec import Address
from ratchet.core.escape import excerpt
from ratchet.core.intent import values
from ratchet.core.intent.declared import DeclaredLink
from ratchet.core.intent.pods import POD_NAME, is_primary, meant_name, refusal, setting
from ratchet.core.model import End, Link
from ratchet.core.naming import ordered_record_name
from ratchet.core.pod import Pod

PAIR_NAME = "ratchet.pair_name"
LOCAL_IFNAME, LOCAL_IP, LOCAL_PREFIX = "ratchet.local_ifname", "ratchet.local_ip", "ratchet.local_prefix"
PAIR_IFNAME, PAIR_IP, PAIR_PREFIX = "ratchet.pair_ifname", "ratchet.pair_ip", "ratchet.pair_prefix"
WIRING = "ratchet.wiring"
CARRIED = ("ratchet.target_pod", "ratchet.target_container", "ratchet.public_ip")
KEYS = (PAIR_NAME, LOCAL_IFNAME, LOCAL_IP, LOCAL_PREFIX, PAIR_IFNAME, PAIR_IP, PAIR_PREFIX, WIRING, *CARRIED)

Value = TypeVar("Value")


def labelled_link(pod: Pod, reserved: Collection[str]) -> DeclaredLink | None:
    """The link that the pod's labels declare, None if they declare none. Raises InvalidIntentError."""
    name = _needed(pod, POD_NAME, meant_name(pod), values.pod_name)
    if not is_primary(pod):
        return None
    pair = _needed(pod, PAIR_NAME, setting(pod, PAIR_NAME), values.pod_name)
    if pair == name:
        raise refusal(pod, PAIR_NAME, "a pod cannot be linked to itself")
    local_ifname, pair_ifname = (
        _needed(pod, key, setting(pod, key), lambda text: values.interface_name(text, reserved))
        for key in (LOCAL_IFNAME, PAIR_IFNAME)
    )
    local = _addresses(pod, LOCAL_IP, LOCAL_PREFIX)
    remote = _addresses(pod, PAIR_IP, PAIR_PREFIX)
    if twice := {one.ip for one in local} & {one.ip for one in remote}:
        raise refusal(pod, PAIR_IP, f"{min(map(str, twice))} is also an address of the other end ({LOCAL_IP})")
    wiring = setting(pod, WIRING)
    link = Link(
        name=ordered_record_name(pod.ref.namespace, (name, local_ifname), (pair, pair_ifname)),
        namespace=pod.ref.namespace,
        primary=End(name, local_ifname, local, notes=_carried(pod)),
        pair=End(pair, pair_ifname, remote),
    )
    return DeclaredLink("", link, None if wiring is None else _read(pod, WIRING, wiring, values.wiring))


def _carried(pod: Pod) -> Mapping[str, str]:
    found = {key.removeprefix("ratchet."): setting(pod, key) for key in CARRIED}
    return {key: excerpt(value) for key, value in found.items() if value}


def _needed(pod: Pod, key: str, text: str | None, read: Callable[[str], Value]) -> Value:
    if not text:
        raise refusal(pod, key, "it is missing")
    return _read(pod, key, text, read)


def _read(pod: Pod, key: str, text: str, read: Callable[[str], Value]) -> Value:
    try:
        return read(text)
    except ValueError as cause:
        raise refusal(pod, key, cause) from cause


def _addresses(pod: Pod, key: str, prefix_key: str) -> tuple[Address, ...]:
    """The comma-separated addresses of `key`. The prefix is the address's own, else the label's, else /24."""
    text, prefix_text = setting(pod, key), setting(pod, prefix_key)
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",")]
    plain = any("/" not in word for word in words)
    prefix = _read(pod, prefix_key, prefix_text, values.prefix_length) if plain and prefix_text is not None else None
    return _read(pod, key, text, lambda _: values.addresses(words, prefix))
