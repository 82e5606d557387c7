"""Netlink socket that sends several messages at once, a reply for each (netlink(7), rtnetlink(7))."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from ratchet.datapath.netns import Netns, inside
from ratchet.datapath.nlattr import HEADER, attributes
from ratchet.errors import DatapathError

SOL_NETLINK = 270
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_MULTI, NLM_F_ACK, NLM_F_DUMP_INTR = 0x2, 0x4, 0x10
NLM_F_DUMP = 0x300
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200
NLMSGERR_ATTR_MSG = 1
# NEW, DEL, GET and SET follow each other for each kind of object (include/uapi/linux/rtnetlink.h).
RTM_BASE, GET_OF_BASE = 16, 2
RTM_NEWLINK, RTM_GETLINK = 16, 18

SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h, Linux 5.14 and later

TIMEOUT = 10.0  # seconds; the kernel replies within the send, so a timeout means a lost message
BUFFER = 1 << 17
INTERRUPTED_DUMPS = 8

_KIND_AND_FLAGS = struct.Struct("=HH")  # of struct nlmsghdr
_TIMEVAL = struct.Struct("@ll")


class RefusedError(OSError):
    """The kernel refused one message: `errno`, and in `strerror` the kernel's explanation if there is one."""


@dataclass(slots=True)
class NetlinkReply:
    """The kernel's reply to one message."""

    messages: list[bytes] = field(default_factory=list)
    refusal: RefusedError | None = None
    interrupted: bool = False


class Channel:
    """A netlink socket of a protocol in a namespace (None: the caller's own); usually route netlink.

    Do not share it between threads. Do not keep one in a pod's namespace open: the namespace would outlive its pod.
    """

    __slots__ = ("_is_route", "_sequence", "_socket")

    def __init__(self, netns: Netns | None = None, *, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._sequence = 0
        self._is_route = protocol == socket.NETLINK_ROUTE
        if netns is None:
            self._socket = _open_socket(protocol)
        else:
            with inside(netns):
                self._socket = _open_socket(protocol)

    def cookie(self) -> int:
        """The identity of the socket's namespace, unique within one boot (socket(7)); 0 before Linux 5.14."""
        try:
            return int.from_bytes(self._socket.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError:
            return 0

    def exchange(self, *messages: bytearray) -> list[NetlinkReply]:
        """Send messages at once and return a reply for each, in order. A refusal does not stop later messages.

        Route netlink handles the messages in their order, within the send. So only the last one asks for an
        acknowledgement: each datagram that the kernel need not send saves a call.
        """
        if not messages:  # the kernel replies to an empty send with nothing or ENODATA
            return []
        answers = {self._number(message): NetlinkReply() for message in messages}
        waiting = _awaited(dict(zip(answers, messages, strict=True))) if self._is_route else set(answers)
        try:
            self._socket.send(b"".join(messages))
            while waiting:
                for sequence, kind, flags, raw in split_messages(self._socket.recv(BUFFER)):
                    answer = answers.get(sequence)
                    if answer is None:
                        continue
                    answer.interrupted |= bool(flags & NLM_F_DUMP_INTR)
                    if kind in (NLMSG_ERROR, NLMSG_DONE):
                        answer.refusal = read_refusal(flags, raw)
                        waiting.discard(sequence)
                    else:
                        answer.messages.append(raw)
                        if kind == RTM_NEWLINK and not flags & NLM_F_MULTI:
                            waiting.discard(sequence)
        except OSError as error:
            raise DatapathError(f"cannot speak to the kernel over netlink: {error}") from error
        return list(answers.values())

    def do(self, *messages: bytearray) -> list[NetlinkReply]:
        """As `exchange`, but raises the first RefusedError."""
        answers = self.exchange(*messages)
        for answer in answers:
            if answer.refusal is not None:
                raise answer.refusal
        return answers

    def dump(self, message: bytearray) -> list[bytes]:
        """All objects of a dump request. Repeats the dump if the kernel's tables change during it.

        Repeats it INTERRUPTED_DUMPS times at most.
        """
        for _ in range(INTERRUPTED_DUMPS):
            (answer,) = self.do(message)
            if not answer.interrupted:
                break
        return answer.messages

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _number(self, message: bytearray) -> int:
        self._sequence += 1
        struct.pack_into("=I", message, 8, self._sequence)
        return self._sequence


def _awaited(messages: Mapping[int, bytearray]) -> set[int]:
    """The sequence numbers after whose last replies all others have arrived: dumps continue after the send.

    Sets NLM_F_ACK accordingly. A link that was requested is the only reply to its request.
    """
    awaited = set[int]()
    for number, (sequence, message) in enumerate(messages.items(), 1):
        kind, flags = _KIND_AND_FLAGS.unpack_from(message, 4)
        is_last, is_dump = number == len(messages), _is_get(kind) and flags & NLM_F_DUMP == NLM_F_DUMP
        if is_last or is_dump:
            awaited.add(sequence)
        if not is_dump:
            asks = is_last and kind != RTM_GETLINK
            _KIND_AND_FLAGS.pack_into(message, 4, kind, flags | NLM_F_ACK if asks else flags & ~NLM_F_ACK)
    return awaited


def _is_get(kind: int) -> bool:
    return (kind - RTM_BASE) & 3 == GET_OF_BASE


def _open_socket(protocol: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    # Not settimeout, with which each call polls the socket first.
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(int(TIMEOUT), 0))
    with suppress(OSError):  # before Linux 4.12 and 4.20: shorter explanations, unfiltered dumps
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):  # the oldest first
            opened.setsockopt(SOL_NETLINK, option, 1)
    return opened


def split_messages(data: bytes) -> Iterable[tuple[int, int, int, bytes]]:
    """Yield sequence number, type, flags and bytes of each message in `data`."""
    start = 0
    while start + HEADER.size <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, start)
        yield sequence, kind, flags, data[start : start + length]
        start += (length + 3) & ~3


def read_refusal(flags: int, raw: bytes) -> RefusedError | None:
    """The refusal in a message of type NLMSG_ERROR or NLMSG_DONE; None if it acknowledges a request."""
    code = -struct.unpack_from("=i", raw, HEADER.size)[0] if len(raw) >= HEADER.size + 4 else 0
    if code == 0:
        return None
    return RefusedError(code, _explanation(flags, raw) or os.strerror(code))


def _explanation(flags: int, raw: bytes) -> str:
    if not flags & NLM_F_ACK_TLVS:
        return ""
    echoed = HEADER.size if flags & NLM_F_CAPPED else HEADER.unpack_from(raw, HEADER.size + 4)[0]
    if HEADER.unpack_from(raw)[1] == NLMSG_DONE:
        echoed = 0
    found = dict(attributes(raw, HEADER.size + 4 + echoed))
    return found.get(NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode("utf-8", "replace")
