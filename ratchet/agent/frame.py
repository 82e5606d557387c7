"""The protocol between the shim and the agent: one request frame and one answer frame per connection.

This is the only definition. The shim is compiled with `shim/frame.h`, which `python -m ratchet.agent.frame` prints. A
frame is a header of 20 bytes, big-endian, and a body:

| bytes | header field | in a request | in an answer |
|---|---|---|---|
| 4 | magic | `RTCH` | `RTCH` |
| 1 | version | 1 | 1 |
| 1 | kind | 1: call, 3: panel | 2 |
| 2 | count | number of variables | the exit status, 0 to 255 |
| 8 | began | time of the call, nanoseconds of CLOCK_BOOTTIME | 0 |
| 4 | length | of the body, bytes | of the body, bytes |

The body of a call has each variable as a length of 4 bytes and `NAME=value`, and then stdin up to the end. The body of
an answer is the output on stdout. A request of kind 3 asks for the patch panel. Neither it nor its answer has a body.
With the answer comes the descriptor of the panel's namespace (unix(7), SCM_RIGHTS), if the agent has the panel open.
Nothing follows a frame. Neither side shuts down its half of the connection: the end of the other's stream means that
the other process is gone.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO

from ratchet.errors import TryAgainError

SOCKET = "/run/ratchet/agent.sock"
SPOOL = "/var/lib/cni/ratchet/spool"

MAGIC = b"RTCH"
VERSION = 1
REQUEST = 1
ANSWER = 2
PANEL = 3

# The parameters of the specification (SPEC.md, section 2, "Parameters"), in the order in which they are sent. The agent
# gets no other variables.
VARIABLES = ("CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH")

VARIABLES_MAX = 16
VARIABLE_MAX = 64 * 1024  # bytes of `NAME=value`; the kernel lets a variable have 128 KiB
STDIN_MAX = 1024 * 1024  # bytes; a pod's annotations, which a runtime may put in, are at most 256 KiB
# A result includes `prevResult`, which came on stdin. Escapes of non-ASCII characters are at most three times as long.
# The rest is for the links.
ANSWER_MAX = 4 * 1024 * 1024  # bytes

_FIELDS = {"MAGIC": "4s", "VERSION": "B", "KIND": "B", "COUNT": "H", "BEGAN": "Q", "LENGTH": "I"}
_HEADER = struct.Struct(">" + "".join(_FIELDS.values()))
_LENGTH = struct.Struct(">I")
HEADER_BYTES = _HEADER.size
PANEL_REQUEST = _HEADER.pack(MAGIC, VERSION, PANEL, 0, 0, 0)
REQUEST_MAX = HEADER_BYTES + VARIABLES_MAX * (_LENGTH.size + VARIABLE_MAX) + STDIN_MAX  # bytes of a whole request

_STATUS_MAX = 255
_NANOSECONDS = 1e9


class FrameError(TryAgainError):
    """A received frame is invalid, of another version or over a limit, or a frame cannot be encoded.

    The runtime retries: while shim and agent are upgraded, their versions differ.
    """


@dataclass(frozen=True, slots=True)
class Request:
    """A call of the runtime. `variables` are some of VARIABLES.

    `began` is the time of the call in seconds since boot (CLOCK_BOOTTIME). Bytes of a variable that are not UTF-8 are
    surrogates, as in os.environ.
    """

    variables: Mapping[str, str]
    stdin: bytes
    began: float


@dataclass(frozen=True, slots=True)
class PanelRequest:
    """A request for the descriptor of the open patch panel."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of a call: the shim writes `stdout` and exits with `status`, 0 to 255."""

    status: int
    stdout: bytes


@dataclass(frozen=True, slots=True)
class _Header:
    kind: int
    count: int
    began: int
    length: int


def encode_request(request: Request) -> bytes:
    """Encode a request. Raises FrameError if it is over a limit."""
    variables = [_encode_variable(name, request.variables[name]) for name in _in_order(request.variables)]
    if len(request.stdin) > STDIN_MAX:
        raise _unwritable(f"stdin has {len(request.stdin)} bytes, and may have {STDIN_MAX}")
    return _frame(REQUEST, len(variables), _to_nanoseconds(request.began), b"".join([*variables, request.stdin]))


