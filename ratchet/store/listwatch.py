"""Following a collection: a watch that goes on where it broke off, and says when it could not."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from ratchet.errors import ApiUnavailableError
from ratchet.store.apiserver import ExpiredError

log = logging.getLogger(__name__)

Item = TypeVar("Item")

ROUND_SECONDS = 1.0


def follow(
    watch: Callable[[str, float], Iterator[tuple[Item, str]]], renew: Callable[[], str], version: str, until: float
) -> Iterator[Item | None]:
    """What changes after `version`, until `until` (monotonic seconds).

    `watch` is given a version and how many seconds are left, and tells each change with its version; `renew` reads the
    collection anew where that version is too old, whereupon None is told: anything may have changed. No matter how
    often the watch breaks, there is no more than one a second; an API that stays away is told of once.
    """
    away = False
    while (left := until - time.monotonic()) > 0:
        began = time.monotonic()
        try:
            try:
                for item, latest in watch(version, left):
                    version, away = latest, False
                    yield item
            except ExpiredError:
                version = renew()
                yield None
        except ApiUnavailableError as error:
            log.log(logging.DEBUG if away else logging.WARNING, "%s; watching again", error)
            away = True
        else:
            away = False
        soon = min(until, began + ROUND_SECONDS)
        time.sleep(max(0.0, soon - time.monotonic()))
