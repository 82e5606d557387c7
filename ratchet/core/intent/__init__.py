"""From what pods say to the links that they want. All of it is tenants' input.

The wanted links are a function of a namespace's pods and topologies alone: either end computes the same, in whatever
order they come. What a pod may not ask for is refused with an error that names the pod and where it was said.

`pods` is what a pod says of itself and who is meant by a name; `labels` the link that labels declare, as in 2017;
`listed` those of the annotation `ratchet.links`, `topologies` those of a ConfigMap; `items` one of a list, `located`
with the lines on which it is said, `values` what may be said, word by word, `sysctls` which settings; `wanted` all of
it together; `index` the same for one pod at a time, for an agent; `checks` what can be told before it is applied.
"""

from ratchet.core.intent.annotation import LINKS
from ratchet.core.intent.labels import PAIR_NAME
from ratchet.core.intent.pods import (
    PRIMARY,
    WAIT_MAX_SECONDS,
    absence,
    asks_for_links,
    is_primary,
    meant_name,
    names_of,
    setting,
    wait_of,
)
from ratchet.core.intent.resolve import unknown_settings, wanted_links
from ratchet.core.intent.topologies import TOPOLOGY_KEY, TOPOLOGY_LABEL, names_every_pod
from ratchet.core.intent.values import ADDRESSES_MAX
from ratchet.core.intent.wanted import Wanted, WantedLink

__all__ = [
    "ADDRESSES_MAX",
    "LINKS",
    "PAIR_NAME",
    "PRIMARY",
    "TOPOLOGY_KEY",
    "TOPOLOGY_LABEL",
    "WAIT_MAX_SECONDS",
    "Wanted",
    "WantedLink",
    "absence",
    "asks_for_links",
    "is_primary",
    "meant_name",
    "names_every_pod",
    "names_of",
    "setting",
    "unknown_settings",
    "wait_of",
    "wanted_links",
]
