"""What the runtime reads besides results: errors, versions, and the commands of each version."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet import errors
from ratchet.cni.answer import answer_version, asked_version, error_json, version_json
from ratchet.cni.command import Command
from ratchet.cni.versions import LATEST, SUPPORTED, at_least, exists, gives_prev_result, highest_common, require
from ratchet.errors import RatchetError, UnsupportedVersionError


def every_error(base: type[RatchetError] = RatchetError) -> list[type[RatchetError]]:
    """The errors that a call can answer with. Which modules are imported by now depends on the other tests."""
    children = [child for child in base.__subclasses__() if not child.__module__.startswith("ratchet.cli.")]
    return [base, *(error for child in children for error in every_error(child))]


@pytest.mark.parametrize("version", SUPPORTED)
@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_an_error_has_a_version_code_message_and_details(kind: type[RatchetError], version: str) -> None:
    assert error_json(kind("cannot add x: y", details="do z"), version) == {
        "cniVersion": version,
        "code": kind.code,
        "msg": "cannot add x: y",
        "details": "do z",
    }


def test_only_errors_of_the_specification_have_its_codes() -> None:
    codes = {
        errors.UnsupportedVersionError: 1,
        errors.InvalidEnvironmentError: 4,
        errors.UndecodableError: 6,
        errors.InvalidConfigError: 7,
        errors.HostNamespaceError: 8,
        errors.TryAgainError: 11,
        errors.UnavailableError: 50,
    }
    assert {kind: kind.code for kind in codes} == codes
    children = set(every_error()) - set(codes)
    assert all(kind.code >= 100 or issubclass(kind, errors.TryAgainError) for kind in children)


def test_an_error_instance_can_have_its_own_code() -> None:
    error = errors.DelegateError("cannot add: no")
    error.code = 11
    assert error_json(error, LATEST)["code"] == 11
    assert errors.DelegateError.code == 103


def test_any_error_message_is_encoded_as_ascii_json() -> None:
    written = json.dumps(error_json(RatchetError('cannot "add" \udc80\x00\n'), "1.0.0"))
    assert written.isascii()
    assert json.loads(written)["msg"] == 'cannot "add" \udc80\x00\n'


def test_version_lists_supported_versions_and_echoes_the_requested_one() -> None:
    assert version_json("0.4.0") == {
        "cniVersion": "0.4.0",
        "supportedVersions": ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
    }


@pytest.mark.parametrize(
    ("stdin", "asked", "answered"),
    [
        (b"", "1.1.0", "1.1.0"),
        (b"not json", "1.1.0", "1.1.0"),
        (b"[]", "1.1.0", "1.1.0"),
        (b"{}", "1.1.0", "0.1.0"),
        (b'{"cniVersion": ""}', "1.1.0", "0.1.0"),
        (b'{"cniVersion": "0.4.0"}', "0.4.0", "0.4.0"),
        (b'{"cniVersion": "1.2.0"}', "1.2.0", "1.1.0"),
        (b'{"cniVersion": "1.2.0\\n"}', "1.1.0", "1.1.0"),
        (b'{"cniVersion": 1}', "1.1.0", "1.1.0"),
        (b'{"cniVersion": ["1.0.0"]}', "1.1.0", "1.1.0"),
    ],
)
def test_the_version_of_an_answer_is_derived_from_stdin(stdin: bytes, asked: str, answered: str) -> None:
    assert asked_version(stdin) == asked
    assert answer_version(stdin) == answered


@given(st.binary())
def test_any_stdin_is_answered_in_a_supported_version(stdin: bytes) -> None:
    assert answer_version(stdin) in SUPPORTED
    assert asked_version(stdin).isascii()


@pytest.mark.parametrize("version", SUPPORTED)
@pytest.mark.parametrize(
    ("command", "since"),
    [
        ("ADD", "0.1.0"),
        ("DEL", "0.1.0"),
        ("VERSION", "0.1.0"),
        ("CHECK", "0.4.0"),
        ("GC", "1.1.0"),
        ("STATUS", "1.1.0"),
    ],
)
def test_a_command_fails_with_code_1_below_its_first_version(command: str, since: str, version: str) -> None:
    if SUPPORTED.index(version) >= SUPPORTED.index(since):
        require(Command(command), version)
        assert exists(Command(command), version)
        return
    assert not exists(Command(command), version)
    with pytest.raises(UnsupportedVersionError, match=f"{command}.*{since}.*{version}") as caught:
        require(Command(command), version)
    assert caught.value.code == 1


def test_prev_result_is_given_from_0_4_0_on() -> None:
    assert [version for version in SUPPORTED if gives_prev_result(version)] == ["0.4.0", "1.0.0", "1.1.0"]


@pytest.mark.parametrize("version", SUPPORTED)
def test_at_least_orders_the_supported_versions(version: str) -> None:
    """In the order of their release; the text of a version is not compared."""
    released = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    assert [one for one in SUPPORTED if at_least(version, one)] == released[: released.index(version) + 1]


def test_at_least_rejects_a_version_that_is_not_supported() -> None:
    """A comparison of the texts would order 0.10.0 before 0.4.0."""
    for version, minimum in (("0.10.0", "0.4.0"), ("1.1.0", "0.10.0")):
        with pytest.raises(ValueError, match="not in tuple"):
            at_least(version, minimum)


@pytest.mark.parametrize(
    ("theirs", "ceiling", "common"),
    [
        (["0.3.1", "1.0.0", "0.4.0"], "1.1.0", "1.0.0"),
        (["0.3.1", "1.0.0"], "0.4.0", "0.3.1"),
        (["1.1.0"], "1.0.0", None),
        (["2.0.0"], "1.1.0", None),
        ([], "1.1.0", None),
    ],
)
def test_highest_common_is_the_latest_version_that_both_support(
    theirs: list[str], ceiling: str, common: str | None
) -> None:
    assert highest_common(theirs, ceiling) == common
