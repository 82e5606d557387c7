"""The frames between shim and agent: encoding, decoding, limits, and the constants of the shim."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ratchet.agent.frame import (
    ANSWER_MAX,
    HEADER_BYTES,
    REQUEST_MAX,
    STDIN_MAX,
    VARIABLE_MAX,
    VARIABLES,
    VARIABLES_MAX,
    FrameError,
    Reply,
    Request,
    decode_request,
    encode_answer,
    encode_request,
    header,
    read_answer,
    read_request,
)

ADD = Request({"CNI_COMMAND": "ADD", "CNI_IFNAME": "eth0", "CNI_NETNS": ""}, b'{"name": "net"}', 12.5)
LINKED = Reply(1, b'{"code": 11}')

# An environment can hold bytes that are not UTF-8, which Python represents as surrogates.
values = st.binary(max_size=60).map(lambda raw: raw.replace(b"\0", b"").decode(errors="surrogateescape"))
times = st.integers(0, 2**50).map(lambda nanoseconds: nanoseconds / 1e9)
requests = st.builds(Request, st.dictionaries(st.sampled_from(VARIABLES), values), st.binary(max_size=200), times)
answers = st.builds(Reply, st.integers(0, 255), st.binary(max_size=200))


def frame(  # one argument per field
    body: bytes = b"",
    *,
    magic: bytes = b"RTCH",
    version: int = 1,
    kind: int = 1,
    count: int = 0,
    began: int = 0,
    length: int | None = None,
) -> bytes:
    fields = (magic, version, kind, count, began, len(body) if length is None else length)
    return struct.pack(">4sBBHQI", *fields) + body


def variable(raw: bytes) -> bytes:
    return len(raw).to_bytes(4, "big") + raw


def decode_answer(raw: bytes) -> Reply:
    return read_answer(BytesIO(raw).read)


@given(requests)
def test_a_decoded_request_equals_the_encoded_request(request: Request) -> None:
    assert decode_request(encode_request(request)) == request


@given(answers)
def test_a_decoded_answer_equals_the_encoded_answer(answer: Reply) -> None:
    assert decode_answer(encode_answer(answer)) == answer


@given(requests, answers, st.integers(1, 9))
def test_frames_are_read_in_pieces_and_no_byte_after_them_is_read(request: Request, answer: Reply, piece: int) -> None:
    stream = BytesIO(encode_request(request) + encode_answer(answer) + b"rest")
    assert read_request(lambda most: stream.read(min(most, piece))) == request
    assert read_answer(lambda most: stream.read(min(most, piece))) == answer
    assert stream.read() == b"rest"


def test_a_request_has_the_layout_of_the_protocol() -> None:
    variables = b"\0\0\0\x0fCNI_COMMAND=ADD" + b"\0\0\0\x0aCNI_NETNS=" + b"\0\0\0\x0fCNI_IFNAME=eth0"
    began = (12_500_000_000).to_bytes(8, "big")
    head = b"RTCH" + b"\x01" + b"\x01" + b"\0\x03" + began + (len(variables) + 15).to_bytes(4, "big")
    assert encode_request(ADD) == head + variables + b'{"name": "net"}'


def test_an_answer_has_the_layout_of_the_protocol() -> None:
    assert encode_answer(LINKED) == b"RTCH" + b"\x01" + b"\x02" + b"\0\x01" + bytes(8) + b"\0\0\0\x0c" + LINKED.stdout


def test_the_order_of_the_variables_does_not_matter() -> None:
    reordered = Request({name: ADD.variables[name] for name in reversed(list(ADD.variables))}, ADD.stdin, ADD.began)
    assert encode_request(reordered) == encode_request(ADD)
    body = variable(b"CNI_PATH=/bin") + variable(b"CNI_COMMAND=GC")
    assert decode_request(frame(body, count=2)).variables == {"CNI_PATH": "/bin", "CNI_COMMAND": "GC"}


def test_a_value_may_hold_an_equals_sign() -> None:
    assert decode_request(frame(variable(b"CNI_ARGS=A=1;B=2"), count=1)).variables == {"CNI_ARGS": "A=1;B=2"}


# Invalid frames


@pytest.mark.parametrize("length", range(len(encode_request(ADD))))
def test_a_truncated_request_is_rejected(length: int) -> None:
    with pytest.raises(FrameError, match=r"cannot read the frame: it ends \d+ bytes early"):
        decode_request(encode_request(ADD)[:length])


@pytest.mark.parametrize("length", range(len(encode_answer(LINKED))))
def test_a_truncated_answer_is_rejected(length: int) -> None:
    with pytest.raises(FrameError, match=r"cannot read the frame: it ends \d+ bytes early"):
        decode_answer(encode_answer(LINKED)[:length])


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (frame(magic=b"HTTP"), "it begins with b'HTTP', expected b'RTCH'"),
        (frame(version=2), "its version is 2, expected 1"),
        (frame(kind=2), "its kind is 2, expected 1"),
        (frame(kind=0), "its kind is 0, expected 1"),
        (frame(count=VARIABLES_MAX + 1), "it has 17 variables, and may have 16"),
        (frame(count=1), "a variable is cut short"),
        (frame(b"\0\0\0", count=1), "a variable is cut short"),
        (frame(b"\0\0\0\x05CNI_", count=1), "a variable is cut short"),
        (frame(variable(b"CNI_ARGS=") + b"\0", count=2), "a variable is cut short"),
        (frame(variable(b"CNI_ARGS"), count=1), "'CNI_ARGS' is none of CNI_COMMAND, .*"),
        (frame(variable(b""), count=1), "'' is none of CNI_COMMAND, .*"),
        (frame(variable(b"LD_PRELOAD=x"), count=1), "'LD_PRELOAD' is none of CNI_COMMAND, .*"),
        (frame(variable(b"\xff=x"), count=1), r"'\\udcff' is none of CNI_COMMAND, .*"),
        (frame(variable(b"CNI_ARGS=1") + variable(b"CNI_ARGS=1"), count=2), "CNI_ARGS comes twice"),
        (frame(variable(b"CNI_ARGS=\0"), count=1), "a variable has a zero byte"),
        (frame() + b"more", "4 bytes follow it"),
    ],
)
def test_an_invalid_request_is_rejected(raw: bytes, cause: str) -> None:
    with pytest.raises(FrameError, match=f"^cannot read the frame: {cause}$") as raised:
        decode_request(raw)
    assert raised.value.code == 11


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (frame(magic=b"rtch", kind=2), "it begins with b'rtch', expected b'RTCH'"),
        (frame(version=0, kind=2), "its version is 0, expected 1"),
        (frame(kind=1), "its kind is 1, expected 2"),
        (frame(kind=2, count=256), "256 is no exit status"),
        (frame(kind=2, began=1), "an answer has no time"),
    ],
)
def test_an_invalid_answer_is_rejected(raw: bytes, cause: str) -> None:
    with pytest.raises(FrameError, match=f"^cannot read the frame: {cause}$"):
        decode_answer(raw)


def test_arbitrary_bytes_are_decoded_or_rejected() -> None:
    decoders: tuple[Callable[[bytes], object], ...] = (decode_request, decode_answer)
    outcomes = set()

    @given(st.one_of(st.binary(max_size=80), st.binary(max_size=80).map(lambda rest: b"RTCH\x01\x01\0\x01" + rest)))
    @example(encode_request(ADD))
    @example(encode_answer(LINKED))
    def check(raw: bytes) -> None:
        for decode in decoders:
            try:
                decode(raw)
                outcomes.add((decode, "decoded"))
            except FrameError as error:
                assert str(error).startswith("cannot read the frame: ")
                outcomes.add((decode, "rejected"))

    check()
    assert outcomes == {(decode, outcome) for decode in decoders for outcome in ("decoded", "rejected")}


def header_only(raw: bytes) -> Callable[[int], bytes]:
    stream = BytesIO(raw[:HEADER_BYTES])

    def read(most: int) -> bytes:
        piece = stream.read(most)
        assert piece, "the body was asked for"
        return piece

    return read


def test_a_length_over_the_limit_is_rejected_before_the_body_is_read() -> None:
    one_variable = 4 + VARIABLE_MAX + STDIN_MAX
    with pytest.raises(FrameError, match=f"its body has {one_variable + 1} bytes, and may have {one_variable}"):
        read_request(header_only(frame(count=1, length=one_variable + 1)))
    with pytest.raises(FrameError, match=f"its body has {ANSWER_MAX + 1} bytes, and may have {ANSWER_MAX}"):
        read_answer(header_only(frame(kind=2, length=ANSWER_MAX + 1)))
    with pytest.raises(FrameError, match="it has 65535 variables"):
        read_request(header_only(frame(count=65535)))


# At the limits, and one above


def test_frames_at_the_limits_are_valid() -> None:
    args = "x" * (VARIABLE_MAX - len("CNI_ARGS="))
    most = Request(dict.fromkeys(VARIABLES, "y") | {"CNI_ARGS": args}, bytes(STDIN_MAX), 0.0)
    assert decode_request(encode_request(most)) == most
    assert len(encode_request(most)) <= REQUEST_MAX
    assert decode_answer(encode_answer(Reply(255, bytes(ANSWER_MAX)))).stdout == bytes(ANSWER_MAX)


@pytest.mark.parametrize(
    ("request_", "cause"),
    [
        (Request({"CNI_ARGS": "x" * VARIABLE_MAX}, b"", 0), "CNI_ARGS has 65545 bytes, and may have 65536"),
        (Request({}, bytes(STDIN_MAX + 1), 0), "stdin has 1048577 bytes, and may have 1048576"),
        (Request({"PATH": "/bin"}, b"", 0), "'PATH' is none of CNI_COMMAND, .*"),
        (Request({"CNI_ARGS": "\0"}, b"", 0), "CNI_ARGS has a zero byte"),
        (Request({}, b"", -1.0), "-1.0 is no time since boot"),
        (Request({}, b"", float("nan")), "nan is no time since boot"),
        (Request({}, b"", float("inf")), "inf is no time since boot"),
        (Request({}, b"", 2.0**64 / 1e9), ".* is no time since boot"),
    ],
)
def test_an_invalid_request_is_not_encoded(request_: Request, cause: str) -> None:
    with pytest.raises(FrameError, match=f"^cannot write the frame: {cause}$"):
        encode_request(request_)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (Reply(256, b""), "256 is no exit status"),
        (Reply(-9, b""), "-9 is no exit status"),
        (Reply(0, bytes(ANSWER_MAX + 1)), "the answer has 4194305 bytes, and may have 4194304"),
    ],
)
def test_an_invalid_answer_is_not_encoded(answer: Reply, cause: str) -> None:
    with pytest.raises(FrameError, match=f"^cannot write the frame: {cause}$"):
        encode_answer(answer)


@pytest.mark.parametrize("over", [VARIABLE_MAX + 1, 2**32 - 1])
def test_a_variable_over_the_limit_is_rejected(over: int) -> None:
    with pytest.raises(FrameError, match=f"a variable has {over} bytes, and may have {VARIABLE_MAX}"):
        decode_request(frame(over.to_bytes(4, "big") + bytes(VARIABLE_MAX + 1), count=1))


def test_stdin_over_the_limit_is_rejected_in_a_body_within_the_limit() -> None:
    with pytest.raises(FrameError, match=f"stdin has {STDIN_MAX + 1} bytes, and may have {STDIN_MAX}"):
        decode_request(frame(variable(b"CNI_ARGS=") + bytes(STDIN_MAX + 1), count=1))


# The shim


def test_the_header_of_the_shim_has_the_constants_of_the_agent() -> None:
    shim = Path(__file__).parents[2] / "shim"
    assert (shim / "frame.h").read_text() == header(), "python -m ratchet.agent.frame > shim/frame.h"
    command = [sys.executable, "-m", "ratchet.agent.frame"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=shim.parent).stdout
    assert printed == header()
