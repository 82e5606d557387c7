"""Delegates that succeed, fail or misbehave. Shell scripts take the place of the plugins."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ratchet.cni import delegate
from ratchet.cni.arguments import Arguments, read_arguments
from ratchet.cni.config import NetworkConfig, read_config
from ratchet.cni.delegation import Delegation, prepare
from ratchet.cni.execute import STDERR_LIMIT, STDOUT_LIMIT, find_plugin, run_plugin
from ratchet.errors import DelegateError, MalformedRecordError

GOOD_RESULT = '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.7/24"}],"dns":{}}'
# A plugin that records its input for each command and runs the script of that command from a file beside it.
PLUGIN = """#!/bin/sh
here={here}
echo "$CNI_COMMAND" >> $here/commands
cat > $here/stdin.$CNI_COMMAND
env > $here/env.$CNI_COMMAND
if [ -f $here/script.$CNI_COMMAND ]; then . $here/script.$CNI_COMMAND; fi
exit 0
"""


@dataclass
class Fake:
    """A plugin named `fake` in a directory of its own. `set_script` sets what it runs for a command."""

    here: Path

    def set_script(self, command: str, script: str) -> None:
        (self.here / f"script.{command}").write_text(script)

    def set_versions(self, *versions: str) -> None:
        answer = json.dumps({"cniVersion": "1.1.0", "supportedVersions": versions})
        self.set_script("VERSION", f"echo '{answer}'")

    @property
    def commands(self) -> list[str]:
        commands_file = self.here / "commands"
        return commands_file.read_text().split() if commands_file.exists() else []

    def stdin(self, command: str) -> dict[str, Any]:
        given = json.loads((self.here / f"stdin.{command}").read_text())
        assert isinstance(given, dict)
        return given

    def environ(self, command: str) -> dict[str, str]:
        lines = (self.here / f"env.{command}").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    binary = tmp_path / "fake"
    binary.write_text(PLUGIN.format(here=tmp_path))
    binary.chmod(0o755)
    plugin = Fake(tmp_path)
    plugin.set_script("ADD", f"echo '{GOOD_RESULT}'")
    plugin.set_versions("0.3.1", "0.4.0", "1.0.0", "1.1.0")
    return plugin


def call(fake: Fake, command: str = "ADD", **changed: str) -> Arguments:
    variables = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "abc",
        "CNI_NETNS": "/run/netns/pod",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": f"/nonexistent:{fake.here}",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=web-0",
    }
    return read_arguments({**variables, **changed})


def network(version: str = "1.0.0", **keys: Any) -> NetworkConfig:
    return read_config(json.dumps({"cniVersion": version, "name": "links", "type": "ratchet", **keys}).encode())


def test_add_passes_the_delegates_configuration_with_our_name_and_version(fake: Fake) -> None:
    done = delegate.add({"type": "fake", "bridge": "cni0", "ipam": {"type": "x"}}, network(), call(fake))
    expected = {"type": "fake", "bridge": "cni0", "ipam": {"type": "x"}, "name": "links", "cniVersion": "1.0.0"}
    assert fake.stdin("ADD") == expected
    assert done.config == expected
    assert done.result == json.loads(GOOD_RESULT)
    assert [ip.address for ip in done.decoded_result().ips] == ["10.0.0.7/24"]


def test_a_delegate_keeps_its_own_name_and_version(fake: Fake) -> None:
    delegate.add({"type": "fake", "name": "cbr0", "cniVersion": "0.3.1"}, network(), call(fake))
    assert (fake.stdin("ADD")["name"], fake.stdin("ADD")["cniVersion"]) == ("cbr0", "0.3.1")


def test_a_delegate_gets_the_cni_variables_of_the_call(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNI_LEFTOVER", "of another call")
    monkeypatch.setenv("SOMETHING", "else")
    arguments = call(fake, CNI_EXTRA="kept")
    delegate.add({"type": "fake"}, network(), arguments)
    seen = fake.environ("ADD")
    assert {name: value for name, value in seen.items() if name.startswith("CNI_")} == arguments.variables
    assert (seen["SOMETHING"], seen["PATH"]) == ("else", os.environ["PATH"])


def test_runtime_config_has_only_the_capabilities_that_the_delegate_declares(fake: Fake) -> None:
    ours = network(runtimeConfig={"portMappings": [{"hostPort": 80}], "bandwidth": {}, "mac": "0a:00:00:00:00:01"})
    declared = {"portMappings": True, "bandwidth": False, "ips": True}
    delegate.add({"type": "fake", "capabilities": declared}, ours, call(fake))
    assert fake.stdin("ADD")["runtimeConfig"] == {"portMappings": [{"hostPort": 80}]}
    assert "capabilities" not in fake.stdin("ADD")


def test_without_capabilities_there_is_no_runtime_config(fake: Fake) -> None:
    delegate.add({"type": "fake"}, network(runtimeConfig={"mac": "x"}, args={"cni": {"ips": []}}), call(fake))
    assert "runtimeConfig" not in fake.stdin("ADD")
    assert fake.stdin("ADD")["args"] == {"cni": {"ips": []}}


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_del_gets_prev_result_from_0_4_0_on(fake: Fake, version: str) -> None:
    result = '{"ip4":{"ip":"10.0.0.7/24"}}' if version < "0.3" else '{"ips":[{"address":"10.0.0.7/24"}]}'
    fake.set_script("ADD", f"echo '{result}'")
    done = delegate.add({"type": "fake"}, network(version), call(fake))
    delegate.delete(done, call(fake, "DEL", CNI_NETNS=""))
    given = fake.stdin("DEL")
    assert given.pop("prevResult", None) == (json.loads(result) if version >= "0.4.0" else None)
    assert given == fake.stdin("ADD")
    assert fake.environ("DEL")["CNI_NETNS"] == ""


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_check_is_run_from_0_4_0_on_with_prev_result(fake: Fake, version: str) -> None:
    done = delegate.add({"type": "fake"}, network(version), call(fake))
    delegate.check(done, call(fake, "CHECK"))
    assert fake.commands == (["ADD"] if version == "0.3.1" else ["ADD", "CHECK"])
    if version != "0.3.1":
        assert fake.stdin("CHECK")["prevResult"] == json.loads(GOOD_RESULT)


def test_check_raises_the_error_of_the_delegate(fake: Fake) -> None:
    fake.set_script("CHECK", """echo '{"code": 120, "msg": "eth0 is down"}'; exit 1""")
    with pytest.raises(DelegateError, match=r"cannot check the delegate network .*: eth0 is down") as caught:
        delegate.check(delegate.add({"type": "fake"}, network(), call(fake)), call(fake, "CHECK"))
    assert caught.value.code == 120


def test_a_delegation_is_encoded_and_decoded_without_loss(fake: Fake) -> None:
    done = delegate.add({"type": "fake", "bridge": "cni0"}, network(), call(fake))
    read = Delegation.from_json(json.loads(json.dumps(done.to_json())))
    assert (read.config, read.result) == (done.config, done.result)
    before = prepare({"type": "fake"}, network())
    assert Delegation.from_json(before.to_json()).result is None
    assert before.decoded_result().ips == ()


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        {},
        {"config": []},
        {"config": {"type": "fake"}},
        {"config": {"type": "../fake", "cniVersion": "1.0.0"}},
        {"config": {"type": "fake", "cniVersion": "9.0.0"}},
        {"config": {"type": "fake", "cniVersion": []}},
        {"config": {"type": "fake", "cniVersion": "1.0.0"}, "result": "x"},
    ],
)
def test_a_malformed_delegation_is_rejected(record: object) -> None:
    with pytest.raises(MalformedRecordError):
        Delegation.from_json(record)


def test_an_error_has_the_delegates_code_message_and_details(fake: Fake) -> None:
    fake.set_script("ADD", """echo '{"code": 11, "msg": "no lease", "details": "pool is full"}'; exit 1""")
    with pytest.raises(DelegateError) as caught:
        delegate.add({"type": "fake"}, network(), call(fake))
    assert str(caught.value) == "cannot add the delegate network (type fake): no lease"
    assert (caught.value.code, caught.value.details) == (11, "pool is full")


def test_an_error_without_details_gets_the_end_of_stderr(fake: Fake) -> None:
    fake.set_script("ADD", """echo 'panic: \033[31mred' >&2; echo '{"code": 999, "msg": "broken"}'; exit 1""")
    with pytest.raises(DelegateError) as caught:
        delegate.add({"type": "fake"}, network(), call(fake))
    assert caught.value.details == "panic: \\x1b[31mred"


@pytest.mark.parametrize("code", ["0", "-1", "true", '"4"', "1.5", "null", "99999999999"])
def test_an_invalid_error_code_becomes_103(fake: Fake, code: str) -> None:
    fake.set_script("ADD", f"""echo '{{"code": {code}, "msg": "broken"}}'; exit 1""")
    with pytest.raises(DelegateError, match="broken") as caught:
        delegate.add({"type": "fake"}, network(), call(fake))
    assert caught.value.code == 103


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ("exit 3", "exit status 3"),
        ("kill -9 $$", "killed by signal 9"),
        ("echo oops; exit 1", "exit status 1, having printed oops"),
        ("echo '[]'; exit 1", r"exit status 1, having printed \[\]"),
        ("echo oops >&2; exit 1", "exit status 1$"),
        ("exit 0", "it printed no result$"),
        ("echo Starting; echo '{}'", r"it printed no result in JSON but Starting\\n\{\}"),
        ("printf '\\033[2J\\377'", r"it printed no result in JSON but \\x1b\[2J\\ufffd"),
        ("echo '[]'", "it printed no result in JSON but"),
        ("""echo '{"cniVersion": "9.9.9"}'""", 'cniVersion "9.9.9" is not supported'),
        ("""echo '{"cniVersion": []}'; exit 0""", "its result is wrong|not supported"),
        ("""echo '{"ips": [{"address": "10.0.0.1/24", "interface": 2}]}'""", "its result is wrong: .*of 0 interfaces"),
        ("""echo '{"ips": [{"address": "x"}]}'""", "its result is wrong: .*address"),
        ("yes | head -c 2000000", "it printed more than 1048576 bytes"),
    ],
)
def test_a_misbehaving_delegate_is_reported_with_the_cause(fake: Fake, script: str, cause: str) -> None:
    fake.set_script("ADD", script)
    with pytest.raises(DelegateError, match=cause) as caught:
        delegate.add({"type": "fake"}, network(), call(fake))
    assert str(caught.value).startswith("cannot add the delegate network (type fake): ")
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert caught.value.code == 103


def test_a_flood_on_stderr_is_read_and_only_its_end_is_kept(fake: Fake) -> None:
    fake.set_script("ADD", f"yes x | head -c 5000000 >&2; echo the end >&2; echo '{GOOD_RESULT}'")
    done = delegate.add({"type": "fake"}, network(), call(fake))
    assert done.stderr.endswith("the end")
    assert len(done.stderr) < STDERR_LIMIT


def test_the_captured_output_of_a_plugin_is_bounded(fake: Fake) -> None:
    fake.set_script("ADD", "yes x | head -c 3000000 >&2; yes y | head -c 3000000")
    completed = run_plugin(str(fake.here / "fake"), b"{}", {"CNI_COMMAND": "ADD"}, 20)
    assert (len(completed.stdout), len(completed.stderr)) == (STDOUT_LIMIT + 1, STDERR_LIMIT)


def test_a_delegate_that_hangs_is_killed_with_its_children(fake: Fake) -> None:
    fake.set_script("ADD", f"sleep 3600 & echo $! > {fake.here}/child; echo $$ > {fake.here}/parent; wait")
    with pytest.raises(DelegateError, match="did not end in time and was killed"):
        delegate.add({"type": "fake"}, network(), call(fake), timeout=0.5)
    for name in ("child", "parent"):
        assert has_ended(int((fake.here / name).read_text()))


def has_ended(pid: int) -> bool:
    """Whether a process ends within 2 seconds. A zombie has ended: only its new parent can reap it."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_a_background_process_that_holds_stdout_does_not_block_add(fake: Fake) -> None:
    fake.set_script("ADD", f"sleep 3600 & echo $! > {fake.here}/child; echo '{GOOD_RESULT}'")
    done = delegate.add({"type": "fake"}, network(), call(fake))
    assert done.result == json.loads(GOOD_RESULT)
    os.kill(int((fake.here / "child").read_text()), 9)


