"""The network configuration: the file of 2017, every key, and invalid values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ratchet.cni.attachments import ValidAttachment
from ratchet.cni.command import Command
from ratchet.cni.config import NetworkConfig, read_config
from ratchet.cni.versions import SUPPORTED
from ratchet.core.kinds import Wiring
from ratchet.core.limits import LinkLimits
from ratchet.errors import InvalidConfigError, RatchetError, UndecodableError, UnsupportedVersionError

EXAMPLE = Path(__file__).parents[2] / "manifests" / "examples" / "10-ratchet.conf"
MINIMAL = {"cniVersion": "1.0.0", "name": "links", "type": "ratchet"}


def encode(**keys: Any) -> bytes:
    return json.dumps({**MINIMAL, **keys}).encode()


def read(**keys: Any) -> NetworkConfig:
    return read_config(encode(**keys))


def test_the_file_of_2017_is_read_unchanged() -> None:
    config = read_config(EXAMPLE.read_bytes())
    assert config.cni_version == "0.1.0"
    assert (config.name, config.type) == ("ratchet-demo", "ratchet")
    assert config.delegate == {"name": "cbr0", "type": "flannel", "delegate": {"isDefaultGateway": True}}
    assert config.boot_network == {"type": "loopback"}
    assert (config.parent_interface, config.parent_address) == ("eth0", "192.168.1.73")
    assert config.ignored == ("etcd_host", "etcd_port", "child_path", "use_labels")
    assert config.unknown == ()
    assert config.raw == json.loads(EXAMPLE.read_bytes())


def test_every_key_but_name_and_type_is_optional() -> None:
    config = read()
    assert config.prev_result is None
    assert config.valid_attachments is None
    assert (config.delegate, config.boot_network) == (None, None)
    assert (config.parent_interface, config.parent_address, config.kubeconfig) == (None, None, None)
    assert (config.namespace, config.wait, config.vxlan_port) == ("ratchet", None, None)
    assert config.wiring is Wiring.PANEL
    assert config.vni_range == (11, 16777215)
    assert config.limits == LinkLimits(1024, 16384)
    assert (config.log_file, config.log_level, config.state_dir) == (None, "info", None)
    assert (config.ignored, config.unknown, dict(config.runtime_config)) == ((), (), {})


GIVEN = {
    "parent_interface": "bond0.100",
    "parent_address": "2001:db8::7",
    "kubeconfig": "/etc/ratchet/kubeconfig",
    "namespace": "links",
    "wait": 2.5,
    "wiring": "panel",
    "vxlan_port": 8472,
    "links_per_pod": 64,
    "links_per_namespace": 500,
    "guard": False,
    "log_file": "/var/log/ratchet.log",
    "log_level": "debug",
    "state_dir": "/run/ratchet",
}


@pytest.mark.parametrize("key", GIVEN)
def test_a_given_value_is_used_and_null_means_the_default(key: str) -> None:
    assert getattr(read(**{key: GIVEN[key]}), key) == GIVEN[key]
    assert getattr(read(**{key: None}), key) == getattr(read(), key)


@pytest.mark.parametrize(("given", "used"), [("on", True), ("off", False), (None, True)])
def test_topologies_are_used_unless_they_are_off(given: str | None, used: bool) -> None:
    assert read(topologies=given).topologies is used
    assert read().topologies is True


@pytest.mark.parametrize(("key", "value"), [("wait", 0), ("vxlan_port", 1), ("vxlan_port", 65535)])
def test_numbers_at_their_limits_are_accepted(key: str, value: int) -> None:
    assert getattr(read(**{key: value}), key) == value


def test_a_range_of_ports_is_a_list() -> None:
    assert read(vxlan_ports=[1, 65535]).vxlan_ports == (1, 65535)
    assert read().vxlan_ports is None


@pytest.mark.parametrize("low_high", [(1, 1), (1, 16777215), (500, 600)])
def test_vni_ranges_at_their_limits_are_accepted(low_high: tuple[int, int]) -> None:
    assert read(vni_range=list(low_high)).vni_range == low_high


def test_keys_of_2017_are_ignored_and_unknown_keys_are_named() -> None:
    config = read(cniDir="/var/lib/cni", etcd_port=2379, use_labels="yes", waitt=3, Delegate={})
    assert config.ignored == ("etcd_port", "use_labels", "cniDir")
    assert config.unknown == ("Delegate", "waitt")


def test_keys_of_the_specification_are_known() -> None:
    keys = ("cniVersions", "capabilities", "args", "dns", "ipMasq", "ipam", "disableCheck", "disableGC")
    more = ("loadOnlyInlinedPlugins", "cni.dev/anything", "runtimeConfig", "prevResult")
    assert read(**dict.fromkeys([*keys, *more])).unknown == ()


WRONG = [
    ("name", ""),
    ("name", None),
    ("name", 7),
    ("name", "../x"),
    ("name", "a b"),
    ("name", "name\n"),
    ("type", None),
    ("type", 7),
    ("type", ""),
    ("type", "../ratchet"),
    ("cniVersion", 1),
    ("cniVersion", ["1.0.0"]),
    ("runtimeConfig", []),
    ("parent_interface", 0),
    ("parent_interface", "eth0 "),
    ("parent_interface", "a" * 16),
    ("parent_address", 3232235849),
    ("parent_address", "192.168.1.73/24"),
    ("parent_address", "192.168.1.273"),
    ("parent_address", "fe80::1%eth0"),
    ("parent_address", "0.0.0.0"),
    ("parent_address", "224.0.0.1"),
    ("parent_address", ""),
    ("kubeconfig", True),
    ("kubeconfig", "kubeconfig"),
    ("namespace", "kube/system"),
    ("namespace", ""),
    ("namespace", 1),
    ("wait", "ten"),
    ("wait", -1),
    ("wait", True),
    ("wait", 10**400),
    ("wiring", "patch"),
    ("wiring", True),
    ("vxlan_port", 0),
    ("vxlan_port", 65536),
    ("vxlan_port", "4789"),
    ("vxlan_port", 4789.0),
    ("vxlan_port", True),
    ("vxlan_ports", [0, 5]),
    ("vxlan_ports", [4789, 65536]),
    ("vxlan_ports", 4789),
    ("guard", "off"),
    ("guard", 0),
    ("vni_range", [0, 5]),
    ("vni_range", [5, 4]),
    ("vni_range", [1, 16777216]),
    ("vni_range", [1]),
    ("vni_range", [1, 2, 3]),
    ("vni_range", [True, 5]),
    ("vni_range", [1.0, 5]),
    ("vni_range", "11-20"),
    ("log_file", ["/var/log/x"]),
    ("log_file", "x.log"),
    ("log_file", "/var/log/\x1b[2Jx"),
    ("topologies", "maybe"),
    ("topologies", False),
    ("wait_policy", "maybe"),
    ("wait_policy", True),
    ("log_level", "verbose"),
    ("log_level", "INFO"),
    ("log_level", 10),
    ("state_dir", "state"),
    ("delegate", []),
    ("delegate", "flannel"),
    ("boot_network", 1),
    ("cni.dev/valid-attachments", {}),
    ("cni.dev/valid-attachments", ["abc"]),
    ("cni.dev/valid-attachments", [{"containerID": "abc"}]),
    ("cni.dev/valid-attachments", [{"containerID": "abc", "ifname": 0}]),
    ("cni.dev/valid-attachments", [{"containerID": "", "ifname": "eth0"}]),
    ("prevResult", []),
    ("prevResult", {"ips": [{"address": "10.0.0.1"}]}),
    ("prevResult", {"ips": [{"address": "10.0.0.1/24", "interface": 0}]}),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_an_invalid_value_fails_with_code_7_and_names_its_key(key: str, value: object) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        read(**{key: value})
    assert caught.value.code == 7
    assert str(caught.value).startswith("cannot read the network configuration: ")
    assert f'"{key}' in str(caught.value)
    assert str(caught.value).isascii()


def test_the_message_has_the_expected_type_and_the_actual_value() -> None:
    with pytest.raises(InvalidConfigError) as caught:
        read(wait="ten")
    assert str(caught.value) == ('cannot read the network configuration: "wait" must be a number of seconds, not "ten"')


def test_the_message_is_short_and_printable_for_any_value() -> None:
    with pytest.raises(InvalidConfigError) as caught:
        read(wait="\x1b[2J\u202e\x7f" + "x" * 100_000)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("key", ["delegate", "boot_network"])
@pytest.mark.parametrize(
    "plugin_type", ["../../bin/sh", "/bin/sh", "a/b", "a\\b", ".", "..", "", None, 1, "lo\x00", "lo\n", "ratchet"]
)
def test_the_type_of_a_delegate_must_be_the_plain_name_of_another_plugin(key: str, plugin_type: object) -> None:
    with pytest.raises(InvalidConfigError, match=f'"{key}.type"'):
        read(**{key: {"type": plugin_type}})


@pytest.mark.parametrize("name", [7, "a/b", "", "a\n"])
def test_an_invalid_name_of_a_delegate_is_rejected(name: object) -> None:
    with pytest.raises(InvalidConfigError, match=r'"delegate\.name"'):
        read(delegate={"type": "ptp", "name": name})


@pytest.mark.parametrize("version", ["1.2.0", 1, "latest"])
def test_an_unsupported_version_of_a_delegate_fails_with_code_1(version: object) -> None:
    with pytest.raises(UnsupportedVersionError, match=r"delegate.cniVersion") as caught:
        read(delegate={"type": "ptp", "cniVersion": version})
    assert caught.value.code == 1


@pytest.mark.parametrize("version", SUPPORTED)
def test_every_supported_version_is_accepted(version: str) -> None:
    assert read(cniVersion=version).cni_version == version


@pytest.mark.parametrize("version", [None, ""])
def test_a_missing_version_means_0_1_0(version: str | None) -> None:
    assert read(cniVersion=version).cni_version == "0.1.0"


@pytest.mark.parametrize("version", ["0.0.1", "0.5.0", "1.0.1", "1.2.0", "2.0.0", "1.0", "v1.0.0", "1.0.0 ", "\x1b"])
def test_an_unsupported_version_fails_with_code_1_and_lists_the_supported_ones(version: str) -> None:
    with pytest.raises(UnsupportedVersionError) as caught:
        read(cniVersion=version)
    assert caught.value.code == 1
    assert all(supported in caught.value.details for supported in SUPPORTED)
    assert str(caught.value).isascii()


@pytest.mark.parametrize(
    "stdin",
    [
        b"",
        b"\n",
        b"{",
        b"[]",
        b'"ratchet"',
        b"null",
        b"{'name': 'x'}",
        b'{"name": "links", "type": "ratchet", "wait": NaN}',
        b'{"name": "links", "type": "ratchet", "wait": 1e999}',
        b'{"name": "links", "type": "ratchet", "wait": -Infinity}',
        b'{"wait": ' + b"9" * 5000 + b"}",
        b'{"name": "\xff"}',
        b"\xff\xfe{\x00}\x00",
        b"[" * 100_000,
        b"Reading configuration...\n{}",
    ],
    ids=lambda stdin: repr(stdin[:40]),
)
def test_input_that_is_not_a_json_object_fails_with_code_6(stdin: bytes) -> None:
    with pytest.raises(UndecodableError, match="cannot decode the network configuration: ") as caught:
        read_config(stdin)
    assert caught.value.code == 6
    assert str(caught.value).isascii()


def test_a_missing_list_of_attachments_differs_from_an_empty_one() -> None:
    assert read().valid_attachments is None
    assert read(**{"cni.dev/valid-attachments": None}).valid_attachments is None
    assert read(**{"cni.dev/valid-attachments": []}).valid_attachments == ()


def test_attachments_are_read_from_either_key_and_the_specified_key_wins() -> None:
    listed = [{"containerID": "abc", "ifname": "eth0"}, {"containerID": "def", "ifname": "net1"}]
    both = (ValidAttachment("abc", "eth0"), ValidAttachment("def", "net1"))
    assert read(**{"cni.dev/valid-attachments": listed}).valid_attachments == both
    assert read(**{"cni.dev/attachments": listed}).valid_attachments == both
    assert read(**{"cni.dev/valid-attachments": [], "cni.dev/attachments": listed}).valid_attachments == ()


@pytest.mark.parametrize("version", SUPPORTED)
def test_prev_result_is_read_in_the_configurations_version(version: str) -> None:
    legacy = version in ("0.1.0", "0.2.0")
    prev = {"ip4": {"ip": "10.0.0.7/24"}} if legacy else {"ips": [{"version": "4", "address": "10.0.0.7/24"}]}
    result = read(cniVersion=version, prevResult=prev).prev_result
    assert result is not None
    assert [ip.address for ip in result.ips] == ["10.0.0.7/24"]


def test_prev_result_is_read_in_its_own_version_if_it_states_one() -> None:
    prev = {"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.7/24"}}
    result = read(cniVersion="1.0.0", prevResult=prev).prev_result
    assert result is not None
    assert [ip.address for ip in result.ips] == ["10.0.0.7/24"]


def test_only_del_ignores_an_invalid_prev_result() -> None:
    stdin = encode(prevResult={"ips": [{"address": "nonsense"}]})
    assert read_config(stdin, Command.DEL).prev_result is None
    for command in (Command.ADD, Command.CHECK):
        with pytest.raises(InvalidConfigError, match="prevResult"):
            read_config(stdin, command)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from([key for key, _ in WRONG] + ["etcd_host", "dns", "cni.dev/attachments"])


def is_read(stdin: bytes, command: Command = Command.ADD) -> bool:
    """Whether a configuration is read. Asserts that it is rejected with a code of the specification otherwise."""
    try:
        read_config(stdin, command)
    except RatchetError as error:
        assert error.code in (1, 6, 7)
        assert str(error).isascii()
        return False
    return True


def test_any_bytes_are_read_or_rejected() -> None:
    outcomes = set()

    @given(st.binary())
    @example(encode())
    def check(stdin: bytes) -> None:
        outcomes.add(is_read(stdin))

    check()
    assert outcomes == {True, False}


@pytest.mark.parametrize("command", Command)
def test_any_values_are_read_or_rejected(command: Command) -> None:
    outcomes = set()

    @given(st.dictionaries(KEYS, JSON, max_size=4))
    def check(values: dict[str, Any]) -> None:
        outcomes.add(is_read(encode(**values), command))

    check()
    assert outcomes == {True, False}


def test_any_prev_result_is_read_or_rejected() -> None:
    outcomes = set()

    @given(JSON)
    def check(value: Any) -> None:
        for prev in (value, {"ips": value}, {"ips": [{"address": value}]}, {"interfaces": value}, {"routes": [value]}):
            for version in ("0.2.0", "1.1.0"):
                outcomes.add((version, is_read(encode(cniVersion=version, prevResult=prev))))

    check()
    assert outcomes == {(version, read) for version in ("0.2.0", "1.1.0") for read in (True, False)}
