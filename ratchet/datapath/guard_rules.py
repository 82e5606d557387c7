"""The guard's table: its sets, chains and rules, as nf_tables messages.

    table inet ratchet {
        set tunnels { type inet_service . mark }               # UDP port and VNI of each tunnel
        set peers4 { type ipv4_addr . inet_service . mark }    # from where it takes datagrams
        set peers6 { type ipv6_addr . inet_service . mark }
        set ports { type inet_service }                        # UDP ports of tunnels
        set drops { type inet_service . mark; flags dynamic }  # counts what was dropped
        chain input { type filter hook input priority -10; udp dport @ports goto received }
        chain forward { type filter hook forward priority -10; udp dport @ports goto forwarded }
        chain received {
            ip saddr . udp dport . @th,96,24 @peers4 accept
            ip6 saddr . udp dport . @th,96,24 @peers6 accept
            udp dport . @th,96,24 @tunnels goto forged
            (IPv6) first fragment: goto short
        }
        chain forwarded {
            udp dport . @th,96,24 @tunnels goto forged
            (IPv4, IPv6) first fragment: goto short
        }
        chain short { @th,96,24 readable: accept; count as VNI 0; drop }
        chain forged { count; drop }
    }

`accept` ends this table's chain only; other tables still decide. The VNI is read as three bytes: a sender chooses the
reserved byte that follows (RFC 7348, section 5).

The order is the cheapest one: all packets of the node pass one rule, and a peer's datagram needs two lookups.

Fragments. The kernel reassembles IPv4 before the input hook, so a datagram is whole there. It reassembles IPv6 after
it, unless connection tracking is on. Then the first fragment has the VNI and is judged by it; the others are useless
without it. A first fragment that is too short for the VNI is dropped; no sender of ours makes one. The kernel discards
fragments that overlap. The guard does not turn connection tracking on: this would cost every packet of the node.
"""

from __future__ import annotations

from ratchet.datapath.nftables import (
    DELTABLE,
    GETCHAIN,
    GETRULE,
    GETSET,
    NEWCHAIN,
    NEWRULE,
    NEWSET,
    NEWTABLE,
    NFGENMSG,
    NLM_F_APPEND,
    NLM_F_CREATE,
    TABLE_NAME,
    Nftables,
    attribute,
    nest,
    number,
    request,
    text,
)
from ratchet.datapath.nlattr import HEADER, attributes

TABLE = "ratchet"
TUNNELS, PEERS4, PEERS6, PORTS, DROPS = "tunnels", "peers4", "peers6", "ports", "drops"

# nft's numbers of types, by which nft(8) shows the keys of a set; six bits for each part of a key.
_IPV4, _IPV6, _SERVICE, _MARK = 7, 8, 13, 19
_TUNNEL_TYPE = _SERVICE << 6 | _MARK
# Name: type, and bytes of the key, whose parts are padded to four bytes each.
_SETS = {
    TUNNELS: (_TUNNEL_TYPE, 8),
    PEERS4: (_IPV4 << 12 | _TUNNEL_TYPE, 12),
    PEERS6: (_IPV6 << 12 | _TUNNEL_TYPE, 24),
    PORTS: (_SERVICE, 2),
    DROPS: (_TUNNEL_TYPE, 8),
}
_DROPS_MAX = 1 << 16
_PRIORITY = -10  # before the filters of others (0)

_HOOKS = {"input": 1, "forward": 2}  # enum nf_inet_hooks
_SET_KEY_TYPE, _SET_KEY_LEN, _SET_ID, _SET_DESC, _SET_FLAGS, _DESC_SIZE = 4, 5, 10, 9, 3, 1
_SET_EVAL = 0x20
_CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 3, 4, 5, 7
_RULE_CHAIN, _RULE_EXPRESSIONS = 2, 4
_LIST_ELEM, _EXPR_NAME, _EXPR_DATA, _DATA_VALUE, _DATA_VERDICT = 1, 1, 2, 1, 2

