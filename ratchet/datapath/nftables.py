"""Encode nf_tables requests, and send them as transactions (include/uapi/linux/netfilter/nf_tables.h).

Only what the guard of the tunnel port needs. A transaction is a batch of messages between two marks: the kernel applies
all of them or none. With the number of the ruleset's generation, it applies them only if no other transaction has come
in between (nfnetlink.h, NFNL_BATCH_GENID). All numbers in attributes are big-endian.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from errno import ENOENT, ENOMSG
from typing import NamedTuple

from ratchet.datapath.nlattr import ATTRIBUTE, HEADER, attributes, message
from ratchet.datapath.rtnetlink import BUFFER, NLMSG_ERROR, Channel, RefusedError, read_refusal, split_messages
from ratchet.errors import DatapathError

NETLINK_NETFILTER = 12
SO_SNDBUFFORCE = 32  # include/uapi/asm-generic/socket.h
SEND_BUFFER = 1 << 17  # bytes; a longer transaction needs a larger buffer

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x200, 0x400, 0x800
NLA_F_NESTED = 0x8000

_BATCH_BEGIN, _BATCH_END, _BATCH_GENID = 0x10, 0x11, 1
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
NFGENMSG = struct.Struct(">BBH")  # family, version, resource
NFPROTO_INET = 1

# enum nf_tables_msg_types
NEWTABLE, DELTABLE = 0, 2
NEWCHAIN, GETCHAIN, NEWRULE, GETRULE = 3, 4, 6, 7
NEWSET, GETSET, NEWSETELEM, GETSETELEM, DELSETELEM = 9, 10, 12, 13, 14
_GETGEN = 16

TABLE_NAME = 1  # of a table; and the first attribute of a chain, rule, set or list of elements
_ELEMENTS_SET, _ELEMENTS_LIST = 2, 3
_LIST_ELEM, _DATA_VALUE = 1, 1
_ELEM_KEY, _ELEM_USERDATA, _ELEM_EXPR, _ELEM_EXPRESSIONS = 1, 6, 7, 11
_EXPR_NAME, _EXPR_DATA = 1, 2
_COUNTER_PACKETS = 2
_COMMENT = 0  # libnftnl's type for the comment of an element
ELEMENTS_AT_ONCE = 200  # a list is one attribute of at most 64 KiB


class Element(NamedTuple):
    """An element of a set: its key, its comment, and how many packets it has counted."""

    key: bytes
    comment: str = ""
    packets: int = 0


def attribute(kind: int, content: bytes) -> bytes:
    """Encode an attribute, padded to four bytes."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(content), kind) + content + bytes(-len(content) % 4)


def nest(kind: int, *content: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(content))


def text(kind: int, content: str) -> bytes:
    return attribute(kind, content.encode() + b"\0")


def number(kind: int, content: int) -> bytes:
    return attribute(kind, content.to_bytes(4, "big", signed=content < 0))


def request(kind: int, flags: int, *content: bytes) -> bytearray:
    """Encode a request for the family inet."""
    head = NFGENMSG.pack(NFPROTO_INET, 0, 0)
    return message(_SUBSYSTEM << 8 | kind, NLM_F_REQUEST | flags, head, b"".join(content))


def add_elements(table: str, name: str, elements: Sequence[Element], *, exclusive: bool = False) -> list[bytearray]:
    """Add elements to a set. With `exclusive`, an existing one is refused with EEXIST."""
    flags = NLM_F_CREATE | (NLM_F_EXCL if exclusive else 0)
    parts = (elements[at : at + ELEMENTS_AT_ONCE] for at in range(0, len(elements), ELEMENTS_AT_ONCE))
    return [request(NEWSETELEM, flags, _elements(table, name, part)) for part in parts]


def delete_element(table: str, name: str, key: bytes) -> bytearray:
    """Delete an element. One that is missing is refused with ENOENT."""
    return request(DELSETELEM, 0, _elements(table, name, [Element(key)]))


def get_element(table: str, name: str, key: bytes) -> bytearray:
    """Request one element. One that is missing, as its set or table may be, is refused with ENOENT."""
    return request(GETSETELEM, NLM_F_ACK, _elements(table, name, [Element(key)]))


def _elements(table: str, name: str, elements: Sequence[Element]) -> bytes:
    packed = b"".join(_element(one) for one in elements)
    return text(TABLE_NAME, table) + text(_ELEMENTS_SET, name) + nest(_ELEMENTS_LIST, packed)