def decode_request(frame: bytes) -> Request:
    """Decode a complete request frame. Raises FrameError."""
    stream = BytesIO(frame)
    request = read_request(stream.read)
    if follow := len(stream.read()):
        raise _unreadable(f"{follow} bytes follow it")
    return request


def read_request(read: Callable[[int], bytes]) -> Request:
    """Read one call, as `read_any_request` reads a request."""
    return _read_body(read, _read_header(read, REQUEST))


def read_any_request(read: Callable[[int], bytes]) -> Request | PanelRequest:
    """Read one request.

    `read(n)` returns one to `n` bytes, or none at the end of the stream, as socket.recv does. The limits are checked
    before the body is read. Raises FrameError, and the errors of `read`.
    """
    header = _read_header(read, REQUEST, PANEL)
    if header.kind == REQUEST:
        return _read_body(read, header)
    if header.count or header.length:
        raise _unreadable("a request for the panel has no body")
    return PanelRequest()


def _read_body(read: Callable[[int], bytes], header: _Header) -> Request:
    if header.count > VARIABLES_MAX:
        raise _unreadable(f"it has {header.count} variables, and may have {VARIABLES_MAX}")
    _check_length(header.length, header.count * (_LENGTH.size + VARIABLE_MAX) + STDIN_MAX)
    variables, stdin = _decode_body(_read_exactly(read, header.length), header.count)
    return Request(variables, stdin, header.began / _NANOSECONDS)


def encode_answer(answer: Reply) -> bytes:
    """Encode an answer. Raises FrameError if it is over a limit."""
    if not 0 <= answer.status <= _STATUS_MAX:
        raise _unwritable(f"{answer.status} is no exit status")
    if len(answer.stdout) > ANSWER_MAX:
        raise _unwritable(f"the answer has {len(answer.stdout)} bytes, and may have {ANSWER_MAX}")
    return _frame(ANSWER, answer.status, 0, answer.stdout)


def read_answer(read: Callable[[int], bytes]) -> Reply:
    """Read one answer, as `read_any_request` reads a request."""
    header = _read_header(read, ANSWER)
    if header.count > _STATUS_MAX:
        raise _unreadable(f"{header.count} is no exit status")
    if header.began:
        raise _unreadable("an answer has no time")
    _check_length(header.length, ANSWER_MAX)
    return Reply(header.count, _read_exactly(read, header.length))


def header() -> str:
    """The definition for the shim: the text of `shim/frame.h`."""
    from ratchet.core.panel import PANEL_MARK, PANEL_PATH  # here, so that each call of `agent.client` starts faster

    places = [struct.calcsize(">" + "".join(list(_FIELDS.values())[:index])) for index in range(len(_FIELDS))]
    numbers = {
        "VERSION": VERSION,
        "REQUEST": REQUEST,
        "ANSWER": ANSWER,
        "PANEL": PANEL,
        "HEADER_BYTES": HEADER_BYTES,
        **{f"AT_{name}": place for name, place in zip(_FIELDS, places, strict=True)},
        "VARIABLE_MAX": VARIABLE_MAX,
        "STDIN_MAX": STDIN_MAX,
        "ANSWER_MAX": ANSWER_MAX,
        "STATUS_MAX": _STATUS_MAX,
    }
    panel = {"PANEL_PATH": PANEL_PATH, "PANEL_MARK": PANEL_MARK}
    texts = {"MAGIC": MAGIC.decode(), "SOCKET": SOCKET, "SPOOL": SPOOL, **panel}
    names = ", ".join(f'"{name}"' for name in VARIABLES)
    return "\n".join(
        [
            "/* Between the shim and the agent. Printed by `python -m ratchet.agent.frame`: change it there. */",
            "#ifndef RATCHET_FRAME_H",
            "#define RATCHET_FRAME_H",
            "",
            *(f"#define FRAME_{name} {number}" for name, number in numbers.items()),
            *(f'#define FRAME_{name} "{text}"' for name, text in texts.items()),
            f"#define FRAME_VARIABLES {{{names}}}",
            f"#define FRAME_VARIABLES_COUNT {len(VARIABLES)}",
            "",
            "#endif",
            "",
        ]
    )