def test_a_child_is_polled_if_the_kernel_has_no_pidfd_open(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", missing)
    fake.set_script("ADD", f"yes x | head -c 500000 >&2; echo '{GOOD_RESULT}'")
    assert delegate.add({"type": "fake"}, network(), call(fake)).result == json.loads(GOOD_RESULT)
    fake.set_script("ADD", "exec sleep 300")
    with pytest.raises(DelegateError, match="did not end in time"):
        delegate.add({"type": "fake"}, network(), call(fake), timeout=0.2)


def test_a_delegate_that_closes_its_output_and_hangs_is_killed(fake: Fake) -> None:
    fake.set_script("ADD", "exec >&- 2>&-; exec sleep 300")
    with pytest.raises(DelegateError, match="did not end in time"):
        delegate.add({"type": "fake"}, network(), call(fake), timeout=0.5)


def test_a_delegate_may_leave_a_large_configuration_unread(tmp_path: Path) -> None:
    binary = tmp_path / "deaf"
    binary.write_text(f"#!/bin/sh\necho '{GOOD_RESULT}'\n")
    binary.chmod(0o755)
    done = delegate.add({"type": "deaf", "filler": "x" * 1_000_000}, network(), call(Fake(tmp_path)))
    assert done.result == json.loads(GOOD_RESULT)


def test_a_child_inherits_neither_our_stdout_nor_other_descriptors(
    fake: Fake, capfd: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    fake.set_script("ADD", f"ls /proc/$$/fd > {fake.here}/descriptors; echo noise >&2; echo '{GOOD_RESULT}'")
    delegate.add({"type": "fake"}, network(), call(fake))
    assert capfd.readouterr() == ("", "")
    assert str(writing) not in (fake.here / "descriptors").read_text().split()
    os.close(reading)
    os.close(writing)


def test_no_file_descriptor_stays_open_after_a_run(fake: Fake) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    delegate.add({"type": "fake"}, network(), call(fake))
    fake.set_script("ADD", "exit 1")
    with pytest.raises(DelegateError):
        delegate.add({"type": "fake"}, network(), call(fake))
    assert set(Path("/proc/self/fd").iterdir()) <= before


def test_a_plugin_is_found_in_the_first_directory_that_has_it(tmp_path: Path) -> None:
    for directory, mode in (("a", 0o644), ("b", 0o755), ("c", 0o755)):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "fake").write_text("")
        (tmp_path / directory / "fake").chmod(mode)
    (tmp_path / "dir" / "fake").mkdir(parents=True)
    paths = [str(tmp_path / name) for name in ("none", "dir", "a", "b", "c")]
    assert find_plugin("fake", paths) == f"{tmp_path}/b/fake"


def test_a_plugin_in_another_root_is_found_there_and_runs_in_a_chroot(tmp_path: Path) -> None:
    (tmp_path / "root" / "bin").mkdir(parents=True)
    shutil.copy("/proc/self/exe", tmp_path / "root" / "bin" / "fake")
    assert find_plugin("fake", ["/bin"], f"{tmp_path}/root") == "/bin/fake"
    with pytest.raises(DelegateError, match="no executable of that name in /bin"):
        find_plugin("fake", ["/bin"])
    completed = run_plugin("/bin/fake", b"{}", {"CNI_COMMAND": "ADD"}, 5, f"{tmp_path}/root")
    assert completed.status in (125, 126, 127)  # chroot(1): it is not permitted, or the program's libraries are missing
    assert b"chroot" in completed.stderr


def test_a_missing_plugin_is_reported_with_the_searched_paths_and_a_remedy(fake: Fake) -> None:
    with pytest.raises(DelegateError) as caught:
        delegate.add({"type": "flannel"}, network(), call(fake))
    assert f"/nonexistent, {fake.here}" in str(caught.value)
    assert "install flannel" in caught.value.details
    with pytest.raises(DelegateError, match="CNI_PATH, which is empty"):
        delegate.add({"type": "flannel"}, network(), call(fake, CNI_PATH=""))


def test_a_binary_that_the_system_cannot_run_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    (tmp_path / "text").chmod(0o755)
    with pytest.raises(DelegateError, match=r"cannot run .*/text: Exec format error"):
        run_plugin(str(tmp_path / "text"), b"", {}, 1)


def test_the_error_of_a_failed_del_never_contains_not_found(fake: Fake) -> None:
    fake.set_script("DEL", """echo '{"code": 3, "msg": "link not found", "details": "x not found"}'; exit 1""")
    with pytest.raises(DelegateError, match=r"cannot delete .*: link missing") as caught:
        delegate.delete(prepare({"type": "fake"}, network()), call(fake, "DEL"))
    assert (caught.value.code, caught.value.details) == (3, "x missing")
    with pytest.raises(DelegateError) as absent:
        delegate.delete(prepare({"type": "absent"}, network()), call(fake, "DEL"))
    assert "not found" not in f"{absent.value} {absent.value.details}"


REFUSE = """if ! grep -q '"cniVersion": "0.4.0"' {here}/stdin.$CNI_COMMAND; then
echo '{{"code": 1, "msg": "incompatible CNI versions"}}'; exit 1; fi; """


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_a_delegate_is_called_in_the_latest_version_that_it_supports(fake: Fake, command: str) -> None:
    fake.set_script(command, REFUSE.format(here=fake.here) + f"echo '{GOOD_RESULT}'")
    fake.set_versions("0.3.1", "0.4.0")
    if command == "ADD":
        assert delegate.add({"type": "fake"}, network("1.1.0"), call(fake)).version == "0.4.0"
    else:
        delegate.delete(prepare({"type": "fake"}, network("1.1.0")), call(fake, "DEL"))
    assert fake.commands == [command, "VERSION", command]
    assert fake.stdin(command)["cniVersion"] == "0.4.0"


def test_a_delegate_that_rejects_every_version_is_called_once(fake: Fake) -> None:
    fake.set_script("ADD", """echo '{"code": 1, "msg": "incompatible"}'; exit 1""")
    with pytest.raises(DelegateError, match="incompatible") as caught:
        delegate.add({"type": "fake"}, network(), call(fake))
    assert (caught.value.code, fake.commands) == (1, ["ADD", "VERSION"])
    fake.set_versions("1.1.0")
    with pytest.raises(DelegateError, match=r"none of the CNI versions up to 1.0.0") as none:
        delegate.add({"type": "fake"}, network(), call(fake))
    assert (none.value.code, none.value.details) == (1, "it says that it speaks 1.1.0")


ATTACHMENTS = [{"containerID": "abc", "ifname": "eth0"}]


def valid(*attachments: dict[str, str], version: str = "1.1.0") -> NetworkConfig:
    return network(version, **{"cni.dev/valid-attachments": list(attachments)})


@pytest.mark.parametrize("listed", [ATTACHMENTS, []])
def test_gc_passes_the_valid_attachments_to_the_delegate(fake: Fake, listed: list[dict[str, str]]) -> None:
    assert delegate.gc({"type": "fake"}, valid(*listed), call(fake, "GC"))
    assert fake.stdin("GC")["cni.dev/valid-attachments"] == listed
    assert fake.stdin("GC")["cni.dev/attachments"] == listed
    assert fake.environ("GC")["CNI_COMMAND"] == "GC"


def test_gc_without_valid_attachments_does_not_run_the_delegate(fake: Fake) -> None:
    assert not delegate.gc({"type": "fake"}, network("1.1.0"), call(fake, "GC"))
    assert fake.commands == []


@pytest.mark.parametrize("run", [delegate.gc, delegate.status])
def test_gc_and_status_skip_a_delegate_of_an_earlier_version(fake: Fake, run: Callable[..., bool]) -> None:
    assert not run({"type": "fake", "cniVersion": "1.0.0"}, valid(), call(fake, "GC"))
    fake.set_versions("0.4.0", "1.0.0")
    assert not run({"type": "fake"}, valid(), call(fake, "GC"))
    fake.set_script("VERSION", """echo '{"code": 4, "msg": "unknown CNI_COMMAND: VERSION"}'; exit 1""")
    assert not run({"type": "fake"}, valid(), call(fake, "GC"))
    assert set(fake.commands) == {"VERSION"}


def test_gc_raises_the_error_of_the_delegate(fake: Fake) -> None:
    fake.set_script("GC", """echo '{"code": 5, "msg": "disk full"}'; exit 1""")
    with pytest.raises(DelegateError, match=r"cannot collect garbage of .*: disk full") as caught:
        delegate.gc({"type": "fake"}, valid(), call(fake, "GC"))
    assert caught.value.code == 5


def test_status_of_a_ready_delegate_succeeds(fake: Fake) -> None:
    assert delegate.status({"type": "fake"}, network("1.1.0"), call(fake, "STATUS"))
    assert fake.commands == ["VERSION", "STATUS"]
    assert fake.stdin("STATUS") == {"type": "fake", "name": "links", "cniVersion": "1.1.0"}


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("""echo '{"code": 50, "msg": "down"}'; exit 1""", 50),
        ("""echo '{"code": 51, "msg": "down"}'; exit 1""", 51),
        ("""echo '{"code": 7, "msg": "down"}'; exit 1""", 50),
        ("exit 1", 50),
        ("sleep 300", 50),
    ],
)
def test_status_of_an_unavailable_delegate_is_50_or_51(fake: Fake, script: str, code: int) -> None:
    fake.set_script("STATUS", script)
    with pytest.raises(DelegateError) as caught:
        delegate.status({"type": "fake"}, network("1.1.0"), call(fake, "STATUS"), timeout=0.5)
    assert caught.value.code == code


@pytest.mark.parametrize("versions", [("9.0.0",), ()])
def test_status_of_a_delegate_without_a_common_version_is_50(fake: Fake, versions: tuple[str, ...]) -> None:
    fake.set_versions(*versions)
    with pytest.raises(DelegateError) as caught:
        delegate.status({"type": "fake"}, network("1.1.0"), call(fake, "STATUS"))
    assert caught.value.code == 50


def test_status_without_the_delegates_binary_is_50(fake: Fake) -> None:
    with pytest.raises(DelegateError, match="cannot find the plugin absent") as caught:
        delegate.status({"type": "absent"}, network("1.1.0"), call(fake, "STATUS"))
    assert caught.value.code == 50
