"""Permissions: no request is denied, and no permission is unused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ratchet.core.model import Side
from ratchet.store.store import ApiStore
from tests.e2e.garbage import gc_run, planted
from tests.e2e.permissions import no_denied_and_no_unused_permissions
from tests.e2e.world import PAIR, World, pod, primary
from tests.support.links import joined, own, sandbox


@pytest.mark.timeout(300)
def test_ratchets_accounts_use_exactly_their_permissions(world: World, store: ApiStore) -> None:
    with no_denied_and_no_unused_permissions(world, "ratchet-agent", "ratchet-install", "ratchet-gc"):
        gate = [{"conditionType": "ratchet/linked"}]
        world.apply(pod("p", "node-a", primary("q"), readinessGates=gate), pod("q", "node-b", PAIR))
        world.wait("condition=Ready", "pod/p", "pod/q")
        link = store.links.get(f"{world.namespace}.p.in1.q.in2")
        assert link is not None
        # A record with one live end, a record without live ends, and a Lease without a record.
        half_orphan = replace(link, name=f"{world.namespace}.p.in1.nobody.in2", vni=None, uid="", resource_version="")
        half_orphan = half_orphan.with_end(
            Side.PAIR, replace(half_orphan.pair, name="nobody", sandbox=sandbox("nobody", "node-c"), ready=None)
        )
        orphan = joined(own(Side.PRIMARY, "node-c"), own(Side.PAIR, "node-c"))
        with planted(store, half_orphan, orphan), gc_run(world, "gc-permissions"):
            cleared = store.links.get(half_orphan.name)
            assert cleared is not None
            assert cleared.pair.sandbox is None
        world.rollout_restart("ratchet-agent", "ratchet-install")
        world.delete_pods()
        world.wait_until_nothing_is_left()
