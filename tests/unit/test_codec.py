"""The codec of records, Leases and pods. Errors for malformed records name the record and the key."""

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
from ratchet.core.model import Encapsulation, Link, Side, State, Transition
from ratchet.core.naming import NODE_LABEL
from ratchet.core.pod import MIRROR_ANNOTATION, Pod, PodRef
from ratchet.core.record_updates import join, leave, mark_ready, with_vni
from ratchet.core.schemas import EARLIER_SCHEMA, READ_SCHEMA
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
from tests.support.links import NOW, RECORD, joined, later, own, veth, vxlan, wanted, with_ready
from tests.support.strategies import links

KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def stored(link: Link, **metadata: str) -> Json:
    """The ConfigMap of a link as the API server returns it."""
    config_map = encode_link(link)
    config_map["metadata"] |= {"uid": link.uid, "resourceVersion": link.resource_version} | metadata
    parsed: Json = json.loads(json.dumps(config_map))
    return parsed


def merged(target: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7386, section 2)."""
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
    """A linked VXLAN with the history of its transitions."""
    link = join(None, wanted(), Side.PAIR, own(Side.PAIR, "node-b"), NOW)
    link = join(link, wanted(), Side.PRIMARY, own(Side.PRIMARY), later(1.25))
    link = with_vni(link, 11)
    for side in Side:
        link = mark_ready(link, side, later(2))
    return replace(link, primary=replace(link.primary, notes={"public_ip": "1.1.1.1"}), uid="u", resource_version="7")


def test_a_record_is_encoded_with_readable_keys_and_values() -> None:
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
                "2026-03-04T05:06:09.000Z pair-ready → linked: pair is ready (vxlan)",
            ]
        ),
    }


def test_only_declared_properties_have_a_key() -> None:
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
    [wanted(), joined(own(Side.PRIMARY), None), veth(), with_ready(veth(), *Side), vxlan(), full()],
    ids=["wanted", "alone", "veth", "veth that stands", "vxlan", "full"],
)
def test_a_decoded_link_equals_the_encoded_link(link: Link) -> None:
    assert decode_link(stored(link)) == link


@given(links)
def test_any_decoded_link_equals_the_encoded_link(link: Link) -> None:
    back = decode_link(stored(link, creationTimestamp="2017-08-17T19:30:01Z"))
    assert back == link
    assert (back.uid, back.resource_version) == (link.uid, link.resource_version)
    assert back.created == datetime(2017, 8, 17, 19, 30, 1, tzinfo=UTC)


@given(links)
def test_an_encoded_record_is_valid_for_kubernetes(link: Link) -> None:
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


@given(links)
def test_a_stored_link_equals_the_link_that_a_reader_decodes(link: Link) -> None:
    answer = stored(link, uid="u2", resourceVersion="9", creationTimestamp="2026-11-26T12:00:00Z")
    kept, read = stored_link(link, encode_link(link), answer), decode_link(answer)
    assert kept == read
    assert (kept.uid, kept.resource_version, kept.created) == (read.uid, read.resource_version, read.created)


def test_an_answer_that_differs_from_the_written_record_is_decoded() -> None:
    answer = stored(full())
    answer["data"]["generation"] = "5"
    assert stored_link(full(), encode_link(full()), answer) == decode_link(answer) != full()


def test_a_join_has_the_time_resolution_of_the_record() -> None:
    after_join = join(None, wanted(), Side.PRIMARY, own(Side.PRIMARY), NOW.replace(microsecond=1234))
    assert decode_link(stored(after_join)) == after_join


@given(links, links)
@settings(max_examples=50)
def test_a_patch_has_only_the_differences_between_two_records(before: Link, after: Link) -> None:
    check_patch(before, replace(after, name=before.name))


@given(links, st.sampled_from(Side))
def test_a_patch_of_one_end_omits_the_other_end(link: Link, side: Side) -> None:
    after = link.with_end(side, replace(link.end(side), sandbox=None, ready=None))
    check_patch(link, after)
    assert not [key for key in link_patch(link, encode_link(after))["data"] if key.startswith(f"{side.other}.")]


def test_a_patch_between_equal_records_is_empty() -> None:
    assert link_patch(full(), encode_link(full())) == {
        "metadata": {"uid": "u", "resourceVersion": "7", "labels": {}},
        "data": {},
    }


def test_leaving_removes_the_pod_label_and_keeps_the_node_label() -> None:
    """The agent of the node must have the record when the pod starts again (`Link.expected_on`)."""
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


def test_a_node_with_the_longest_name_has_a_valid_label() -> None:
    sandbox = replace(own(Side.PRIMARY), node="n" * 253)
    labels = encode_link(joined(sandbox, None))["metadata"]["labels"]
    (label,) = [label for label in labels if label.startswith(NODE_LABEL)]
    assert LABEL_NAME.fullmatch(label.partition("/")[2])


# Unreadable records

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
def test_the_error_for_a_malformed_value_names_the_record_and_key(key: str, value: str) -> None:
    config_map = stored(full())
    config_map["data"][key] = value
    with pytest.raises(MalformedRecordError) as raised:
        decode_link(config_map)
    assert str(raised.value).startswith(f"cannot read the record {RECORD}: {key} ")
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 400


REQUIRED = ["namespace", "generation", "primary", *(f"{end}.{key}" for end in "ab" for key in ("name", "ifname"))]
REQUIRED += [f"{end}.{key}" for end in "ab" for key in ("pod", "uid", "node", "netns", "vtep")]


@pytest.mark.parametrize("key", REQUIRED)
def test_the_error_for_a_missing_key_names_the_record_and_key(key: str) -> None:
    config_map = stored(full())
    del config_map["data"][key]
    with pytest.raises(MalformedRecordError, match=f"^cannot read the record {RECORD}: it has no {re.escape(key)}$"):
        decode_link(config_map)


@pytest.mark.parametrize("config_map", [{}, {"metadata": {"name": "x"}}, {"metadata": {"name": "x"}, "data": None}])
def test_a_config_map_without_data_is_malformed(config_map: Json) -> None:
    with pytest.raises(MalformedRecordError, match=r"cannot read the record [x?]: it has no namespace"):
        decode_link(config_map)


def test_additions_by_users_do_not_change_the_decoded_link() -> None:
    config_map = stored(full())
    config_map["data"] |= {"comment": "ours", "history": config_map["data"]["history"] + "\n"}
    config_map["metadata"]["labels"]["team"] = "x"
    assert decode_link(config_map) == full()


keys = st.sampled_from(sorted(encode_link(full())["data"])) | st.from_regex(r"[-._a-zA-Z0-9]{1,20}", fullmatch=True)
WORDS = ["2026-03-04T05:06:07", "→", ": ", "pending", " ", "\n", "toward", "generation", "1", ",", "::"]
words = st.sampled_from(WORDS)
values = st.text(max_size=30) | st.lists(words, max_size=9).map("".join) | st.lists(words, max_size=9).map(" ".join)


def test_a_record_with_arbitrary_data_is_decoded_or_rejected() -> None:
    """A decoded record can be used: written, derived and collected."""
    outcomes = set()

    @given(st.dictionaries(keys, st.none() | values, max_size=4))
    def check(changes: dict[str, str | None]) -> None:
        config_map = stored(full())
        config_map["data"] = merged(config_map["data"], changes)
        try:
            link = decode_link(config_map)
        except MalformedRecordError as error:
            assert RECORD in str(error)
            outcomes.add("rejected")
            return
        link_patch(full(), encode_link(link))
        assert derive(link) in State
        orphaned_links([link], [], {}, [], NOW, timedelta())
        outcomes.add("decoded" if link == full() else "decoded as another link")

    check()
    assert outcomes == {"rejected", "decoded", "decoded as another link"}


# Leases, pods, times


def test_a_vni_lease_has_the_uid_of_the_record_as_holder() -> None:
    lease = encode_vni_lease(11, full())
    assert lease["metadata"]["name"] == "vni-11"
    assert lease["spec"] == {"holderIdentity": "u"}
    lease["metadata"] |= {"uid": "l", "resourceVersion": "9", "creationTimestamp": "2026-03-04T05:06:07Z"}
    nodes = frozenset({"node.ratchet/node-a", "node.ratchet/node-b"})
    assert decode_vni_lease(lease) == VniLease(11, "u", "l", "9", NOW, nodes, full().name)


def test_a_vni_lease_has_the_node_labels_of_its_record() -> None:
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
def test_a_lease_patch_sets_the_labels_of_the_nodes_of_its_link(
    labels: tuple[str, ...], changes: dict[str, str | None] | None
) -> None:
    held = VniLease(11, "u", "l", "9", NOW, frozenset(f"node.ratchet/{node}" for node in labels))
    condition = {"uid": "l", "resourceVersion": "9"}
    expected = None if changes is None else {"metadata": {**condition, "labels": changes}}
    assert lease_labels_patch(held, full()) == expected


@pytest.mark.parametrize("spec", [None, {}, {"holderIdentity": None}])
def test_a_lease_without_a_holder_is_decoded(spec: Mapping[str, Any] | None) -> None:
    assert decode_vni_lease({"metadata": {"name": "vni-12"}, "spec": spec}) == VniLease(12, "", "", "", None)


@pytest.mark.parametrize("metadata", [{}, {"name": "node-a"}, {"name": "vni-x"}])
def test_a_lease_without_the_name_of_a_vni_lease_is_ignored(metadata: Mapping[str, Any]) -> None:
    assert decode_vni_lease({"metadata": metadata, "spec": {"holderIdentity": "u"}}) is None


def test_the_settings_to_reset_are_in_records_of_the_current_schema() -> None:
    names = ("mac", "net.ipv4.conf.IFNAME.rp_filter")
    encoded = encode_link(full().with_end(Side.PAIR, replace(full().pair, resets=names)))
    decoded = decode_link(encoded)
    assert {decoded.primary.resets, decoded.pair.resets} == {(), names}
    (key,) = (key for key in encoded["data"] if key.endswith(".resets"))
    encoded["data"][key] += ", net.ipv4.ip_forward"
    with pytest.raises(MalformedRecordError, match=r"resets is .*not a sysctl of an interface"):
        decode_link(encoded)


def test_a_pod_is_decoded_with_the_fields_that_ratchet_uses() -> None:
    metadata: Json = {"namespace": "default", "name": "a", "uid": "u", "creationTimestamp": "2026-03-04T05:06:07Z"}
    ref = PodRef("default", "a", "u")
    assert decode_pod({"metadata": metadata}) == Pod(ref, created=NOW)
    bare = {"metadata": {**metadata, "labels": None, "annotations": None}, "spec": None, "status": None}
    assert decode_pod(bare) == Pod(ref, created=NOW)
    labels, annotations = {"ratchet": "true", "ratchet.wait": "1"}, {"ratchet.links": "[]"}
    more = {"labels": labels, "annotations": annotations, "deletionTimestamp": "2026-03-04T05:06:07Z"}
    conditions = [{"type": "Ready", "status": "False"}, {"type": "PodReadyToStartContainers", "status": "True"}]
    conditions[1]["lastTransitionTime"] = "2026-03-04T05:06:08Z"
    status = {"phase": "Running", "conditions": conditions}
    expected = Pod(ref, labels, annotations, "n", "Running", True, NOW, networked=later(1))
    assert decode_pod({"metadata": metadata | more, "spec": {"nodeName": "n"}, "status": status}) == expected
    conditions[1]["status"] = "False"
    assert decode_pod({"metadata": metadata, "status": {"conditions": conditions}}) == Pod(ref, created=NOW)


def test_a_decoded_pod_has_only_the_labels_and_annotations_of_ratchet() -> None:
    """Every pod of a namespace is cached, and annotations of kubectl or operators can have kilobytes."""
    others = {"kubectl.kubernetes.io/last-applied-configuration": "x", "app": "a", "ratchetry": "x", "my.ratchet": "x"}
    ours = {"ratchet": "true", "ratchet.misspelt": "x"}
    pod = decode_pod({"metadata": {"name": "a", "labels": others | ours, "annotations": others | ours}})
    known = {"ratchet": "true", "ratchet.misspelt": ""}  # its name is logged
    assert (pod.labels, pod.annotations) == (known, known)
    assert decode_pod({"metadata": {"name": "a", "labels": others}}) == decode_pod({"metadata": {"name": "a"}})


def test_decoded_objects_share_equal_values() -> None:
    """The JSON parser creates new strings for each API object."""
    link = with_ready(vxlan(), Side.PRIMARY, Side.PAIR)
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


def test_a_shared_address_is_freed_with_its_last_reference() -> None:
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
def test_a_record_has_a_mirror_key_only_for_static_pods(mirror: str) -> None:
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
def test_the_renewal_time_of_a_node_lease_is_decoded(spec: Mapping[str, Any] | None, renewed: datetime | None) -> None:
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
def test_a_time_is_decoded(text: str | None, moment: datetime | None) -> None:
    assert decode_time(text) == moment


def test_times_in_the_history_are_stored_in_milliseconds() -> None:
    step = Transition(NOW + timedelta(microseconds=123_456), State.PENDING, State.PENDING, "why: because → so")
    (back,) = decode_link(stored(replace(wanted(), history=(step,)))).history
    assert back == replace(step, at=NOW + timedelta(milliseconds=123))


# Record formats


def in_the_earlier_format(link: Link) -> Link:
    return replace(link, name="default.primary-pod.in1.pair-pod.in2", schema=EARLIER_SCHEMA)


def on_underlay(link: Link, side: Side, mtu: int, *vteps: str) -> Link:
    """The link with the underlay MTU and the VTEPs of the node of one end."""
    sandbox = link.sandbox(side)
    assert sandbox is not None
    return link.with_end(side, replace(link.end(side), sandbox=replace(sandbox, underlay_mtu=mtu, vteps=vteps)))


def test_a_record_has_the_underlay_mtu_and_vteps_of_a_node_if_known() -> None:
    link = on_underlay(full(), Side.PRIMARY, 9000, "192.168.1.73", "fd00::73")
    added = {key: value for key, value in stored(link)["data"].items() if key not in stored(full())["data"]}
    assert added == {"b.underlay_mtu": "9000", "b.vteps": "192.168.1.73,fd00::73"}
    assert decode_link(stored(link)) == link
    assert decode_link(stored(full())).primary.sandbox == own(Side.PRIMARY)


def test_a_record_of_the_earlier_format_has_no_underlay_mtu_and_vteps() -> None:
    """An agent of an earlier version would read these keys as notes and keep them."""
    plain = in_the_earlier_format(full())
    link = on_underlay(plain, Side.PRIMARY, 9000, "192.168.1.73", "fd00::73")
    assert encode_link(link)["data"] == encode_link(plain)["data"]
    assert join(plain, plain, Side.PRIMARY, link.primary.sandbox or own(Side.PRIMARY), later(3)) == plain


def test_a_record_of_the_earlier_format_stays_readable_for_earlier_versions() -> None:
    link = in_the_earlier_format(full())
    config_map = encode_link(link)
    assert "ratchet.schema" not in config_map["metadata"]["labels"]
    assert not {"schema", "primary"} & config_map["data"].keys()
    assert config_map["data"]["primary.name"] == "primary-pod"
    assert config_map["data"]["pair.sandbox"] == "pair-pod-c1"
    assert decode_link(config_map) == link


@pytest.mark.parametrize("primary", Side)
def test_the_ends_are_in_endpoint_order_whichever_is_primary(primary: Side) -> None:
    link = full() if primary is Side.PRIMARY else full().swapped()
    data = encode_link(link)["data"]
    assert (data["a.name"], data["b.name"]) == ("pair-pod", "primary-pod")
    assert data["primary"] == ("b" if primary is Side.PRIMARY else "a")
    assert decode_link({"metadata": {"name": RECORD}, "data": data}) == link


def test_the_netns_cookie_is_recorded_if_known() -> None:
    link = full()
    sandbox = link.primary.sandbox
    assert sandbox is not None
    known = link.with_end(Side.PRIMARY, replace(link.primary, sandbox=replace(sandbox, cookie=1 << 40)))
    assert encode_link(known)["data"]["b.cookie"] == str(1 << 40)
    assert decode_link(encode_link(known)) == known


def test_a_node_lease_announces_the_oam_frames_of_its_agent_until_another_renews_it() -> None:
    lease = encode_node_lease(NodeLease("node-a", "192.168.1.73", oam=1), 40, NOW)
    assert decode_node_lease(lease).oam == 1
    lease["spec"]["renewTime"] = "2026-03-04T06:00:00.000000Z"
    assert decode_node_lease(lease).oam == 0
    del lease["metadata"]["annotations"]["ratchet.oam"]
    assert decode_node_lease(lease).oam == 0


def test_a_node_lease_announces_the_schema_that_its_agent_reads() -> None:
    lease = encode_node_lease(NodeLease("node-a", "192.168.1.73"), 40, NOW)
    assert decode_node_lease(lease).schema == READ_SCHEMA


def test_a_renewal_by_an_earlier_agent_withdraws_the_announcement() -> None:
    """The earlier agent does not know the annotation, and its merge patch leaves it in place."""
    lease = encode_node_lease(NodeLease("node-a", "192.168.1.73"), 40, NOW)
    lease["spec"]["renewTime"] = "2026-03-04T05:06:17.000000Z"
    assert decode_node_lease(lease).schema == EARLIER_SCHEMA
    del lease["metadata"]["annotations"]["ratchet.schema"]
    assert decode_node_lease(lease).schema == EARLIER_SCHEMA


UNREADABLE_LINES = [
    "yesterday pending → linked: why",
    "2026-03-04T05:06:07Z pending → nowhere: why",
    "2026-03-04T05:06:07Z pending -> linked: why",
    "2026-03-04T05:06:07 pending → linked: a moment without its zone",
    "0001-01-01T00:00:00+14:00 pending → linked: before all time",
    "nonsense",
]


@pytest.mark.parametrize("line", UNREADABLE_LINES)
def test_an_unreadable_line_of_history_is_kept(line: str) -> None:
    config_map = stored(full())
    config_map["data"]["history"] = f"{line}\n{config_map['data']['history']}"
    link = decode_link(config_map)
    assert link.unread == (line,)
    assert link.history == full().history
    assert encode_link(link)["data"]["history"].splitlines()[0] == line


def test_a_compatible_newer_record_is_used_and_keeps_its_unknown_keys() -> None:
    config_map = stored(full())
    config_map["data"] |= {"schema": "3", "minReader": "2", "news": "from tomorrow", "a.news": "too"}
    link = decode_link(config_map)
    assert (link.schema, link.primary.sandbox) == (3, full().primary.sandbox)
    left = leave(link, Side.PRIMARY, "primary-pod-c1", "it was deleted", NOW)
    patched = link_patch(link, encode_link(left))["data"]
    assert not {"schema", "minReader", "news", "a.news"} & patched.keys()
    assert patched["b.sandbox"] is None


def test_a_record_that_needs_a_newer_version_is_rejected() -> None:
    config_map = stored(full())
    config_map["data"] |= {"schema": "5", "minReader": "4"}
    with pytest.raises(
        NewerRecordError, match=f"^cannot use the record {RECORD}: it needs a version that reads schema 4"
    ):
        decode_link(config_map)


def newer_record() -> Json:
    """A record of schema 4, in which the ends have other prefixes and other keys for what is not a sandbox's."""
    config_map = stored(full(), uid="u", resourceVersion="7")
    prefixes = {"a": "left", "b": "right"}
    data = {}
    for key, value in config_map["data"].items():
        prefix, dot, field = key.partition(".")
        data[f"{prefixes.get(prefix, prefix)}{dot}{field}"] = value
    del data["namespace"], data["left.ifname"]
    return {**config_map, "data": data | {"schema": "4", "minReader": "4", "left.device": "in2", "scope": "default"}}


