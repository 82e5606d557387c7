"""Hypothesis strategies for the objects that Ratchet stores.

They are made once, from texts and integers. To make a strategy for each example, or from a regular expression, takes
several times the CPU of the code under test.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Interface, IPv6Interface, ip_network
from string import ascii_letters, ascii_lowercase, digits
from typing import Any

from hypothesis import strategies as st

from ratchet.core.endpoint_spec import Address, EndpointSpec, Route
from ratchet.core.kinds import Wiring
from ratchet.core.model import Encapsulation, End, EndError, Link, ReadyFor, State, Transition
from ratchet.core.naming import record_name
from ratchet.core.pod import PodRef
from ratchet.core.record_updates import REFUSED_KEPT
from ratchet.core.sandbox import Sandbox
from ratchet.core.schemas import CURRENT_SCHEMA, EARLIER_SCHEMA, PANEL_SCHEMA
from ratchet.core.sysctls import ALLOWED

PLAIN = ascii_lowercase + digits


def _words(alphabet: str, edges: str, most: int) -> st.SearchStrategy[str]:
    """Texts of 1 to `most` characters of both alphabets, with one of `edges` at each end."""

    def with_edges(text: str) -> str:
        first, last = (edge if edge in edges else edges[0] for edge in (text[0], text[-1]))
        return first + text[1:-1] + last if len(text) > 1 else first

    return st.text(edges + alphabet, min_size=1, max_size=most).map(with_edges)


dns_labels = _words("-", PLAIN, 63)
pod_names = st.lists(dns_labels, min_size=1, max_size=3).map(".".join)
node_names = st.one_of(pod_names, st.text(PLAIN, min_size=200, max_size=253))
meant_names = st.one_of(pod_names, _words("-_.", PLAIN + PLAIN.upper(), 63))
ifnames = st.builds(str.__add__, st.sampled_from(ascii_letters), st.text(f"{ascii_letters}{digits}_.-", max_size=14))
container_ids = st.text("0123456789abcdef", min_size=1, max_size=64)
uids = st.uuids().map(str)
PRINTABLE = st.characters(min_codepoint=32, max_codepoint=126)
printable = st.text(PRINTABLE, max_size=60)
moments = st.integers(0, 4 * 10**12).map(lambda ms: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms))
ipv4, ipv6 = st.ip_addresses(v=4), st.ip_addresses(v=6)
vteps = st.one_of(ipv4, ipv6).map(str)
addresses: st.SearchStrategy[Address] = st.one_of(
    st.tuples(ipv4, st.integers(1, 32)).map(IPv4Interface), st.tuples(ipv6, st.integers(1, 128)).map(IPv6Interface)
)
macs = st.binary(min_size=6, max_size=6).map(lambda one: one.hex(":"))
metrics = st.none() | st.integers(1, (1 << 32) - 1)


def _routes(family: st.SearchStrategy[Any], bits: int) -> st.SearchStrategy[Route]:
    networks = st.tuples(family, st.integers(0, bits)).map(lambda pair: ip_network(pair, strict=False))
    return st.builds(Route, networks, st.none() | family, metrics)


routes = st.one_of(_routes(ipv4, 32), _routes(ipv6, 128))
settings = st.tuples(st.sampled_from(sorted(ALLOWED)), st.integers(-(10**9), 10**9))
properties = st.builds(
    EndpointSpec,
    mtu=st.none() | st.integers(68, 65535),
    mac=st.none() | macs,
    txqlen=st.none() | st.integers(0, 10**6),
    routes=st.lists(routes, max_size=3).map(tuple),
    sysctls=st.lists(settings, max_size=3).map(tuple),
    offloads=st.booleans(),
    rate=st.none() | st.integers(8_000, 10**12),
)
encapsulation = st.builds(Encapsulation, st.booleans(), st.none() | st.integers(1, 65535))


ANY_NAMESPACE = "namespace"
sandboxes = st.builds(
    Sandbox,
    container_ids,
    st.builds(PodRef, st.just(ANY_NAMESPACE), pod_names, uids),
    node_names,
    container_ids.map("/run/netns/{}".format),
    vteps,
    underlay_mtu=st.just(0) | st.integers(1, (1 << 31) - 1),
    vteps=st.lists(vteps, max_size=2).map(tuple),
)
ends = st.builds(
    End,
    name=meant_names,
    ifname=ifnames,
    addresses=st.lists(addresses, max_size=3).map(tuple),
    properties=properties,
    notes=st.dictionaries(
        st.sampled_from(("target_pod", "target_container", "public_ip")), st.text(PRINTABLE, min_size=1, max_size=60)
    ),
    sandbox=st.none() | sandboxes,
    ready=st.none() | st.builds(ReadyFor, container_ids, st.one_of(container_ids, vteps), st.integers(1, 9)),
    error=st.none() | st.builds(EndError, moments, printable),
)
transitions = st.builds(Transition, moments, st.sampled_from(State), st.sampled_from(State), printable)


def _as_stored(end: End, namespace: str, schema: int) -> End:
    """An end as a record of this namespace and schema has it."""
    sandbox = end.sandbox
    if sandbox is not None:
        pod = replace(sandbox.pod, namespace=namespace)
        sandbox = replace(sandbox, pod=pod).in_schema(schema)
    return replace(end, sandbox=sandbox, error=None if schema == EARLIER_SCHEMA else end.error)


def _link(namespace: str, schema: int, primary: End, pair: End, **fields: Any) -> Link:
    primary, pair = (_as_stored(end, namespace, schema) for end in (primary, pair))
    name = record_name(namespace, (primary.name, primary.ifname), (pair.name, pair.ifname))
    wiring = Wiring.PANEL if schema == PANEL_SCHEMA else Wiring.DIRECT
    return Link(name=name, schema=schema, namespace=namespace, primary=primary, pair=pair, wiring=wiring, **fields)


vnis = st.integers(1, (1 << 24) - 1)
# Records, possible and impossible ones.
links = st.builds(
    _link,
    dns_labels,
    st.sampled_from((EARLIER_SCHEMA, CURRENT_SCHEMA, PANEL_SCHEMA)),
    ends,
    ends,
    encapsulation=encapsulation,
    generation=st.integers(1, 9),
    vni=st.none() | vnis,
    refused_vnis=st.lists(vnis, max_size=REFUSED_KEPT, unique=True).map(tuple),
    history=st.lists(transitions, max_size=4).map(tuple),
    uid=uids,
    resource_version=st.integers(1, 10**6).map(str),
)
