"""Links as ConfigMaps and VNIs as Leases, and back; what cannot be read says which record and which key."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchet.core import shared
from ratchet.core.endpoint_spec import EndpointSpec, Route
from ratchet.core.garbage import VniLease, orphaned_links
from ratchet.core.heartbeat import NodeLease
from ratchet.core.model import (
    CURRENT_SCHEMA,
    EARLIER_SCHEMA,
    MIRROR_ANNOTATION,
    Encapsulation,
    Link,
    Pod,
    PodRef,
    Side,
    State,
    Transition,
)
from ratchet.core.naming import NODE_LABEL
from ratchet.core.record_updates import join, leave, mark_ready, with_vni
from ratchet.core.shared import shared_address
from ratchet.core.state_machine import derive
from ratchet.errors import MalformedRecordError, NewerRecordError
from ratchet.store.codec import Json, decode_time
from ratchet.store.codec.leases import (
    decode_node_lease,
    decode_vni_lease,
    encode_node_lease,
    encode_vni_lease,
    lease_labels_patch,
)
from ratchet.store.codec.links import decode_link, encode_link, leave_patch, link_patch, record_vni, stored_link
from ratchet.store.codec.pods import decode_pod
from tests.support.links import NOW, RECORD, joined, later, own, standing, veth, vxlan, wanted
from tests.support.strategies import links

KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def stored(link: Link, **metadata: str) -> Json:
    """The ConfigMap as the API server gives it back."""
    config_map = encode_link(link)
    config_map["metadata"] |= {"uid": link.uid, "resourceVersion": link.resource_version} | metadata
    parsed: Json = json.loads(json.dumps(config_map))
    return parsed


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def full() -> Link:
    """A tunnel that stands, through the moves that lead there."""
    link = join(None, wanted(), Side.PAIR, own(Side.PAIR, "node-b"), NOW)
    link = join(link, wanted(), Side.PRIMARY, own(Side.PRIMARY), later(1.25))
    link = with_vni(link, 11)
    for side in Side:
        link = mark_ready(link, side, later(2))
    return replace(link, primary=replace(link.primary, notes={"public_ip": "1.1.1.1"}), uid="u", resource_version="7")


def test_a_record_reads_like_a_form() -> None:
    config_map = encode_link(full())
    assert config_map["metadata"] == {
        "name": RECORD,
        "labels": {
            "app.kubernetes.io/managed-by": "ratchet",
            "ratchet.state": "linked",
            "ratchet.schema": "2",
            "ratchet.kind": "vxlan",
            "ratchet.vni": "11",
            "node.ratchet/node-a": "",
            "node.ratchet/node-b": "",
            "pod.ratchet/default.primary-pod": "",
            "pod.ratchet/default.pair-pod": "",
        },
    }
    assert config_map["data"] == {
        "schema": "2",
        "minReader": "2",
        "primary": "b",
        "state": "linked",
        "kind": "vxlan",
        "vni": "11",
        "namespace": "default",
        "generation": "1",
        "observedGeneration": "1",
        "b.name": "primary-pod",
        "b.ifname": "in1",
        "b.addresses": "192.168.2.100/24",
        "b.public_ip": "1.1.1.1",
        "b.pod": "primary-pod",
        "b.uid": "primary-pod-uid1",
        "b.node": "node-a",
        "b.vtep": "192.168.1.73",
        "b.sandbox": "primary-pod-c1",
        "b.netns": "/run/netns/primary-pod-1",
        "b.ready": "primary-pod-c1 peer 192.168.1.33 generation 1",
        "a.name": "pair-pod",
        "a.ifname": "in2",
        "a.addresses": "192.168.2.101/24",
        "a.pod": "pair-pod",
        "a.uid": "pair-pod-uid1",
        "a.node": "node-b",
        "a.vtep": "192.168.1.33",
        "a.sandbox": "pair-pod-c1",
        "a.netns": "/run/netns/pair-pod-1",
        "a.ready": "pair-pod-c1 peer 192.168.1.73 generation 1",
        "history": "\n".join(
            [
                "2026-03-04T05:06:07.000Z pending → pending: pair default/pair-pod joined on node-b",
                "2026-03-04T05:06:08.250Z pending → primary-ready: primary default/primary-pod joined on node-a",
                "2026-03-04T05:06:08.250Z primary-ready → pair-ready: primary default/primary-pod joined on node-a",
                "2026-03-04T05:06:09.000Z pair-ready → linked: pair stands (vxlan)",
            ]
        ),
    }


def test_only_what_is_wanted_has_a_key() -> None:
    routes = (Route(ip_network("10.0.0.0/8"), ip_address("192.168.2.101"), 5), Route(ip_network("fd00::/8")))
    sysctls = (("net.ipv4.conf.IFNAME.forwarding", 1), ("net.ipv4.conf.IFNAME.rp_filter", 2))
    properties = EndpointSpec(1400, "02:00:00:00:00:01", 5, routes, sysctls, offloads=False, rate=1_500_000_000)
    plain = wanted()
    primary = replace(plain.primary, properties=properties)
    data = encode_link(replace(plain, primary=primary, encapsulation=Encapsulation(tunnel=True, vxlan_port=4790)))[
        "data"
    ]
    assert {key: value for key, value in data.items() if key not in encode_link(plain)["data"]} == {
        "kind_wanted": "vxlan",
        "vxlan_port": "4790",
        "b.mtu": "1400",
        "b.mac": "02:00:00:00:00:01",
        "b.txqlen": "5",
        "b.routes": "10.0.0.0/8 via 192.168.2.101 metric 5, fd00::/8",
        "b.sysctls": "net.ipv4.conf.IFNAME.forwarding=1, net.ipv4.conf.IFNAME.rp_filter=2",
        "b.offloads": "off",
        "b.rate": "1500mbit",
    }


@pytest.mark.parametrize(
    "link",
    [wanted(), joined(own(Side.PRIMARY), None), veth(), standing(veth(), *Side), vxlan(), full()],
    ids=["wanted", "alone", "veth", "veth that stands", "vxlan", "full"],
)
def test_a_link_comes_back_as_it_was(link: Link) -> None:
    assert decode_link(stored(link)) == link


@given(links())
def test_any_link_comes_back_as_it_was(link: Link) -> None:
    back = decode_link(stored(link, creationTimestamp="2017-08-17T19:30:01Z"))
    assert back == link
    assert (back.uid, back.resource_version) == (link.uid, link.resource_version)
    assert back.created == datetime(2017, 8, 17, 19, 30, 1, tzinfo=UTC)


@given(links())
def test_what_is_written_is_valid_for_kubernetes(link: Link) -> None:
    config_map = encode_link(link)
    assert LABEL_PREFIX.fullmatch(config_map["metadata"]["name"])
    assert all(KEY.fullmatch(key) and isinstance(value, str) for key, value in config_map["data"].items())
    for label, value in config_map["metadata"]["labels"].items():
        prefix, slash, name = label.rpartition("/")
        assert LABEL_NAME.fullmatch(name)
        assert not slash or LABEL_PREFIX.fullmatch(prefix)
        assert LABEL_VALUE.fullmatch(value)
    assert config_map["data"]["state"] == config_map["metadata"]["labels"]["ratchet.state"] == derive(link).value


def check_patch(before: Link, after: Link) -> None:
    old, new = encode_link(before), encode_link(after)
    patch = link_patch(before, new)
    assert patch["metadata"].pop("uid") == before.uid
    assert patch["metadata"].pop("resourceVersion") == before.resource_version
    assert merged(old, patch) == new
    for part, old_part in (("data", old["data"]), ("labels", old["metadata"]["labels"])):
        changes = patch["data"] if part == "data" else patch["metadata"]["labels"]
        assert all(old_part.get(key) != value for key, value in changes.items())


@given(links())
def test_what_is_stored_as_it_was_written_is_what_a_reader_reads(link: Link) -> None:
    answer = stored(link, uid="u2", resourceVersion="9", creationTimestamp="2026-11-26T12:00:00Z")
    kept, read = stored_link(link, encode_link(link), answer), decode_link(answer)
    assert kept == read
    assert (kept.uid, kept.resource_version, kept.created) == (read.uid, read.resource_version, read.created)


def test_what_is_stored_otherwise_than_it_was_written_is_read() -> None:
    answer = stored(full())
    answer["data"]["generation"] = "5"
    assert stored_link(full(), encode_link(full()), answer) == decode_link(answer) != full()


def test_a_move_is_remembered_as_it_is_written() -> None:
    moved = join(None, wanted(), Side.PRIMARY, own(Side.PRIMARY), NOW.replace(microsecond=1234))
    assert decode_link(stored(moved)) == moved


@given(links(), links())
@settings(max_examples=50)
def test_a_patch_makes_one_record_into_the_other_and_no_more(before: Link, after: Link) -> None:
    check_patch(before, replace(after, name=before.name))


@given(links(), st.sampled_from(Side))
def test_a_patch_of_one_end_says_nothing_of_the_other(link: Link, side: Side) -> None:
    after = link.with_end(side, replace(link.end(side), sandbox=None, ready=None))
    check_patch(link, after)
    assert not [key for key in link_patch(link, encode_link(after))["data"] if key.startswith(f"{side.other}.")]


def test_a_patch_of_nothing_changes_nothing() -> None:
    assert link_patch(full(), encode_link(full())) == {
        "metadata": {"uid": "u", "resourceVersion": "7", "labels": {}},
        "data": {},
    }


def test_leaving_removes_the_label_of_the_pod_and_keeps_that_of_its_node() -> None:
    """The node's agent has the record when the pod starts again (`Link.expected_on`)."""
    left = leave(full(), Side.PAIR, own(Side.PAIR).container_id, "gone", NOW)
    patch = link_patch(full(), encode_link(left))
    assert patch["metadata"]["labels"] == {
        "pod.ratchet/default.pair-pod": None,
        "ratchet.kind": None,
        "ratchet.vni": None,
        "ratchet.state": "primary-ready",
    }
    assert patch["data"]["a.sandbox"] is None
    assert "vni" not in patch["data"]


