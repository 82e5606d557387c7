"""What is planted for the collector to find, and runs of it; whatever becomes of the test, nothing of that stays."""

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

NOBODY = "00000000-0000-0000-0000-000000000000"
VNI = 4711


@contextmanager
def planted(records: ApiStore, *links: Link) -> Iterator[None]:
    """Records of links that nobody made, and the Lease of a VNI whose record never was."""
    try:
        for link in links:
            records.links.create(link)
        records.api.create(records.vnis.path, encode_vni_lease(VNI, replace(links[0], uid=NOBODY)))
        yield
    finally:
        for link in links:
            if (left := records.links.get(link.name)) is not None:
                records.links.delete(left)
        for lease in records.vnis.list():
            if lease.vni == VNI:
                with suppress(NotFoundError):
                    records.vnis.delete(lease)


@contextmanager
def collected(world: World, *jobs: str) -> Iterator[None]:
    """Runs of the CronJob at once, for which nothing is too young; within the block they have come to their end."""
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
    # The CronJob keeps one finished job of its own, and deletes the others at once.
    del made["metadata"]["ownerReferences"]
    made["spec"]["template"]["spec"]["containers"][0]["args"] = ["gc", "--grace", "0"]
    world.kubectl("apply", "-n", RATCHET, "-f", "-", stdin=json.dumps(made))
