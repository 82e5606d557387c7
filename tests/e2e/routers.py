"""Three FRR routers in a row with OSPF and BFD, and what a router that keeps running sees of its link.

`west` - `transit` - `east`. Each has an address on lo, and west and east reach each other through `transit` only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ratchet.core.intent import TOPOLOGY_KEY, TOPOLOGY_LABEL
from ratchet.dev.cluster.frr import NAME as IMAGE
from tests.e2e.world import World, pod, wait_for

Json = dict[str, Any]

LOOPBACKS = {"west": "10.9.0.1", "transit": "10.9.0.2", "east": "10.9.0.3"}
INTERFACES = {"west": ("eth1",), "transit": ("eth1", "eth2"), "east": ("eth1",)}
DAEMONS = ("bfdd", "ospfd", "staticd", "watchfrr", "zebra")
DEAD_SECONDS = 60
FORWARDING = {"net.ipv4.conf.IFNAME.forwarding": 1}
LINKS = (
    {"endpoints": ["west:eth1", "transit:eth1"], "addresses": ["10.9.1.1/30", "10.9.1.2/30"]},
    {"endpoints": ["transit:eth2", "east:eth1"], "addresses": ["10.9.2.1/30", "10.9.2.2/30"]},
)

_DAEMONS_FILE = """\
ospfd=yes
bfdd=yes
vtysh_enable=yes
frr_global_options="-A 127.0.0.1"
"""

# Carrier and BFD report the loss of a neighbour long before the dead interval. OSPF's default throttles delay each
# move by up to 5 s.
_ROUTER = """\
interface lo
 ip address {loopback}/32
 ip ospf area 0
!
{interfaces}
router ospf
 ospf router-id {loopback}
 timers throttle spf 10 50 200
 timers throttle lsa all 0
 timers lsa min-arrival 0
!
bfd
 profile fast
  transmit-interval 300
  receive-interval 300
  detect-multiplier 3
"""

_INTERFACE = f"""\
interface {{ifname}}
 ip ospf area 0
 ip ospf network point-to-point
 ip ospf hello-interval 1
 ip ospf dead-interval {DEAD_SECONDS}
 ip ospf retransmit-interval 1
 ip ospf bfd
 ip ospf bfd profile fast
!
"""

# Prints one JSON document per line. A process is its PID and its start time.
_OBSERVE = """\
ip -j addr show dev eth1
echo "[$(cat /sys/class/net/eth1/carrier_down_count), $(cat /sys/class/net/eth1/carrier_up_count)]"
for daemon in "$@"; do
    pid=$(cat "/run/frr/$daemon.pid")
    echo "[\\"$daemon\\", $pid, $(cut -d ' ' -f 22 "/proc/$pid/stat")]"
done
for shown in "ip ospf neighbor json" "bfd peers json"; do
    vtysh -c "show $shown" | tr -d '\\n'
    echo
done
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """What must not change in a router that keeps running: its interface, and its daemons."""

    ifindex: int
    mac: str
    addresses: frozenset[str]
    daemons: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Observation:
    """A router's view of its link to `transit` (eth1).

    `losses` and `gains` count changes of the carrier since the interface exists. `full_ms` is the age of the adjacency,
    None if it is not Full.
    """

    identity: Identity
    mtu: int
    has_carrier: bool
    losses: int
    gains: int
    full_ms: int | None
    bfd_is_up: bool

    @property
    def is_adjacent(self) -> bool:
        return self.full_ms is not None and self.bfd_is_up


def topology(**settings: Any) -> Json:
    """The links of the row. `settings` are added to that between west and transit."""
    first, second = LINKS
    links = [{**link, "wiring": "panel", "sysctls": FORWARDING} for link in ({**first, **settings}, second)]
    metadata = {"name": "row", "labels": {TOPOLOGY_LABEL: "true"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {TOPOLOGY_KEY: json.dumps(links)}}


def configuration() -> Json:
    """FRR's configuration files."""
    files = {f"{name}.conf": _frr_conf(name) for name in LOOPBACKS}
    metadata = {"name": "frr"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"daemons": _DAEMONS_FILE, **files}}


def router(name: str, node: str) -> Json:
    mounts = (("daemons", "daemons"), ("frr.conf", f"{name}.conf"))
    container = {
        "name": "frr",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "securityContext": {"capabilities": {"add": ["NET_ADMIN", "NET_RAW", "SYS_ADMIN"]}},
        "volumeMounts": [{"name": "frr", "mountPath": f"/etc/frr/{to}", "subPath": key} for to, key in mounts],
    }
    volume = {"name": "frr", "configMap": {"name": "frr"}}
    return pod(name, node, {"ratchet": "true"}, containers=[container], volumes=[volume])


def observe(world: World, name: str) -> Observation:
    """Read the view of `west` or `east` from its pod, in one call."""
    lines = world.kubectl("exec", name, "--", "sh", "-ec", _OBSERVE, "sh", *DAEMONS).splitlines()
    (interface,), (losses, gains), *daemons, ospf, bfd = map(json.loads, lines)
    return Observation(
        Identity(
            interface["ifindex"],
            interface["address"],
            frozenset(f"{one['local']}/{one['prefixlen']}" for one in interface["addr_info"]),
            tuple((daemon, pid, started) for daemon, pid, started in daemons),
        ),
        interface["mtu"],
        "LOWER_UP" in interface["flags"],
        losses,
        gains,
        _full_ms(ospf),
        [peer["status"] for peer in bfd] == ["up"],
    )


def wait_until_adjacent(world: World) -> dict[str, Observation]:
    """Wait until west and east have routes to each other through transit. Returns their observations."""
    found: dict[str, Observation] = {}

    def is_adjacent(name: str) -> bool:
        found[name] = observe(world, name)
        return found[name].is_adjacent

    for name in ("west", "east"):
        wait_for(f"the adjacency of {name}", lambda name=name: is_adjacent(name))  # type: ignore[misc]
    wait_for("the route through transit", lambda: _is_routed(world), 10.0)
    return found


def _frr_conf(name: str) -> str:
    interfaces = "".join(_INTERFACE.format(ifname=ifname) for ifname in INTERFACES[name])
    return _ROUTER.format(loopback=LOOPBACKS[name], interfaces=interfaces)


def _full_ms(ospf: Json) -> int | None:
    (neighbors,) = [ospf["neighbors"].get(LOOPBACKS["transit"], [])]
    return next((one["upTimeInMsec"] for one in neighbors if one["nbrState"].startswith("Full/")), None)


def _is_routed(world: World) -> bool:
    ping = ("ping", "-n", "-c", "1", "-W", "1", "-I", LOOPBACKS["west"], LOOPBACKS["east"])
    return world.try_kubectl("exec", "west", "--", *ping).returncode == 0