def test_a_node_with_a_very_long_name_has_a_label_too() -> None:
    sandbox = replace(own(Side.PRIMARY), node="n" * 253)
    labels = encode_link(joined(sandbox, None))["metadata"]["labels"]
    (label,) = [label for label in labels if label.startswith(NODE_LABEL)]
    assert LABEL_NAME.fullmatch(label.partition("/")[2])


# What cannot be read

MALFORMED = [
    ("generation", "x"),
    ("generation", ""),
    ("generation", "0"),
    ("generation", "-1"),
    ("generation", "1.0"),
    ("generation", "9" * 5000),
    ("vni", "x"),
    ("vni", "0"),
    ("vni", str(1 << 24)),
    ("vni", "\u0661"),
    ("b.addresses", "192.168.2.100/24,x"),
    ("a.addresses", "192.168.2.300/24"),
    ("b.mtu", "1e3"),
    ("b.underlay_mtu", "0"),
    ("a.underlay_mtu", "many"),
    ("b.txqlen", "-1"),
    ("b.routes", "10.0.0.1/8"),
    ("b.routes", "10.0.0.0/8 via"),
    ("b.routes", "10.0.0.0/8 metric x"),
    ("a.sysctls", "net.ipv4.conf.IFNAME.rp_filter"),
    ("a.sysctls", "net.ipv4.conf.IFNAME.rp_filter=x"),
    ("a.sysctls", "net.ipv4.conf.IFNAME/../../../kernel/x.IFNAME.y=1"),
    ("a.rate", "1e3"),
    ("vxlan_port", "0"),
    ("b.ready", "c1"),
    ("b.ready", "c1 peer x generation x"),
    ("a.ready", "c1 peer x generation 1 "),
]


