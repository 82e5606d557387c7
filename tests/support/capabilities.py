"""The capabilities of the agent's container, by the manifests (capabilities(7))."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ratchet.dev.agents import AgentProcess

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
ADDED = "/spec/template/spec/containers/0/securityContext/capabilities/add"
# include/uapi/linux/capability.h
NUMBERS = {"DAC_OVERRIDE": 1, "NET_ADMIN": 12, "NET_RAW": 13, "SYS_CHROOT": 18, "SYS_ADMIN": 21}


@cache
def agent_capabilities() -> frozenset[str]:
    """The capabilities of an agent. Its container has no others, and none that are inheritable or ambient."""
    (daemonset,) = yaml.safe_load_all((MANIFESTS / "base" / "agent.yaml").read_text())
    (container,) = daemonset["spec"]["template"]["spec"]["containers"]
    capabilities: dict[str, list[str]] = container["securityContext"]["capabilities"]
    assert capabilities["drop"] == ["ALL"]
    return frozenset(capabilities["add"])


@cache
def delegating_capabilities() -> frozenset[str]:
    """The capabilities of an agent that runs other plugins with the node's file system."""
    overlay = yaml.safe_load((MANIFESTS / "overlays" / "delegating" / "kustomization.yaml").read_text())
    steps: list[dict[str, Any]] = [step for patch in overlay["patches"] for step in yaml.safe_load(patch["patch"])]
    (added,) = (step["value"] for step in steps if step["path"] == ADDED)
    return frozenset(added)


@contextmanager
def outside_container(agent: AgentProcess | None) -> Iterator[None]:
    """Within the block, an agent that starts has all capabilities: it may see the node's processes. None: no agent."""
    if agent is None:
        yield
        return
    before, agent.capabilities = agent.capabilities, None
    try:
        yield
    finally:
        agent.capabilities = before


def capability_sets(pid: int) -> dict[str, int]:
    """The capability sets of a process as bit masks, by their names in proc(5), such as CapEff."""
    lines = (Path("/proc") / str(pid) / "status").read_text().splitlines()
    return {line[:6]: int(line[7:], 16) for line in lines if line.startswith("Cap")}