_ACCEPT, _DROP, _GOTO = 1, 0, -4
_UDP, _IPV4_FAMILY, _IPV6_FAMILY = 17, 2, 10
_NETWORK, _TRANSPORT = 1, 2  # enum nft_payload_bases
_META_NFPROTO, _META_L4PROTO = 15, 16
_VERDICT = 0
_REGISTER = 8  # NFT_REG32_00; each has four bytes
_NEXTHDR_FRAGMENT = 44


def table_messages() -> list[bytearray]:
    """Replace the table by a new one without tunnels."""
    name = text(TABLE_NAME, TABLE)
    made = request(NEWTABLE, NLM_F_CREATE, name)
    # Making it first lets the deletion succeed if there was none.
    messages = [made, request(DELTABLE, 0, name), bytearray(made)]
    messages += [_set(one, identity) for identity, one in enumerate(_SETS, 1)]
    messages += [_chain(chain) for chain in _RULES]
    return messages + [_rule(chain, *rule) for chain, rules in _RULES.items() for rule in rules]


def delete_messages() -> list[bytearray]:
    """Delete the table; refused with ENOENT if there is none."""
    return [request(DELTABLE, 0, text(TABLE_NAME, TABLE))]


def read_layout(channel: Nftables) -> tuple[object, ...]:
    """The table's sets, chains and rules as the kernel has them, to be compared; empty if there is no table."""
    name = text(TABLE_NAME, TABLE)
    kept = {
        GETSET: (2, _SET_KEY_TYPE, _SET_KEY_LEN, _SET_FLAGS),
        GETCHAIN: (_CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE),
        GETRULE: (_RULE_CHAIN, _RULE_EXPRESSIONS),
    }
    # Older kernels list the objects of all tables.
    return tuple(
        tuple(sorted(found.items()) if (found := dict(attributes(raw, start, which))) else ())
        for kind, which in kept.items()
        for start in (HEADER.size + NFGENMSG.size,)
        for raw in channel.objects(kind, name)
        if dict(attributes(raw, start, (TABLE_NAME,))).get(TABLE_NAME) == TABLE.encode() + b"\0"
    )


def _set(name: str, identity: int) -> bytearray:
    key_type, length = _SETS[name]
    content = text(TABLE_NAME, TABLE) + text(2, name) + number(_SET_ID, identity)
    content += number(_SET_KEY_TYPE, key_type) + number(_SET_KEY_LEN, length)
    if name == DROPS:
        content += number(_SET_FLAGS, _SET_EVAL) + nest(_SET_DESC, number(_DESC_SIZE, _DROPS_MAX))
    return request(NEWSET, NLM_F_CREATE, content)


def _chain(name: str) -> bytearray:
    content = text(TABLE_NAME, TABLE) + text(_CHAIN_NAME, name)
    if name in _HOOKS:
        content += nest(_CHAIN_HOOK, number(1, _HOOKS[name]), number(2, _PRIORITY))
        content += text(_CHAIN_TYPE, "filter") + number(_CHAIN_POLICY, _ACCEPT)
    return request(NEWCHAIN, NLM_F_CREATE, content)


def _rule(chain: str, *expressions: bytes) -> bytearray:
    content = text(TABLE_NAME, TABLE) + text(_RULE_CHAIN, chain) + nest(_RULE_EXPRESSIONS, *expressions)
    return request(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, content)


# Expressions. `at` is the number of a register of four bytes.


def _expression(name: str, *content: bytes) -> bytes:
    return nest(_LIST_ELEM, text(_EXPR_NAME, name), nest(_EXPR_DATA, *content))


def _data(kind: int, value: bytes) -> bytes:
    return nest(kind, attribute(_DATA_VALUE, value))


def _equal(value: bytes) -> bytes:
    return _expression("cmp", number(1, _REGISTER), number(2, 0), _data(3, value))


def _meta_is(key: int, value: int) -> bytes:
    return _expression("meta", number(2, key), number(1, _REGISTER)) + _equal(bytes((value,)))