def _element(element: Element) -> bytes:
    content = nest(_ELEM_KEY, attribute(_DATA_VALUE, element.key))
    if element.comment:
        comment = element.comment.encode() + b"\0"
        content += attribute(_ELEM_USERDATA, bytes((_COMMENT, len(comment))) + comment)
    return nest(_LIST_ELEM, content)


def read_elements(raw: bytes) -> list[Element]:
    """The elements in a reply."""
    listed = dict(attributes(raw, HEADER.size + NFGENMSG.size, (_ELEMENTS_LIST,))).get(_ELEMENTS_LIST, b"")
    return [_read_element(content) for _, content in attributes(listed, 0, (_LIST_ELEM,))]


def _read_element(raw: bytes) -> Element:
    found = dict(attributes(raw, 0))
    key = dict(attributes(found.get(_ELEM_KEY, b""), 0)).get(_DATA_VALUE, b"")
    kind, comment = found.get(_ELEM_USERDATA, b"")[:1], found.get(_ELEM_USERDATA, b"")[2:]
    is_comment = kind == bytes((_COMMENT,))
    expression = found.get(_ELEM_EXPR) or dict(attributes(found.get(_ELEM_EXPRESSIONS, b""), 0)).get(_LIST_ELEM, b"")
    counter = dict(attributes(dict(attributes(expression, 0)).get(_EXPR_DATA, b""), 0))
    packets = int.from_bytes(counter.get(_COUNTER_PACKETS, b""), "big")
    return Element(key, comment.rstrip(b"\0").decode("utf-8", "replace") if is_comment else "", packets)


class Nftables(Channel):
    """A netlink socket for nf_tables in the caller's network namespace. Do not share it between threads."""

    __slots__ = ()

    def __init__(self) -> None:
        try:
            super().__init__(protocol=NETLINK_NETFILTER)
        except OSError as error:
            raise RefusedError(error.errno, error.strerror) from error
        self._socket.settimeout(0)  # the kernel has queued its replies when send() returns

    def generation(self) -> int:
        """The number of the ruleset's generation; every transaction changes it."""
        (answer,) = self.do(request(_GETGEN, NLM_F_ACK))
        found = dict(attributes(answer.messages[0], HEADER.size + NFGENMSG.size))
        return int.from_bytes(found[1], "big")

    def elements(self, table: str, name: str) -> list[Element]:
        """All elements of a set; none if it does not exist."""
        raw = self.objects(GETSETELEM, text(TABLE_NAME, table) + text(_ELEMENTS_SET, name))
        return [one for part in raw for one in read_elements(part)]

    def objects(self, kind: int, content: bytes) -> list[bytes]:
        """The replies to a dump request; none if the table or set does not exist."""
        try:
            return self.dump(request(kind, NLM_F_DUMP, content))
        except RefusedError as refusal:
            if refusal.errno != ENOENT:
                raise
            return []

    def transact(self, messages: Sequence[bytearray], generation: int | None = None) -> None:
        """Apply all messages or none; with `generation`, only to that generation of the ruleset.

        Raises the first RefusedError, whose errno is ERESTART if the generation has changed.
        """
        mark = NFGENMSG.pack(0, 0, _SUBSYSTEM)
        condition = b"" if generation is None else number(_BATCH_GENID, generation)
        begin = message(_BATCH_BEGIN, NLM_F_REQUEST, mark, condition)
        # The last message is acknowledged, the others only if they are refused.
        struct.pack_into("=H", messages[-1], 6, struct.unpack_from("=H", messages[-1], 6)[0] | NLM_F_ACK)
        batch = [begin, *messages, message(_BATCH_END, NLM_F_REQUEST, mark)]
        for one in batch:
            self._number(one)
        self._send_batch(b"".join(batch))

    def _send_batch(self, batch: bytes) -> None:
        try:
            if len(batch) > SEND_BUFFER:
                with suppress(OSError):  # without the right, the kernel's limit may still be large enough
                    self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 2 * len(batch))
            self._socket.send(batch)
            refusals, answered = self._replies()
        except OSError as error:
            raise DatapathError(f"cannot speak to the kernel over netlink: {error}") from error
        if refusals or not answered:
            raise refusals[0] if refusals else RefusedError(ENOMSG, "the kernel did not answer")

    def _replies(self) -> tuple[list[RefusedError], bool]:
        """The refusals among all replies, and whether there was any reply."""
        refusals: list[RefusedError] = []
        answered = False
        while True:
            try:
                data = self._socket.recv(BUFFER)
            except BlockingIOError:
                return refusals, answered
            for _, kind, flags, raw in split_messages(data):
                answered = True
                if kind == NLMSG_ERROR and (refusal := read_refusal(flags, raw)) is not None:
                    refusals.append(refusal)