@pytest.mark.parametrize(("key", "value"), MALFORMED)
def test_a_malformed_value_is_told_with_its_record_and_key(key: str, value: str) -> None:
    config_map = stored(full())
    config_map["data"][key] = value
    with pytest.raises(MalformedRecordError) as told:
        decode_link(config_map)
    assert str(told.value).startswith(f"cannot read the record {RECORD}: {key} ")
    assert str(told.value).isprintable()
    assert len(str(told.value)) < 400


NEEDED = ["namespace", "generation", "primary", *(f"{end}.{key}" for end in "ab" for key in ("name", "ifname"))]
NEEDED += [f"{end}.{key}" for end in "ab" for key in ("pod", "uid", "node", "netns", "vtep")]


@pytest.mark.parametrize("key", NEEDED)
def test_a_missing_key_is_told_with_its_record(key: str) -> None:
    config_map = stored(full())
    del config_map["data"][key]
    with pytest.raises(MalformedRecordError, match=f"^cannot read the record {RECORD}: it has no {re.escape(key)}$"):
        decode_link(config_map)


@pytest.mark.parametrize("config_map", [{}, {"metadata": {"name": "x"}}, {"metadata": {"name": "x"}, "data": None}])
def test_a_config_map_that_is_no_record_at_all(config_map: Json) -> None:
    with pytest.raises(MalformedRecordError, match=r"cannot read the record [x?]: it has no namespace"):
        decode_link(config_map)


