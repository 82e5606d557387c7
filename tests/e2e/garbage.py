"""Garbage for garbage collection, and runs of its CronJob. Both are removed however a test ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from ratchet.core.model import Link
from ratchet.store.api_errors import NotFoundError
from ratchet.store.codec.leases import encode_vni_lease
from ratchet.store.store import ApiStore
from tests.e2e.world import RATCHET, World

UNKNOWN_UID = "00000000-0000-0000-0000-000000000000"
VNI = 4711


@contextmanager
def planted(store: ApiStore, *links: Link) -> Iterator[None]:
    """Create records of links without pods, and the Lease of a VNI without a record, within the block."""
    try:
        for link in links:
            store.links.create(link)
        store.api.create(store.vnis.path, encode_vni_lease(VNI, replace(links[0], uid=UNKNOWN_UID)))
        yield
    finally:
        for link in links:
            if (left := store.links.get(link.name)) is not None:
                store.links.delete(left)
        for lease in store.vnis.list():
            if lease.vni == VNI:
                with suppress(NotFoundError):
                    store.vnis.delete(lease)


@contextmanager
def gc_run(world: World, *jobs: str) -> Iterator[None]:
    """Run the CronJob concurrently without a grace period. Within the block all runs have completed."""
    try:
        for job in jobs:
            _start(world, job)
        for job in jobs:
            world.kubectl("wait", "-n", RATCHET, "--for=condition=complete", f"job/{job}", "--timeout=60s")
        yield
    finally:
        world.kubectl("delete", "job", "-n", RATCHET, "--ignore-not-found", *jobs)


def _start(world: World, job: str) -> None:
    made = json.loads(
        world.kubectl(*f"create job -n {RATCHET} --from=cronjob/ratchet-gc {job} --dry-run=client -o json".split())
    )
    # A CronJob deletes the finished jobs that it owns, apart from one.
    del made["metadata"]["ownerReferences"]
    made["spec"]["template"]["spec"]["containers"][0]["args"] = ["gc", "--grace", "0"]
    world.kubectl("apply", "-n", RATCHET, "-f", "-", stdin=json.dumps(made))