def _in_order(variables: Mapping[str, str]) -> list[str]:
    for name in variables:
        if name not in VARIABLES:
            raise _unwritable(f"{name!a} is none of {', '.join(VARIABLES)}")
    return [name for name in VARIABLES if name in variables]


def _encode_variable(name: str, value: str) -> bytes:
    variable = f"{name}={value}".encode(errors="surrogateescape")
    if len(variable) > VARIABLE_MAX:
        raise _unwritable(f"{name} has {len(variable)} bytes, and may have {VARIABLE_MAX}")
    if b"\0" in variable:
        raise _unwritable(f"{name} has a zero byte")
    return _LENGTH.pack(len(variable)) + variable


def _to_nanoseconds(seconds: float) -> int:
    if not (math.isfinite(seconds) and 0 <= seconds * _NANOSECONDS < 2**64):
        raise _unwritable(f"{seconds} is no time since boot")
    return round(seconds * _NANOSECONDS)


def _frame(kind: int, count: int, began: int, body: bytes) -> bytes:
    return _HEADER.pack(MAGIC, VERSION, kind, count, began, len(body)) + body


def _read_header(read: Callable[[int], bytes], *wanted: int) -> _Header:
    magic, version, kind, count, began, length = _HEADER.unpack(_read_exactly(read, HEADER_BYTES))
    if magic != MAGIC:
        raise _unreadable(f"it begins with {magic!r}, expected {MAGIC!r}")
    if version != VERSION:
        raise _unreadable(f"its version is {version}, expected {VERSION}")
    if kind not in wanted:
        raise _unreadable(f"its kind is {kind}, expected {' or '.join(map(str, wanted))}")
    return _Header(kind, count, began, length)


def _check_length(length: int, most: int) -> None:
    if length > most:
        raise _unreadable(f"its body has {length} bytes, and may have {most}")


def _read_exactly(read: Callable[[int], bytes], length: int) -> bytes:
    pieces, missing = [], length
    while missing:
        piece = read(missing)
        if not piece:
            raise _unreadable(f"it ends {missing} bytes early")
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def _decode_body(body: bytes, count: int) -> tuple[dict[str, str], bytes]:
    variables: dict[str, str] = {}
    place = 0
    for _ in range(count):
        text, place = _variable_at(body, place)
        name, equals, value = text.partition("=")
        if not equals or name not in VARIABLES:
            raise _unreadable(f"{name[:80]!a} is none of {', '.join(VARIABLES)}")
        if name in variables:
            raise _unreadable(f"{name} comes twice")
        variables[name] = value
    stdin = body[place:]
    if len(stdin) > STDIN_MAX:
        raise _unreadable(f"stdin has {len(stdin)} bytes, and may have {STDIN_MAX}")
    return variables, stdin


def _variable_at(body: bytes, place: int) -> tuple[str, int]:
    """The variable at offset `place`, and the offset of its end."""
    start = place + _LENGTH.size
    if start > len(body):
        raise _unreadable("a variable is cut short")
    (length,) = _LENGTH.unpack_from(body, place)
    if length > VARIABLE_MAX:
        raise _unreadable(f"a variable has {length} bytes, and may have {VARIABLE_MAX}")
    if start + length > len(body):
        raise _unreadable("a variable is cut short")
    variable = body[start : start + length]
    if b"\0" in variable:
        raise _unreadable("a variable has a zero byte")
    return variable.decode(errors="surrogateescape"), start + length


def _unreadable(cause: str) -> FrameError:
    return FrameError(f"cannot read the frame: {cause}")


def _unwritable(cause: str) -> FrameError:
    return FrameError(f"cannot write the frame: {cause}")


if __name__ == "__main__":
    print(header(), end="")