def test_what_people_add_does_not_make_a_record_unreadable() -> None:
    config_map = stored(full())
    config_map["data"] |= {"comment": "ours", "history": config_map["data"]["history"] + "\n"}
    config_map["metadata"]["labels"]["team"] = "x"
    assert decode_link(config_map) == full()


keys = st.sampled_from(sorted(encode_link(full())["data"])) | st.from_regex(r"[-._a-zA-Z0-9]{1,20}", fullmatch=True)
WORDS = ["2026-03-04T05:06:07", "→", ": ", "pending", " ", "\n", "toward", "generation", "1", ",", "::"]
words = st.sampled_from(WORDS)
values = st.text(max_size=30) | st.lists(words, max_size=9).map("".join) | st.lists(words, max_size=9).map(" ".join)


@given(st.dictionaries(keys, st.none() | values, max_size=4))
def test_whatever_is_written_into_a_record_is_read_or_told(changes: dict[str, str | None]) -> None:
    config_map = stored(full())
    config_map["data"] = merged(config_map["data"], changes)
    try:
        link = decode_link(config_map)
    except MalformedRecordError as error:
        assert RECORD in str(error)
        return
    link_patch(full(), encode_link(link))
    assert derive(link) in State
    orphaned_links([link], [], {}, [], NOW, timedelta())


# Leases, pods, moments


def test_a_vni_is_claimed_for_the_records_uid() -> None:
    lease = encode_vni_lease(11, full())
    assert lease["metadata"]["name"] == "vni-11"
    assert lease["spec"] == {"holderIdentity": "u"}
    lease["metadata"] |= {"uid": "l", "resourceVersion": "9", "creationTimestamp": "2026-03-04T05:06:07Z"}
    nodes = frozenset({"node.ratchet/node-a", "node.ratchet/node-b"})
    assert decode_vni_lease(lease) == VniLease(11, "u", "l", "9", NOW, nodes)


def test_a_lease_is_labelled_as_its_record_is() -> None:
    labels = encode_vni_lease(11, full())["metadata"]["labels"]
    recorded = encode_link(full())["metadata"]["labels"]
    assert {key for key in labels if "node" in key} == {key for key in recorded if "node" in key} != set()


@pytest.mark.parametrize(
    ("labels", "changes"),
    [
        ((), {"node.ratchet/node-a": "", "node.ratchet/node-b": ""}),
        (("node-a", "node-c"), {"node.ratchet/node-c": None, "node.ratchet/node-b": ""}),
        (("node-a", "node-b"), None),
    ],
)
def test_a_patch_gives_a_lease_the_labels_of_its_links_nodes(
    labels: tuple[str, ...], changes: dict[str, str | None] | None
) -> None:
    held = VniLease(11, "u", "l", "9", NOW, frozenset(f"node.ratchet/{node}" for node in labels))
    condition = {"uid": "l", "resourceVersion": "9"}
    expected = None if changes is None else {"metadata": {**condition, "labels": changes}}
    assert lease_labels_patch(held, full()) == expected


@pytest.mark.parametrize("spec", [None, {}, {"holderIdentity": None}])
def test_a_lease_without_a_holder(spec: Mapping[str, Any] | None) -> None:
    assert decode_vni_lease({"metadata": {"name": "vni-12"}, "spec": spec}) == VniLease(12, "", "", "", None)


@pytest.mark.parametrize("metadata", [{}, {"name": "node-a"}, {"name": "vni-x"}])
def test_another_lease_is_none_of_ours(metadata: Mapping[str, Any]) -> None:
    assert decode_vni_lease({"metadata": metadata, "spec": {"holderIdentity": "u"}}) is None


