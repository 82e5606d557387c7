"""Hypothesis strategies for the objects that Ratchet stores."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Interface, IPv6Interface, ip_network

from hypothesis import strategies as st

from ratchet.core.endpoint_spec import EndpointSpec, Route
from ratchet.core.model import (
    EARLIER_SCHEMA,
    Address,
    Encapsulation,
    End,
    EndError,
    Link,
    ReadyFor,
    Sandbox,
    State,
    Transition,
)
from ratchet.core.naming import record_name
from ratchet.core.pod import PodRef
from ratchet.core.record_updates import REFUSED_KEPT
from ratchet.core.sysctls import ALLOWED

PLAIN = "abcdefghijklmnopqrstuvwxyz0123456789"

dns_labels = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
pod_names = st.lists(dns_labels, min_size=1, max_size=3).map(".".join)
node_names = st.one_of(pod_names, st.text(PLAIN, min_size=200, max_size=253))
meant_names = st.one_of(pod_names, st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", fullmatch=True))
ifnames = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,14}", fullmatch=True)
container_ids = st.text("0123456789abcdef", min_size=1, max_size=64)
uids = st.uuids().map(str)
printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
moments = st.integers(0, 4 * 10**12).map(lambda ms: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms))
vteps = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


@st.composite
def addresses(draw: st.DrawFn) -> Address:
    if draw(st.booleans()):
        return IPv4Interface((draw(st.ip_addresses(v=4)), draw(st.integers(1, 32))))
    return IPv6Interface((draw(st.ip_addresses(v=6)), draw(st.integers(1, 128))))


macs = st.lists(st.integers(0, 255), min_size=6, max_size=6).map(lambda one: ":".join(f"{octet:02x}" for octet in one))
metrics = st.none() | st.integers(1, (1 << 32) - 1)


@st.composite
def routes(draw: st.DrawFn) -> Route:
    ours = draw(st.sampled_from((st.ip_addresses(v=4), st.ip_addresses(v=6))))
    start = draw(ours)
    to = ip_network((start, draw(st.integers(0, start.max_prefixlen))), strict=False)
    return Route(to, draw(st.none() | ours), draw(metrics))


settings = st.tuples(st.sampled_from(sorted(ALLOWED)), st.integers(-(10**9), 10**9))
properties = st.builds(
    EndpointSpec,
    mtu=st.none() | st.integers(68, 65535),
    mac=st.none() | macs,
    txqlen=st.none() | st.integers(0, 10**6),
    routes=st.lists(routes(), max_size=3).map(tuple),
    sysctls=st.lists(settings, max_size=3).map(tuple),
    offloads=st.booleans(),
    rate=st.none() | st.integers(8_000, 10**12),
)
encapsulation = st.builds(Encapsulation, st.booleans(), st.none() | st.integers(1, 65535))


@st.composite
def ends(draw: st.DrawFn, namespace: str) -> End:
    pods = st.builds(PodRef, st.just(namespace), pod_names, uids)
    netns = container_ids.map("/run/netns/{}".format)
    sandboxes = st.builds(
        Sandbox,
        container_ids,
        pods,
        node_names,
        netns,
        vteps,
        underlay_mtu=st.just(0) | st.integers(1, (1 << 31) - 1),
        vteps=st.lists(vteps, max_size=2).map(tuple),
    )
    ready = st.builds(ReadyFor, container_ids, st.one_of(container_ids, vteps), st.integers(1, 9))
    carried = st.sampled_from(("target_pod", "target_container", "public_ip"))
    return End(
        name=draw(meant_names),
        ifname=draw(ifnames),
        addresses=tuple(draw(st.lists(addresses(), max_size=3))),
        properties=draw(properties),
        notes=draw(st.dictionaries(carried, printable.filter(bool))),
        sandbox=draw(st.none() | sandboxes),
        ready=draw(st.none() | ready),
        error=draw(st.none() | st.builds(EndError, moments, printable)),
    )


transitions = st.builds(Transition, moments, st.sampled_from(State), st.sampled_from(State), printable)


def _in_schema(end: End, schema: int) -> End:
    sandbox = end.sandbox.in_schema(schema) if end.sandbox is not None else None
    return replace(end, sandbox=sandbox, error=None if schema == EARLIER_SCHEMA else end.error)


@st.composite
def links(draw: st.DrawFn) -> Link:
    """Records, possible and impossible ones."""
    namespace, schema = draw(dns_labels), draw(st.sampled_from((1, 2)))
    primary, pair = (_in_schema(draw(ends(namespace)), schema) for _ in range(2))
    return Link(
        name=record_name(namespace, (primary.name, primary.ifname), (pair.name, pair.ifname)),
        schema=schema,
        namespace=namespace,
        primary=primary,
        pair=pair,
        encapsulation=draw(encapsulation),
        generation=draw(st.integers(1, 9)),
        vni=draw(st.none() | st.integers(1, (1 << 24) - 1)),
        refused_vnis=tuple(draw(st.lists(st.integers(1, (1 << 24) - 1), max_size=REFUSED_KEPT, unique=True))),
        history=tuple(draw(st.lists(transitions, max_size=4))),
        uid=draw(uids),
        resource_version=draw(st.integers(1, 10**6).map(str)),
    )
