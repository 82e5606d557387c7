"""Results in the format of each CNI version: reading, writing, extending and rejecting them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.cni.result import Interface, IPConfig, Result, Route
from ratchet.cni.versions import SUPPORTED
from tests.support.runtimes import containerd_pod_ips, crio_pod_ips

LEGACY = ("0.1.0", "0.2.0")
TYPED = ("0.3.0", "0.3.1", "0.4.0")
RICH = (*TYPED, "1.0.0", "1.1.0")
NETNS = "/run/netns/pod"

HOST_END = Interface("veth1", mac="0a:00:00:00:00:01", mtu=1500)
POD_END = Interface("eth0", mac="0a:00:00:00:00:02", sandbox=NETNS, mtu=1500, extra={"pciID": "0000:00:1f.6"})
RESULT = Result(
    interfaces=(HOST_END, POD_END),
    ips=(IPConfig("10.0.0.7/24", "10.0.0.1", 1), IPConfig("fd00::7/64", "", 1)),
    routes=(Route("0.0.0.0/0", "10.0.0.1", {"mtu": 1400, "table": 7}), Route("fd00:1::/64")),
    dns={"nameservers": ["10.0.0.53"]},
)
LOOPBACK = Result((Interface("lo", sandbox=NETNS),), (IPConfig("127.0.0.1/8", interface=0),))


def with_address(result: Result, ifname: str, address: str) -> Result:
    """The result with one more interface in the sandbox, and its address."""
    extended = result.extended([Interface(ifname, sandbox=NETNS)])
    return replace(extended, ips=(*result.ips, IPConfig(address, interface=len(result.interfaces))))


@pytest.mark.parametrize("version", TYPED)
def test_versions_0_3_and_0_4_have_the_family_of_each_address(version: str) -> None:
    assert RESULT.to_json(version) == {
        "cniVersion": version,
        "interfaces": [
            {"name": "veth1", "mac": "0a:00:00:00:00:01"},
            {"name": "eth0", "mac": "0a:00:00:00:00:02", "sandbox": NETNS},
        ],
        "ips": [
            {"version": "4", "address": "10.0.0.7/24", "gateway": "10.0.0.1", "interface": 1},
            {"version": "6", "address": "fd00::7/64", "interface": 1},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}, {"dst": "fd00:1::/64"}],
        "dns": {"nameservers": ["10.0.0.53"]},
    }


def test_version_1_0_omits_the_family_of_an_address() -> None:
    written = RESULT.to_json("1.0.0")
    assert written["cniVersion"] == "1.0.0"
    assert written["ips"] == [
        {"address": "10.0.0.7/24", "gateway": "10.0.0.1", "interface": 1},
        {"address": "fd00::7/64", "interface": 1},
    ]
    assert written["interfaces"][1] == {"name": "eth0", "mac": "0a:00:00:00:00:02", "sandbox": NETNS}


def test_version_1_1_adds_keys_to_interfaces_and_routes() -> None:
    written = RESULT.to_json("1.1.0")
    assert written["interfaces"] == [
        {"name": "veth1", "mac": "0a:00:00:00:00:01", "mtu": 1500},
        {"name": "eth0", "mac": "0a:00:00:00:00:02", "sandbox": NETNS, "mtu": 1500, "pciID": "0000:00:1f.6"},
    ]
    assert written["routes"][0] == {"dst": "0.0.0.0/0", "gw": "10.0.0.1", "mtu": 1400, "table": 7}
    assert all("version" not in ip for ip in written["ips"])


@pytest.mark.parametrize("version", LEGACY)
def test_legacy_versions_have_one_address_per_family(version: str) -> None:
    assert RESULT.to_json(version) == {
        "cniVersion": version,
        "ip4": {"ip": "10.0.0.7/24", "gateway": "10.0.0.1", "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}]},
        "ip6": {"ip": "fd00::7/64", "routes": [{"dst": "fd00:1::/64"}]},
        "dns": {"nameservers": ["10.0.0.53"]},
    }


@pytest.mark.parametrize("version", LEGACY)
@pytest.mark.parametrize("own", [IPConfig("10.0.0.7/24"), IPConfig("10.0.0.7/24", interface=1)])
def test_legacy_versions_omit_the_address_of_another_interface(version: str, own: IPConfig) -> None:
    pod = Result((HOST_END, POD_END, Interface("net1", sandbox=NETNS)), (own, IPConfig("fd01::1/64", interface=2)))
    written = pod.to_json(version)
    assert written["ip4"] == {"ip": "10.0.0.7/24"}
    assert "ip6" not in written


@pytest.mark.parametrize("version", SUPPORTED)
def test_an_empty_result_can_be_written(version: str) -> None:
    written = Result().to_json(version)
    assert written == {"cniVersion": version, "dns": {}, **({"ips": []} if version in RICH else {})}
    assert Result.from_json(written, version).ips == ()


ip4 = st.ip_addresses(v=4).map(str)
ip6 = st.ip_addresses(v=6).map(str)
cidr = st.one_of(
    st.builds("{}/{}".format, ip4, st.integers(0, 32)), st.builds("{}/{}".format, ip6, st.integers(0, 128))
)
names = st.text("abcdefgh0123.-_", min_size=1, max_size=15)
details = st.fixed_dictionaries({}, optional={"socketPath": names, "pciID": names, "ours": st.integers()})


@st.composite
def results(draw: st.DrawFn) -> Result:
    any_interface = st.builds(
        Interface,
        names | st.just("eth0"),
        names,
        st.sampled_from(["", NETNS]),
        st.none() | st.integers(68, 65535),
        details,
    )
    interfaces = draw(st.lists(any_interface, max_size=3))
    index = st.none() | st.integers(0, len(interfaces) - 1) if interfaces else st.none()
    ips = draw(st.lists(st.builds(IPConfig, cidr, st.sampled_from(["", "10.0.0.1"]), index), max_size=3))
    routes = draw(st.lists(st.builds(Route, cidr, st.sampled_from(["", "10.0.0.1"])), max_size=3))
    return Result(tuple(interfaces), tuple(ips), tuple(routes), draw(st.just({}) | st.just({"domain": "x"})))


@given(results(), st.sampled_from(SUPPORTED))
def test_a_written_result_is_unchanged_after_reading_and_writing(result: Result, version: str) -> None:
    written = result.to_json(version)
    assert Result.from_json(written, version).to_json(version) == written


@given(results())
def test_the_latest_version_keeps_every_field(result: Result) -> None:
    read = Result.from_json(result.to_json("1.1.0"), "1.1.0")
    assert (read.interfaces, read.ips, read.routes, read.dns) == (
        result.interfaces,
        result.ips,
        result.routes,
        result.dns,
    )


@given(results(), st.sets(names, max_size=3), st.sampled_from(RICH))
def test_further_interfaces_do_not_change_the_ips_of_a_pod(base: Result, links: set[str], version: str) -> None:
    taken = {"eth0", *(interface.name for interface in base.interfaces)}
    extended = base.extended([Interface(name, sandbox=NETNS) for name in sorted(links - taken)])
    before, after = base.to_json(version), extended.to_json(version)
    assert [one["name"] for one in after.get("interfaces", [])[len(base.interfaces) :]] == sorted(links - taken)
    for pod_ips in (containerd_pod_ips, crio_pod_ips):
        assert pod_ips(after) == pod_ips(before)


@pytest.mark.parametrize(
    ("ips", "containerd", "crio"),
    [
        ([{"address": "10.0.0.7/24", "interface": 1}], ["10.0.0.7"], ["10.0.0.7"]),
        ([{"address": "10.0.0.7/24"}], ["10.0.0.7"], ["10.0.0.7"]),
        (
            [{"address": "10.0.0.7/24", "interface": 1}, {"address": "fd01::1/64", "interface": 2}],
            ["10.0.0.7"],
            ["10.0.0.7", "fd01::1"],
        ),
        ([{"address": "10.0.0.7/24", "interface": 0}], [], ["10.0.0.7"]),
    ],
)
def test_runtimes_differ_in_what_they_take_as_the_ips_of_a_pod(
    ips: list[dict[str, Any]], containerd: list[str], crio: list[str]
) -> None:
    """An address on a link's interface, as in the third result, would be the pod's own IPv6 address in CRI-O."""
    interfaces = [{"name": "veth1"}, {"name": "eth0", "sandbox": NETNS}, {"name": "in1", "sandbox": NETNS}]
    result = {"interfaces": interfaces, "ips": ips}
    assert (containerd_pod_ips(result), crio_pod_ips(result)) == (containerd, crio)


PREV: dict[str, dict[str, Any]] = {
    **{
        version: {
            "cniVersion": version,
            "ip4": {"ip": "10.0.0.7/24", "gateway": "10.0.0.1", "routes": [{"dst": "0.0.0.0/0"}], "vendor": 1},
            "dns": {"search": ["cluster.local"], "vendor": 1},
            "vendor": {"key": [1]},
        }
        for version in LEGACY
    },
    **{
        version: {
            "cniVersion": version,
            "interfaces": [{"name": "eth0", "sandbox": NETNS, "mtu": 1400, "vendor": 1}],
            "ips": [{"version": "4", "address": "10.0.0.7/24", "interface": 0, "vendor": 1}],
            "routes": [{"dst": "0.0.0.0/0", "scope": 0, "vendor": 1}],
            "dns": {"search": ["cluster.local"], "vendor": 1},
            "vendor": {"key": [1]},
        }
        for version in RICH
    },
}


@pytest.mark.parametrize("version", SUPPORTED)
def test_prev_result_is_written_unchanged_with_its_unknown_keys(version: str) -> None:
    expected = PREV[version]
    if version in ("1.0.0", "1.1.0"):
        expected = {**expected, "ips": [{"address": "10.0.0.7/24", "interface": 0, "vendor": 1}]}
    assert Result.from_json(PREV[version], version).to_json(version) == expected


@pytest.mark.parametrize("version", TYPED)
def test_keys_of_a_later_version_are_not_written_in_an_earlier_one(version: str) -> None:
    for source in ("1.0.0", "1.1.0"):
        written = Result.from_json(PREV[source], source).to_json(version)
        assert written["interfaces"] == [{"name": "eth0", "sandbox": NETNS, "vendor": 1}]
        assert written["routes"] == [{"dst": "0.0.0.0/0", "vendor": 1}]


def test_an_mtu_read_in_version_1_0_is_written_in_version_1_1() -> None:
    read = Result.from_json(PREV["1.0.0"], "1.0.0")
    assert read.interfaces[0].mtu is None
    assert read.to_json("1.1.0")["interfaces"][0]["mtu"] == 1400


@pytest.mark.parametrize("version", LEGACY)
def test_a_legacy_result_is_converted_to_a_later_version(version: str) -> None:
    written = Result.from_json(PREV[version], version).to_json("0.4.0")
    assert written["ips"] == [{"version": "4", "address": "10.0.0.7/24", "gateway": "10.0.0.1", "vendor": 1}]
    assert written["routes"] == [{"dst": "0.0.0.0/0"}]


@pytest.mark.parametrize("version", SUPPORTED)
def test_a_result_is_read_by_its_format_not_by_its_stated_version(version: str) -> None:
    # The loopback plugin of Debian 12 (plugins 1.1.1) prints this for every version.
    lists = {
        "cniVersion": version,
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": NETNS}],
        "ips": [{"interface": 0, "address": "127.0.0.1/8"}, {"interface": 0, "address": "::1/128"}],
        "dns": {},
    }
    read = Result.from_json(lists, version)
    assert read.interfaces == (Interface("lo", "00:00:00:00:00:00", NETNS),)
    assert [ip.address for ip in read.ips] == ["127.0.0.1/8", "::1/128"]
    legacy = {"cniVersion": version, "ip4": {"ip": "10.0.0.7/24"}}
    assert [ip.address for ip in Result.from_json(legacy, version).ips] == ["10.0.0.7/24"]


@pytest.mark.parametrize("version", LEGACY)
def test_legacy_versions_omit_the_address_of_loopback(version: str) -> None:
    linked = with_address(LOOPBACK, "in1", "10.9.0.1/24")
    for result in (LOOPBACK, linked):
        assert result.to_json(version) == {"cniVersion": version, "dns": {}}


INVALID: list[tuple[object, str]] = [
    ([], "a result must be an object"),
    (None, "a result must be an object"),
    ({"interfaces": {}}, "interfaces must be a list"),
    ({"interfaces": ["eth0"]}, r"interfaces\[0\] must be an object"),
    ({"interfaces": [{}]}, r"interfaces\[0\].name must be a string"),
    ({"interfaces": [{"name": "eth0", "mac": 1}]}, r"interfaces\[0\].mac must be a string"),
    ({"ips": "10.0.0.1/24"}, "ips must be a list"),
    ({"ips": [{}]}, r"ips\[0\].address must be an address with its prefix length, not null"),
    ({"ips": [{"address": "10.0.0.1"}]}, r"ips\[0\].address"),
    ({"ips": [{"address": "10.0.0.1/33"}]}, r"ips\[0\].address"),
    ({"ips": [{"address": 167772161}]}, r"ips\[0\].address"),
    ({"ips": [{"address": "10.0.0.1/24", "interface": 0}]}, r"ips\[0\].interface is 0, of 0 interfaces"),
    ({"interfaces": [{"name": "a"}], "ips": [{"address": "10.0.0.1/24", "interface": 1}]}, "is 1, of 1 interfaces"),
    ({"interfaces": [{"name": "a"}], "ips": [{"address": "10.0.0.1/24", "interface": -1}]}, "whole number"),
    ({"interfaces": [{"name": "a"}], "ips": [{"address": "10.0.0.1/24", "interface": True}]}, "whole number"),
    ({"interfaces": [{"name": "a"}], "ips": [{"address": "10.0.0.1/24", "interface": "0"}]}, "whole number"),
    ({"routes": [{"gw": "10.0.0.1"}]}, r"routes\[0\].dst"),
    ({"dns": []}, "dns must be an object"),
]


@pytest.mark.parametrize("version", RICH)
@pytest.mark.parametrize(("obj", "cause"), INVALID)
def test_an_invalid_result_is_rejected_with_its_key_and_cause(version: str, obj: object, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        Result.from_json(obj, version)


@pytest.mark.parametrize("version", LEGACY)
@pytest.mark.parametrize(
    ("obj", "cause"),
    [
        ([], "a result must be an object"),
        ({"ip4": []}, "ip4 must be an object"),
        ({"ip4": {}}, "ip4.ip must be"),
        ({"ip6": {"ip": "fd00::1/129"}}, "ip6.ip must be"),
        ({"ip4": {"ip": "10.0.0.1/24", "routes": [{"dst": "default"}]}}, r"ip4.routes\[0\].dst must be"),
    ],
)
def test_an_invalid_legacy_result_is_rejected(version: str, obj: object, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        Result.from_json(obj, version)


def test_a_null_interface_index_is_read_as_none() -> None:
    read = Result.from_json({"ips": [{"address": "10.0.0.1/24", "interface": None}]}, "1.0.0")
    assert read.ips[0].interface is None


@pytest.mark.parametrize(
    ("result", "found"),
    [
        (RESULT, True),
        (Result(), False),
        (LOOPBACK, False),
        (with_address(LOOPBACK, "in1", "10.9.0.1/24"), False),
        (with_address(LOOPBACK, "eth0", "10.9.0.1/24"), True),
        (Result((Interface("eth0"),), (IPConfig("10.0.0.7/24", interface=0),)), False),
        (Result((POD_END,)), False),
        (Result.from_json({"ip4": {"ip": "10.0.0.7/24"}}, "0.1.0"), True),
        (Result.from_json({"ip4": {"ip": "127.0.0.1/8"}}, "0.1.0"), False),
    ],
)
def test_the_address_of_a_pod_is_found_only_on_its_own_interface(result: Result, found: bool) -> None:
    assert result.has_address_on("eth0", NETNS) is found