def test_a_pod_as_far_as_we_look() -> None:
    metadata: Json = {"namespace": "default", "name": "a", "uid": "u", "creationTimestamp": "2026-03-04T05:06:07Z"}
    ref = PodRef("default", "a", "u")
    assert decode_pod({"metadata": metadata}) == Pod(ref, created=NOW)
    bare = {"metadata": {**metadata, "labels": None, "annotations": None}, "spec": None, "status": None}
    assert decode_pod(bare) == Pod(ref, created=NOW)
    labels, annotations = {"ratchet": "true", "ratchet.wait": "1"}, {"ratchet.links": "[]"}
    more = {"labels": labels, "annotations": annotations, "deletionTimestamp": "2026-03-04T05:06:07Z"}
    seen = {"metadata": metadata | more, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}}
    assert decode_pod(seen) == Pod(ref, labels, annotations, "n", "Running", deleting=True, created=NOW)


def test_only_settings_of_ratchet_are_kept_of_a_pod() -> None:
    """An annotation of kubectl's or of an operator's may have kilobytes, and each pod of a namespace is cached."""
    others = {"kubectl.kubernetes.io/last-applied-configuration": "x", "app": "a", "ratchetry": "x", "my.ratchet": "x"}
    ours = {"ratchet": "true", "ratchet.misspelt": "x"}
    pod = decode_pod({"metadata": {"name": "a", "labels": others | ours, "annotations": others | ours}})
    assert (pod.labels, pod.annotations) == (ours, ours)
    assert decode_pod({"metadata": {"name": "a", "labels": others}}) == decode_pod({"metadata": {"name": "a"}})


def test_what_two_objects_have_in_common_is_kept_once() -> None:
    """Each object of the API comes as text of its own."""
    link = standing(vxlan(), Side.PRIMARY, Side.PAIR)
    one, other = (decode_link(stored(link)) for _ in range(2))
    assert one == other
    for side in Side:
        mine, theirs = one.end(side), other.end(side)
        assert mine.sandbox is not None
        assert theirs.sandbox is not None
        assert mine.ready is not None
        assert mine.addresses[0] is theirs.addresses[0]
        assert mine.properties is theirs.properties
        assert mine.sandbox.container_id is theirs.sandbox.container_id
        assert mine.sandbox.container_id is mine.ready.sandbox
        assert mine.sandbox.netns is theirs.sandbox.netns
    metadata = json.dumps({"metadata": {"name": "a-pod", "uid": "a-uid", "labels": {"ratchet.pair_name": "a-pair"}}})
    first, second = (decode_pod(json.loads(metadata)) for _ in range(2))
    assert first.ref.uid is second.ref.uid
    assert first.labels["ratchet.pair_name"] is second.labels["ratchet.pair_name"]


def test_an_address_is_kept_no_longer_than_somebody_has_it() -> None:
    shared_address("10.11.12.13/24")
    gc.collect()
    assert "10.11.12.13/24" not in shared._addresses
    kept = shared_address("10.11.12.13/24")
    assert shared_address("10.11.12.13/24") is kept


@pytest.mark.parametrize(
    ("annotations", "mirror"),
    [(None, ""), ({}, ""), ({MIRROR_ANNOTATION: "static-1"}, "static-1"), ({MIRROR_ANNOTATION: "x" * 1000}, "")],
    ids=["none", "ordinary", "mirror", "oversized"],
)
def test_a_mirror_pod_has_the_uid_of_its_static_pod(annotations: Mapping[str, str] | None, mirror: str) -> None:
    pod = decode_pod({"metadata": {"namespace": "default", "name": "a", "uid": "u", "annotations": annotations}})
    assert pod.ref.mirror == mirror


@pytest.mark.parametrize("mirror", ["", "static-1"])
def test_a_record_has_a_static_pods_own_uid_and_no_key_for_others(mirror: str) -> None:
    link = veth()
    holder = own(Side.PRIMARY)
    link = link.with_end(
        Side.PRIMARY, replace(link.primary, sandbox=replace(holder, pod=replace(holder.pod, mirror=mirror)))
    )
    data = stored(link)["data"]
    assert data.get("b.mirror", "") == mirror
    assert ("b.mirror" in data) is bool(mirror)
    sandbox = decode_link(stored(link)).sandbox(Side.PRIMARY)
    assert sandbox is not None
    assert sandbox.pod.mirror == mirror


