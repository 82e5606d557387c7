"""The agent's settings: flags, variables and a file, their precedence, and their errors."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from ratchet.agent.options import OPTIONS, host_and_port
from ratchet.agent.settings import Settings, add_arguments, settings_of
from ratchet.cni.config import read_config
from ratchet.cni.plugin_keys import PLUGIN_KEYS
from ratchet.errors import InvalidConfigError
from tests.support.settings import read_settings

GIVEN: dict[str, tuple[str, Any]] = {
    "node_name": ("worker-1.example", "worker-1.example"),
    "kubeconfig": ("/etc/ratchet/kubeconfig", "/etc/ratchet/kubeconfig"),
    "namespace": ("links", "links"),
    "topologies": ("off", False),
    "topologies_per_namespace": ("7", 7),
    "topology_links_per_namespace": ("900", 900),
    "topology_bytes_per_namespace": ("2048", 2048),
    "annotation_bytes_per_namespace": ("4096", 4096),
    "declaration_memory": ("64", 64),
    "socket": ("/run/r.sock", "/run/r.sock"),
    "state_dir": ("/var/lib/r", "/var/lib/r"),
    "spool_dir": ("/var/spool/r", "/var/spool/r"),
    "panel": ("/run/netns/p", "/run/netns/p"),
    "host_root": ("/host", "/host"),
    "parent_interface": ("bond0.100", "bond0.100"),
    "parent_address": ("2001:db8::7", "2001:db8::7"),
    "wiring": ("direct", "direct"),
    "vxlan_port": ("8472", 8472),
    "vxlan_ports": ("4780-4799", (4780, 4799)),
    "guard": ("off", False),
    "vni_range": ("500-600", (500, 600)),
    "links_per_pod": ("64", 64),
    "links_per_namespace": ("500", 500),
    "links_per_node": ("900", 900),
    "wait": ("2.5", 2.5),
    "wait_policy": ("require", "require"),
    "workers": ("3", 3),
    "resync": ("60", 60.0),
    "heartbeat": ("5", 5.0),
    "node_lost_after": ("45.5", 45.5),
    "metrics_addr": ("[::1]:9000", "[::1]:9000"),
    "health_addr": ("[::1]:9001", "[::1]:9001"),
    "log_format": ("json", "json"),
    "log_level": ("debug", "debug"),
    "events": ("false", False),
    "readiness": ("no", False),
    "drain_seconds": ("0", 0.0),
}
SWITCHES = ("guard", "events", "readiness")


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    return f"RATCHET_{name.upper()}"


def rejection(argv: list[str], environ: dict[str, str]) -> str:
    with pytest.raises(InvalidConfigError) as caught:
        read_settings(argv, environ)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "agent.yaml"


def test_the_defaults() -> None:
    settings = read_settings([], {})
    assert asdict(settings) == {
        "node_name": os.uname().nodename.lower(),
        "kubeconfig": None,
        "namespace": "ratchet",
        "topologies": True,
        "topologies_per_namespace": 64,
        "topology_links_per_namespace": 4096,
        "topology_bytes_per_namespace": 524288,
        "annotation_bytes_per_namespace": 1048576,
        "declaration_memory": 48,
        "socket": "/run/ratchet/agent.sock",
        "state_dir": "/var/lib/cni/ratchet",
        "spool_dir": "/var/lib/cni/ratchet/spool",
        "panel": "/run/netns/ratchet",
        "host_root": "",
        "parent_interface": None,
        "parent_address": None,
        "wiring": "panel",
        "vxlan_port": 4789,
        "vxlan_ports": None,
        "guard": True,
        "vni_range": (11, 16777215),
        "links_per_pod": 1024,
        "links_per_namespace": 16384,
        "links_per_node": 4096,
        "wait": None,
        "wait_policy": "proceed",
        "workers": 8,
        "resync": 300.0,
        "heartbeat": 10.0,
        "node_lost_after": 40.0,
        "metrics_addr": ":9472",
        "health_addr": "127.0.0.1:9473",
        "log_format": "text",
        "log_level": "info",
        "events": True,
        "readiness": True,
        "drain_seconds": 20.0,
    }


def test_every_setting_is_tested() -> None:
    assert set(GIVEN) == {one.name for one in fields(Settings)}


@pytest.mark.parametrize("name", GIVEN)
def test_a_setting_is_read_from_its_variable(name: str) -> None:
    text, value = GIVEN[name]
    assert getattr(read_settings([], {variable(name): text}), name) == value


@pytest.mark.parametrize("name", [name for name in GIVEN if name not in SWITCHES])
def test_a_setting_is_read_from_its_flag(name: str) -> None:
    text, value = GIVEN[name]
    assert getattr(read_settings([flag(name), text], {}), name) == value
    assert getattr(read_settings([f"{flag(name)}={text}"], {}), name) == value


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_has_two_flags(name: str) -> None:
    assert getattr(read_settings([f"--no-{name}"], {}), name) is False
    assert getattr(read_settings([f"--{name}"], {variable(name): "off"}), name) is True


@pytest.mark.parametrize("suffix", ["yaml", "json"])
@pytest.mark.parametrize("name", GIVEN)
def test_a_setting_is_read_from_the_file_as_text_or_as_its_type(name: str, suffix: str, tmp_path: Path) -> None:
    text, value = GIVEN[name]
    path = tmp_path / f"agent.{suffix}"
    for written in (text, value):
        path.write_text(json.dumps({name: written}, indent="\t" if suffix == "json" else None))
        assert getattr(read_settings(["--config", str(path)], {}), name) == value


def test_a_handwritten_yaml_file_is_read(file: Path) -> None:
    file.write_text(
        "# of the cluster's\n"
        "wait: 10\nvni_range: 100-200\nmetrics_addr: :9000\nevents: no\nparent_interface:\nnode_name: worker-1\n"
    )
    settings = read_settings([], {"RATCHET_CONFIG": str(file)})
    assert (settings.wait, settings.vni_range, settings.metrics_addr) == (10.0, (100, 200), ":9000")
    assert (settings.events, settings.parent_interface, settings.node_name) == (False, None, "worker-1")


def test_precedence_is_flag_variable_file_default(file: Path) -> None:
    file.write_text("wait: 1\n")
    argv, environ = ["--config", str(file)], {"RATCHET_WAIT": "2"}
    assert read_settings([*argv, "--wait", "3"], environ).wait == 3.0
    assert read_settings(argv, environ).wait == 2.0
    assert read_settings(argv, {}).wait == 1.0
    assert read_settings([], {}).wait is None


def test_the_config_flag_overrides_the_config_variable(file: Path) -> None:
    file.write_text("wait: 1\n")
    assert read_settings(["--config", str(file)], {"RATCHET_CONFIG": "/nowhere"}).wait == 1.0


def test_node_name_is_also_read_from_the_variable_of_daemonsets() -> None:
    assert read_settings([], {"NODE_NAME": "b"}).node_name == "b"
    assert read_settings([], {"NODE_NAME": "b", "RATCHET_NODE_NAME": "a"}).node_name == "a"
    assert "NODE_NAME must be the name of a node" in rejection([], {"NODE_NAME": "B_"})


def test_an_empty_variable_is_ignored_except_for_listen_addresses() -> None:
    others = [name for name in GIVEN if not name.endswith("_addr")]
    assert read_settings([], {variable(name): "" for name in others}) == read_settings([], {})
    for name in ("metrics_addr", "health_addr"):
        assert getattr(read_settings([], {variable(name): ""}), name) == ""
        assert getattr(read_settings([flag(name), ""], {variable(name): ":1"}), name) == ""


def test_spool_dir_defaults_to_a_folder_in_state_dir() -> None:
    assert read_settings(["--state-dir", "/s/"], {}).spool_dir == "/s/spool"
    assert read_settings(["--state-dir", "/s", "--spool-dir", "/t"], {}).spool_dir == "/t"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("wait", "0", 0.0),
        ("wait", "150", 150.0),
        ("vxlan_port", "1", 1),
        ("vxlan_port", "65535", 65535),
        ("vni_range", "1-1", (1, 1)),
        ("vni_range", "1-16777215", (1, 16777215)),
        ("heartbeat", "1", 1.0),
        ("workers", "1", 1),
        ("workers", "256", 256),
        ("resync", "10", 10.0),
        ("drain_seconds", "600", 600.0),
        ("metrics_addr", "localhost:0", "localhost:0"),
        ("metrics_addr", "0.0.0.0:65535", "0.0.0.0:65535"),
        ("socket", "/" + "s" * 106, "/" + "s" * 106),
        ("parent_interface", "a" * 15, "a" * 15),
        ("namespace", "n" * 63, "n" * 63),
    ],
)
def test_values_at_their_limits_are_accepted(name: str, text: str, value: object) -> None:
    assert getattr(read_settings([flag(name), text], {}), name) == value


WRONG = [
    ("node_name", "Node"),
    ("node_name", "a/b"),
    ("kubeconfig", "kubeconfig"),
    ("kubeconfig", ""),
    ("namespace", "kube.system"),
    ("namespace", "../x"),
    ("topologies", "yes"),
    ("topologies", "OFF"),
    ("topologies_per_namespace", "0"),
    ("topology_links_per_namespace", "-1"),
    ("topology_bytes_per_namespace", "512Ki"),
    ("annotation_bytes_per_namespace", "1Mi"),
    ("declaration_memory", "4"),
    ("socket", "agent.sock"),
    ("socket", "/" + "s" * 107),
    ("state_dir", "state"),
    ("spool_dir", "/sp\x1b[2Jool"),
    ("panel", "ratchet"),
    ("host_root", "host"),
    ("host_root", "/host/"),
    ("parent_interface", "eth0 "),
    ("parent_interface", "a" * 16),
    ("parent_address", "192.168.1.73/24"),
    ("parent_address", "0.0.0.0"),
    ("parent_address", "fe80::1%eth0"),
    ("wiring", "Panel"),
    ("vxlan_port", "0"),
    ("vxlan_port", "65536"),
    ("vxlan_port", "4789.0"),
    ("vni_range", "0-5"),
    ("vni_range", "5-4"),
    ("vni_range", "1-16777216"),
    ("vni_range", "7"),
    ("vni_range", "1-2-3"),
    ("wait", "-1"),
    ("wait", "150.1"),
    ("wait", "nan"),
    ("wait", "5s"),
    ("wait", ""),
    ("wait_policy", "Require"),
    ("workers", "0"),
    ("workers", "257"),
    ("workers", "two"),
    ("resync", "0"),
    ("heartbeat", "0.5"),
    ("node_lost_after", "2"),
    ("metrics_addr", "9472"),
    ("metrics_addr", "::1:9472"),
    ("metrics_addr", ":65536"),
    ("metrics_addr", "http://x:1"),
    ("health_addr", "9473"),
    ("log_format", "xml"),
    ("log_level", "INFO"),
    ("drain_seconds", "601"),
]


@pytest.mark.parametrize(("name", "text"), WRONG)
def test_an_invalid_setting_is_reported_with_its_source(name: str, text: str, file: Path) -> None:
    shown = json.dumps(text)[:80]
    begin = f"cannot read the agent's settings: {flag(name)} must be "
    assert (message := rejection([f"{flag(name)}={text}"], {})).startswith(begin)
    assert shown in message
    if text:
        assert f": {variable(name)} must be " in rejection([], {variable(name): text})
    file.write_text(json.dumps({name: text}))
    assert f': "{name}" in {file} must be ' in rejection(["--config", str(file)], {})


@pytest.mark.parametrize("word", ["maybe", "2", "truee"])
@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_rejects_words_that_are_not_boolean(name: str, word: str) -> None:
    message = rejection([], {variable(name): word})
    assert message == f'cannot read the agent\'s settings: {variable(name)} must be true or false, not "{word}"'


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("wait", True),
        ("wait", [1]),
        ("workers", 2.0),
        ("workers", True),
        ("vni_range", [1]),
        ("vni_range", [True, 5]),
        ("vni_range", [1.0, 5]),
        ("vni_range", 5),
        ("node_name", 7),
        ("namespace", ["a"]),
        ("topologies", 0),
        ("topologies", ["off"]),
        ("events", "sometimes"),
        ("events", 2),
        ("metrics_addr", 9472),
        ("log_level", 10),
    ],
)
def test_a_value_of_a_wrong_type_in_the_file_is_rejected(name: str, value: object, file: Path) -> None:
    file.write_text(json.dumps({name: value}))
    message = rejection(["--config", str(file)], {})
    assert message.startswith(f'cannot read the agent\'s settings: "{name}" in {file} must be ')
    assert message.endswith(f", not {json.dumps(value)}")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("waitt: 3\nwait-policy: proceed\n", 'unknown keys: "waitt", "wait-policy"'),
        ("config: /x\n", 'unknown keys: "config"'),
        ("- wait\n", '["wait"] is not a mapping'),
        ("wait", '"wait" is not a mapping'),
        ("a: [\n", "expected the node content"),
        ("a: !!python/object:os.system {}\n", "could not determine a constructor"),
        ("wait: 1\n\tworkers: 2\n", "found character '\\t'"),
    ],
)
def test_a_file_with_invalid_content_is_rejected(text: str, cause: str, file: Path) -> None:
    file.write_text(text)
    message = rejection(["--config", str(file)], {})
    assert message.startswith(f"cannot read the settings in {file}: ")
    assert cause in message
    assert "\n" not in message


def test_a_missing_or_undecodable_file_is_rejected(file: Path, tmp_path: Path) -> None:
    assert rejection(["--config", str(file)], {}) == f"cannot read the settings in {file}: No such file or directory"
    assert "Is a directory" in rejection(["--config", str(tmp_path)], {})
    file.write_bytes(b"\xff\xfe")
    assert rejection(["--config", str(file)], {}).startswith(f"cannot read the settings in {file}: ")
    broken = tmp_path / "agent.json"
    broken.write_text("{")
    assert rejection(["--config", str(broken)], {}).startswith(f"cannot read the settings in {broken}: ")


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}"])
def test_an_empty_file_gives_the_defaults(text: str, file: Path) -> None:
    file.write_text(text)
    assert read_settings(["--config", str(file)], {}) == read_settings([], {})


def test_vxlan_ports_must_include_the_ports_of_the_node() -> None:
    argv = ["--vxlan-port", "8472", "--vxlan-ports"]
    assert read_settings([*argv, "8472-8474"], {}).vxlan_ports == (8472, 8474)
    assert rejection([*argv, "8472-8473"], {}) == (
        "cannot read the agent's settings: vxlan_ports must include 8472-8474 for the vxlan_port 8472, not 8472-8473"
    )


def test_node_lost_after_must_be_at_least_three_heartbeats(file: Path) -> None:
    assert read_settings(["--heartbeat", "20", "--node-lost-after", "60"], {}).node_lost_after == 60.0
    assert rejection(["--heartbeat", "20"], {}).endswith(
        ": node_lost_after (default) must be at least 3 times --heartbeat, so 60 seconds, not 40"
    )
    file.write_text("node_lost_after: 29\n")
    assert rejection(["--config", str(file)], {}).endswith(
        f': "node_lost_after" in {file} must be at least 3 times heartbeat (default), so 30 seconds, not 29'
    )


def test_help_lists_every_option_with_its_default_and_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_settings(["--help"], {})
    assert ended.value.code == 0
    message = " ".join(capsys.readouterr().out.split())
    for name in GIVEN:
        assert flag(name) in message
        assert variable(name) in message
    assert "(default: :9472; env: RATCHET_METRICS_ADDR)" in message
    assert "(default: 0; for links in direct wiring 5; env: RATCHET_WAIT)" in message
    assert "(default: on; env: RATCHET_EVENTS)" in message


def test_a_subcommand_accepts_the_options() -> None:
    parser = argparse.ArgumentParser()
    agent = parser.add_subparsers().add_parser("agent")
    add_arguments(agent)
    agent.set_defaults(run=len)
    arguments = parser.parse_args(["agent", "--wait", "7"])
    assert settings_of(arguments, {"NODE_NAME": "a"}).wait == 7.0


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        (":9472", ("", 9472)),
        ("[::1]:9472", ("::1", 9472)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_host_and_port_splits_an_address(address: str, parts: tuple[str, int]) -> None:
    assert host_and_port(address) == parts


# `wait` has no maximum in the network configuration, and ranges are lists there.
OTHERWISE = {"wait", "vni_range", "vxlan_ports"}
SHARED = {option.name for option in OPTIONS} & {key.name for key in PLUGIN_KEYS} - OTHERWISE


@pytest.mark.parametrize("name", sorted(SHARED))
def test_a_setting_and_the_plugin_key_of_its_name_accept_the_same_values(name: str) -> None:
    (option,) = (option for option in OPTIONS if option.name == name)
    network = {"cniVersion": "1.0.0", "name": "n", "type": "ratchet"}
    with pytest.raises(InvalidConfigError) as caught:
        read_config(json.dumps({**network, name: "\0"}).encode())
    assert f'"{name}" must be {option.accepts}, not ' in str(caught.value)
    text, value = GIVEN[name]
    given = value if isinstance(value, int) and (not isinstance(value, bool) or name in SWITCHES) else text
    assert getattr(read_config(json.dumps({**network, name: given}).encode()), name) == value