def test_leave_patch_removes_a_sandbox_without_decoding_the_record() -> None:
    config_map = newer_record()
    with pytest.raises(NewerRecordError):
        decode_link(config_map)
    patch = leave_patch(config_map, "pair-pod-c1")
    assert patch is not None
    assert patch["metadata"] == {"uid": "u", "resourceVersion": "7"}
    gone = {f"left.{field}" for field in ("pod", "uid", "node", "vtep", "sandbox", "netns", "ready")}
    assert patch["data"] == dict.fromkeys(gone)
    assert set(config_map["data"]) - set(merged(config_map, patch)["data"]) == gone
    assert leave_patch(config_map, "another") is None


def test_refused_vnis_are_encoded_as_a_list() -> None:
    link = replace(full(), refused_vnis=(11, 4096))
    encoded = encode_link(link)
    assert encoded["data"]["refused_vnis"] == "11,4096"
    assert decode_link(stored(link)).refused_vnis == (11, 4096)
    encoded["data"]["refused_vnis"] = "11,x"
    with pytest.raises(MalformedRecordError, match="refused_vnis is 'x', not a number from 1 to 16777215"):
        decode_link(encoded)


def test_the_vni_of_a_record_is_read_from_its_metadata() -> None:
    metadata = stored(full())["metadata"]
    assert record_vni({"metadata": metadata}) == (11, "u")
    assert record_vni({"metadata": {"uid": "u", "labels": {"ratchet.vni": "x"}}}) is None
    assert record_vni({"metadata": {"uid": "u"}}) is None
