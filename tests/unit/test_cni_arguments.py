"""The environment variables of a CNI call: which command requires which, and invalid values."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.cni.arguments import read_arguments
from ratchet.cni.command import Command
from ratchet.errors import InvalidEnvironmentError, RatchetError

COMPLETE = {
    "CNI_CONTAINERID": "abc123",
    "CNI_NETNS": "/run/netns/pod",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;"
    "K8S_POD_INFRA_CONTAINER_ID=abc123;K8S_POD_UID=1b9c0a52-7a1e-4a7e-8a53-0d5b3b2f1c11",
}


def environ(command: str, *without: str, **changed: str) -> dict[str, str]:
    variables = {"CNI_COMMAND": command, **COMPLETE, **changed}
    return {name: value for name, value in variables.items() if name not in without}


def test_a_complete_environment_is_read() -> None:
    arguments = read_arguments({**environ("ADD"), "PATH": "/usr/bin"})
    assert arguments.command is Command.ADD
    assert (arguments.container_id, arguments.netns, arguments.ifname) == ("abc123", "/run/netns/pod", "eth0")
    assert arguments.path == ("/opt/cni/bin", "/usr/lib/cni")
    assert (arguments.pod_namespace, arguments.pod_name) == ("default", "web-0")
    assert arguments.pod_uid == "1b9c0a52-7a1e-4a7e-8a53-0d5b3b2f1c11"
    assert arguments.args["K8S_POD_INFRA_CONTAINER_ID"] == "abc123"
    assert arguments.variables == environ("ADD")


def test_the_pairs_of_cni_args_may_have_any_order() -> None:
    pairs = COMPLETE["CNI_ARGS"].split(";")
    for order in itertools.permutations(pairs):
        assert read_arguments(environ("ADD", CNI_ARGS=";".join(order))).pod_name == "web-0"


@pytest.mark.parametrize("args", ["", "IgnoreUnknown=true", "IgnoreUnknown=1;FOO=BAR;"])
def test_the_names_of_the_pod_are_empty_without_k8s_args(args: str) -> None:
    arguments = read_arguments(environ("ADD", CNI_ARGS=args))
    assert (arguments.pod_namespace, arguments.pod_name, arguments.pod_uid) == ("",) * 3
    assert "K8S_POD_INFRA_CONTAINER_ID" not in arguments.args


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("ADD", {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"}),
        ("CHECK", {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"}),
        ("DEL", {"CNI_CONTAINERID", "CNI_IFNAME"}),
        ("GC", {"CNI_PATH"}),
        ("STATUS", set()),
        ("VERSION", set()),
    ],
)
def test_each_command_requires_its_variables_and_no_others(command: str, needed: set[str]) -> None:
    assert read_arguments(environ(command, *(set(COMPLETE) - needed))).command == command
    for count in range(1, len(needed) + 1):
        for missing in itertools.combinations(sorted(needed), count):
            for absent in (environ(command, *missing), environ(command, **dict.fromkeys(missing, ""))):
                with pytest.raises(InvalidEnvironmentError) as caught:
                    read_arguments(absent)
                assert caught.value.code == 4
                assert {name for name in COMPLETE if name in str(caught.value)} == set(missing)


@pytest.mark.parametrize("command", ["", "add", "ADD ", "UPDATE", "\x1b[2J"])
def test_an_unknown_command_fails_with_code_4_and_names_cni_command(command: str) -> None:
    with pytest.raises(InvalidEnvironmentError, match="CNI_COMMAND") as caught:
        read_arguments(environ(command))
    assert caught.value.code == 4
    assert str(caught.value).isprintable()


def test_an_empty_environment_is_an_error_that_names_cni_command() -> None:
    with pytest.raises(InvalidEnvironmentError, match="CNI_COMMAND"):
        read_arguments({})


def test_del_accepts_a_missing_netns() -> None:
    assert read_arguments(environ("DEL", CNI_NETNS="")).netns == ""
    assert read_arguments(environ("DEL", "CNI_NETNS")).netns == ""


@pytest.mark.parametrize("command", ["GC", "STATUS", "VERSION"])
def test_commands_without_an_attachment_ignore_its_variables(command: str) -> None:
    arguments = read_arguments(environ(command, CNI_CONTAINERID="../x", CNI_IFNAME="a/b", CNI_ARGS="nonsense"))
    assert (arguments.container_id, arguments.netns, arguments.ifname, dict(arguments.args)) == ("", "", "", {})


INVALID = [
    ("CNI_CONTAINERID", "../../etc/passwd"),
    ("CNI_CONTAINERID", ".hidden"),
    ("CNI_CONTAINERID", "-rf"),
    ("CNI_CONTAINERID", "a/b"),
    ("CNI_CONTAINERID", "a b"),
    ("CNI_CONTAINERID", "abc\n"),
    ("CNI_CONTAINERID", "äbc"),
    ("CNI_CONTAINERID", "a" * 201),
    ("CNI_NETNS", "run/netns/pod"),
    ("CNI_NETNS", "/run/netns/\x07"),
    ("CNI_IFNAME", "."),
    ("CNI_IFNAME", ".."),
    ("CNI_IFNAME", "a/b"),
    ("CNI_IFNAME", "eth0:1"),
    ("CNI_IFNAME", "eth 0"),
    ("CNI_IFNAME", "eth0\n"),
    ("CNI_IFNAME", "eth\x00"),
    ("CNI_IFNAME", "eth\x7f"),
    ("CNI_IFNAME", "eth\u202e0"),
    ("CNI_IFNAME", "eth\udc80"),
    ("CNI_IFNAME", "a" * 16),
    ("CNI_IFNAME", "ä" * 8),
    ("CNI_ARGS", "K8S_POD_NAME"),
    ("CNI_ARGS", "IgnoreUnknown=1;=web-0"),
    ("CNI_ARGS", "K8S_POD_NAME=web-0;K8S_POD_NAME=web-1"),
    ("CNI_ARGS", "K8S_POD_NAME=../../secrets"),
    ("CNI_ARGS", "K8S_POD_NAME=web-0?watch=1"),
    ("CNI_ARGS", "K8S_POD_NAME=Web"),
    ("CNI_ARGS", "K8S_POD_NAME=web..0"),
    ("CNI_ARGS", "K8S_POD_NAME=" + "a" * 254),
    ("CNI_ARGS", "K8S_POD_NAMESPACE=a.b"),
    ("CNI_ARGS", "K8S_POD_NAMESPACE=default/pods"),
    ("CNI_ARGS", "K8S_POD_NAMESPACE=" + "a" * 64),
    ("CNI_ARGS", "K8S_POD_UID=a/b"),
]


@pytest.mark.parametrize(("variable", "value"), INVALID)
def test_an_invalid_variable_fails_with_code_4_and_is_named(variable: str, value: str) -> None:
    with pytest.raises(InvalidEnvironmentError) as caught:
        read_arguments(environ("ADD", **{variable: value}))
    assert caught.value.code == 4
    assert [name for name in COMPLETE if name in str(caught.value)] == [variable]
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("variable", "value", "attribute", "read"),
    [
        ("CNI_CONTAINERID", "0" * 200, "container_id", "0" * 200),
        ("CNI_CONTAINERID", "a_b.c-D", "container_id", "a_b.c-D"),
        ("CNI_IFNAME", "a" * 15, "ifname", "a" * 15),
        ("CNI_IFNAME", "ä" * 7, "ifname", "ä" * 7),
        ("CNI_ARGS", "K8S_POD_NAME=" + "a" * 253, "pod_name", "a" * 253),
        ("CNI_ARGS", "K8S_POD_NAME=kube-proxy.node-1", "pod_name", "kube-proxy.node-1"),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=" + "a" * 63, "pod_namespace", "a" * 63),
        ("CNI_ARGS", "IP=10.0.0.1/24;KEY=a=b", "args", {"IP": "10.0.0.1/24", "KEY": "a=b"}),
    ],
)
def test_values_at_their_limits_are_accepted(variable: str, value: str, attribute: str, read: object) -> None:
    assert getattr(read_arguments(environ("ADD", **{variable: value})), attribute) == read


def test_any_environment_is_read_or_rejected() -> None:
    outcomes = set()

    @given(
        st.dictionaries(st.sampled_from(["CNI_COMMAND", *COMPLETE]), st.text(), max_size=6), st.sampled_from(Command)
    )
    def check(variables: dict[str, str], command: Command) -> None:
        for candidate in (variables, {**COMPLETE, **variables, "CNI_COMMAND": command}):
            try:
                assert read_arguments(candidate).command == candidate["CNI_COMMAND"]
                outcomes.add("read")
            except RatchetError as error:
                assert error.code == 4
                assert str(error).isascii()
                outcomes.add("rejected")

    check()
    assert outcomes == {"read", "rejected"}