@pytest.mark.parametrize(
    ("spec", "renewed"),
    [
        ({"holderIdentity": "n", "renewTime": "2026-03-04T05:06:07.000000Z"}, NOW),
        ({"holderIdentity": "n"}, None),
        ({"holderIdentity": "n", "renewTime": "yesterday"}, None),
        ({"holderIdentity": "n", "renewTime": 5}, None),
        (None, None),
    ],
    ids=["renewed", "missing", "malformed", "no text", "no spec"],
)
def test_when_a_node_lease_was_renewed(spec: Mapping[str, Any] | None, renewed: datetime | None) -> None:
    assert decode_node_lease({"metadata": {"name": "node-n"}, "spec": spec}).renewed == renewed


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        (None, None),
        ("", None),
        ("2026-03-04T05:06:07Z", NOW),
        ("2026-03-04T05:06:07.000000Z", NOW),
        ("2026-03-04T07:06:07+02:00", NOW),
    ],
)
def test_a_moment(text: str | None, moment: datetime | None) -> None:
    assert decode_time(text) == moment


def test_a_history_keeps_milliseconds_and_no_more() -> None:
    step = Transition(NOW + timedelta(microseconds=123_456), State.PENDING, State.PENDING, "why: because → so")
    (back,) = decode_link(stored(replace(wanted(), history=(step,)))).history
    assert back == replace(step, at=NOW + timedelta(milliseconds=123))


# The formats


def in_the_earlier_format(link: Link) -> Link:
    return replace(link, name="default.primary-pod.in1.pair-pod.in2", schema=EARLIER_SCHEMA)


def on_underlay(link: Link, side: Side, mtu: int, *vteps: str) -> Link:
    """The link with what the node of an end can carry."""
    sandbox = link.sandbox(side)
    assert sandbox is not None
    return link.with_end(side, replace(link.end(side), sandbox=replace(sandbox, underlay_mtu=mtu, vteps=vteps)))


def test_a_record_has_the_mtu_and_the_vteps_of_each_node_where_they_are_known() -> None:
    link = on_underlay(full(), Side.PRIMARY, 9000, "192.168.1.73", "fd00::73")
    added = {key: value for key, value in stored(link)["data"].items() if key not in stored(full())["data"]}
    assert added == {"b.underlay_mtu": "9000", "b.vteps": "192.168.1.73,fd00::73"}
    assert decode_link(stored(link)) == link
    assert decode_link(stored(full())).primary.sandbox == own(Side.PRIMARY)


def test_a_record_of_the_earlier_format_has_neither() -> None:
    """An agent of an earlier version would take them for notes, and keep them."""
    plain = in_the_earlier_format(full())
    link = on_underlay(plain, Side.PRIMARY, 9000, "192.168.1.73", "fd00::73")
    assert encode_link(link)["data"] == encode_link(plain)["data"]
    assert join(plain, plain, Side.PRIMARY, link.primary.sandbox or own(Side.PRIMARY), later(3)) == plain


def test_a_record_of_the_earlier_format_stays_as_earlier_versions_read_it() -> None:
    link = in_the_earlier_format(full())
    config_map = encode_link(link)
    assert "ratchet.schema" not in config_map["metadata"]["labels"]
    assert not {"schema", "primary"} & config_map["data"].keys()
    assert config_map["data"]["primary.name"] == "primary-pod"
    assert config_map["data"]["pair.sandbox"] == "pair-pod-c1"
    assert decode_link(config_map) == link


@pytest.mark.parametrize("primary", Side)
def test_the_ends_are_in_the_order_of_their_endpoints_whichever_is_primary(primary: Side) -> None:
    link = full() if primary is Side.PRIMARY else full().swapped()
    data = encode_link(link)["data"]
    assert (data["a.name"], data["b.name"]) == ("pair-pod", "primary-pod")
    assert data["primary"] == ("b" if primary is Side.PRIMARY else "a")
    assert decode_link({"metadata": {"name": RECORD}, "data": data}) == link


def test_a_namespaces_cookie_is_recorded_where_it_is_known() -> None:
    link = full()
    sandbox = link.primary.sandbox
    assert sandbox is not None
    known = link.with_end(Side.PRIMARY, replace(link.primary, sandbox=replace(sandbox, cookie=1 << 40)))
    assert encode_link(known)["data"]["b.cookie"] == str(1 << 40)
    assert decode_link(encode_link(known)) == known


