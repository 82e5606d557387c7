"""Permissions: nobody is denied anything, and nobody may do what they do not do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ratchet.core.model import Side
from ratchet.store.store import ApiStore
from tests.e2e.garbage import collected, planted
from tests.e2e.permissions import nothing_denied_and_nothing_unused
from tests.e2e.world import PAIR, World, pod, primary
from tests.support.links import joined, own, sandbox


@pytest.mark.timeout(300)
def test_what_is_granted_is_used_and_what_is_used_is_granted(world: World, records: ApiStore) -> None:
    with nothing_denied_and_nothing_unused(world, "ratchet-agent", "ratchet-install", "ratchet-gc"):
        gate = [{"conditionType": "ratchet/linked"}]
        world.apply(pod("p", "node-a", primary("q"), readinessGates=gate), pod("q", "node-b", PAIR))
        world.wait("condition=Ready", "pod/p", "pod/q")
        link = records.links.get(f"{world.namespace}.p.in1.q.in2")
        assert link is not None
        # A record of which one end lives and the other never did, one of which none did, and a number of neither.
        half = replace(link, name=f"{world.namespace}.p.in1.nobody.in2", vni=None, uid="", resource_version="")
        half = half.with_end(
            Side.PAIR, replace(half.pair, name="nobody", sandbox=sandbox("nobody", "node-c"), ready=None)
        )
        orphan = joined(own(Side.PRIMARY, "node-c"), own(Side.PAIR, "node-c"))
        with planted(records, half, orphan), collected(world, "gc-permissions"):
            cleared = records.links.get(half.name)
            assert cleared is not None
            assert cleared.pair.sandbox is None
        world.roll("ratchet-agent", "ratchet-install")
        world.delete_pods()
        world.wait_until_nothing_is_left()