def _load(at: int, base: int, offset: int, length: int) -> bytes:
    """Load bytes of a header. A rule does not match if the packet is too short, or a later fragment."""
    return _expression("payload", number(1, _REGISTER + at), number(2, base), number(3, offset), number(4, length))


def _masked(mask: bytes) -> bytes:
    registers = number(1, _REGISTER) + number(2, _REGISTER) + number(3, len(mask))
    return _expression("bitwise", registers, _data(4, mask), _data(5, bytes(len(mask))))


def _lookup(name: str) -> bytes:
    return _expression("lookup", number(2, _REGISTER), text(1, name))


def _count() -> bytes:
    """Count the packet under the key in the registers."""
    counter = nest(7, text(_EXPR_NAME, "counter"), nest(_EXPR_DATA))
    return _expression("dynset", text(1, DROPS), number(3, 0), number(4, _REGISTER), counter)


def _verdict(code: int, chain: str = "") -> bytes:
    content = number(1, code) + (text(2, chain) if chain else b"")
    return _expression("immediate", number(1, _VERDICT), nest(2, nest(_DATA_VERDICT, content)))


_IS_UDP = _meta_is(_META_L4PROTO, _UDP)
_IS_IPV4, _IS_IPV6 = _meta_is(_META_NFPROTO, _IPV4_FAMILY), _meta_is(_META_NFPROTO, _IPV6_FAMILY)


def _load_tunnel(at: int = 0) -> bytes:
    """Load the destination port and the VNI (RFC 7348, section 5)."""
    return _load(at, _TRANSPORT, 2, 2) + _load(at + 1, _TRANSPORT, 12, 3)


_TO_OUR_PORT = _IS_UDP + _load(0, _TRANSPORT, 2, 2) + _lookup(PORTS)
_TO_OUR_TUNNEL = _load_tunnel() + _lookup(TUNNELS)
_FROM_PEER4 = _IS_IPV4 + _load(0, _NETWORK, 12, 4) + _load_tunnel(1) + _lookup(PEERS4)
_FROM_PEER6 = _IS_IPV6 + _load(0, _NETWORK, 8, 16) + _load_tunnel(4) + _lookup(PEERS6)
# The first of several fragments: offset 0, more to come (RFC 791, section 3.1; RFC 8200, section 4.5).
_IS_FIRST4 = _IS_IPV4 + _load(0, _NETWORK, 6, 2) + _masked(b"\x3f\xff") + _equal(b"\x20\x00")
_IS_FIRST6 = (
    _IS_IPV6
    + _expression("exthdr", number(1, _REGISTER), attribute(2, bytes((_NEXTHDR_FRAGMENT,))), number(3, 2), number(4, 2))
    + _masked(b"\xff\xf9")
    + _equal(b"\x00\x01")
)
_WITHOUT_VNI = _load(0, _TRANSPORT, 2, 2) + _expression("immediate", number(1, _REGISTER + 1), _data(2, bytes(4)))

# A chain's rules in order. The chains that others go to come first.
_RULES: dict[str, tuple[tuple[bytes, ...], ...]] = {
    "forged": (
        (_load_tunnel(), _count()),
        (_verdict(_DROP),),
    ),
    "short": (
        (_load(0, _TRANSPORT, 12, 3), _verdict(_ACCEPT)),
        (_WITHOUT_VNI, _count()),
        (_verdict(_DROP),),
    ),
    "received": (
        (_FROM_PEER4, _verdict(_ACCEPT)),
        (_FROM_PEER6, _verdict(_ACCEPT)),
        (_TO_OUR_TUNNEL, _verdict(_GOTO, "forged")),
        (_IS_FIRST6, _verdict(_GOTO, "short")),
    ),
    "forwarded": (
        (_TO_OUR_TUNNEL, _verdict(_GOTO, "forged")),
        (_IS_FIRST4, _verdict(_GOTO, "short")),
        (_IS_FIRST6, _verdict(_GOTO, "short")),
    ),
    "input": ((_TO_OUR_PORT, _verdict(_GOTO, "received")),),
    "forward": ((_TO_OUR_PORT, _verdict(_GOTO, "forwarded")),),
}