def test_a_nodes_lease_announces_what_its_agent_reads() -> None:
    lease = encode_node_lease(NodeLease("node-a", "192.168.1.73"), 40, NOW)
    assert decode_node_lease(lease).schema == CURRENT_SCHEMA


def test_an_earlier_agent_that_renews_a_lease_takes_the_announcement_back() -> None:
    """It knows nothing of the annotation, which a merge patch leaves as it is."""
    lease = encode_node_lease(NodeLease("node-a", "192.168.1.73"), 40, NOW)
    lease["spec"]["renewTime"] = "2026-03-04T05:06:17.000000Z"
    assert decode_node_lease(lease).schema == EARLIER_SCHEMA
    del lease["metadata"]["annotations"]["ratchet.schema"]
    assert decode_node_lease(lease).schema == EARLIER_SCHEMA


UNREAD = [
    "yesterday pending → linked: why",
    "2026-03-04T05:06:07Z pending → nowhere: why",
    "2026-03-04T05:06:07Z pending -> linked: why",
    "2026-03-04T05:06:07 pending → linked: a moment without its zone",
    "0001-01-01T00:00:00+14:00 pending → linked: before all time",
    "nonsense",
]


@pytest.mark.parametrize("line", UNREAD)
def test_a_line_of_history_that_cannot_be_read_is_kept(line: str) -> None:
    config_map = stored(full())
    config_map["data"]["history"] = f"{line}\n{config_map['data']['history']}"
    link = decode_link(config_map)
    assert link.unread == (line,)
    assert link.history == full().history
    assert encode_link(link)["data"]["history"].splitlines()[0] == line


def test_a_newer_record_that_this_version_may_use_is_used_and_keeps_what_is_unknown() -> None:
    config_map = stored(full())
    config_map["data"] |= {"schema": "3", "minReader": "2", "news": "from tomorrow", "a.news": "too"}
    link = decode_link(config_map)
    assert (link.schema, link.primary.sandbox) == (3, full().primary.sandbox)
    left = leave(link, Side.PRIMARY, "primary-pod-c1", "it was deleted", NOW)
    patched = link_patch(link, encode_link(left))["data"]
    assert not {"schema", "minReader", "news", "a.news"} & patched.keys()
    assert patched["b.sandbox"] is None


def test_a_record_that_only_newer_versions_may_use_is_refused() -> None:
    config_map = stored(full())
    config_map["data"] |= {"schema": "4", "minReader": "3"}
    with pytest.raises(
        NewerRecordError, match=f"^cannot use the record {RECORD}: it needs a version that reads schema 3"
    ):
        decode_link(config_map)


def test_a_sandbox_leaves_a_record_that_cannot_be_used_otherwise() -> None:
    config_map = stored(full(), uid="u", resourceVersion="7")
    patch = leave_patch(config_map, "pair-pod-c1")
    assert patch is not None
    assert patch["metadata"] == {"uid": "u", "resourceVersion": "7"}
    keys = {"a.pod", "a.uid", "a.node", "a.vtep", "a.sandbox", "a.netns", "a.ready"}
    assert patch["data"] == dict.fromkeys(keys)
    assert leave_patch(config_map, "another") is None


def test_the_vnis_that_nodes_have_refused_are_a_list() -> None:
    link = replace(full(), refused_vnis=(11, 4096))
    encoded = encode_link(link)
    assert encoded["data"]["refused_vnis"] == "11,4096"
    assert decode_link(stored(link)).refused_vnis == (11, 4096)
    encoded["data"]["refused_vnis"] = "11,x"
    with pytest.raises(MalformedRecordError, match="refused_vnis is 'x', not a number from 1 to 16777215"):
        decode_link(encoded)


def test_the_vni_of_a_record_is_read_from_its_metadata_alone() -> None:
    metadata = stored(full())["metadata"]
    assert record_vni({"metadata": metadata}) == (11, "u")
    assert record_vni({"metadata": {"uid": "u", "labels": {"ratchet.vni": "x"}}}) is None
    assert record_vni({"metadata": {"uid": "u"}}) is None
