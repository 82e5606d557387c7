"""From the declarations of pods and topologies to wanted links. All of it is tenants' input.

The wanted links are a function of a namespace's pods and topologies alone: both ends compute the same ones, in whatever
order the declarations are read. An invalid declaration is rejected with an error that names the pod and the place.

| module | content |
|---|---|
| `pods` | settings of a pod, and which pod a name refers to |
| `labels` | the link that labels declare, as in 2017 |
| `annotation` | the links of the annotation `ratchet.links` |
| `topologies` | the links of a topology |
| `link_parser`, `yaml_source`, `yaml_parser` | one item of such a list, and the lines of its fields |
| `declared` | a link as one place declares it |
| `values` | validation of each value |
| `topology_limits`, `annotation_limits`, `memory` | limits on topologies and annotations, and the memory they take |
| `wanted`, `resolve` | the wanted links, and how they are resolved from the declarations of a namespace |
| `index` | the same for one pod at a time, for an agent |
"""

from ratchet.core.intent.labels import PAIR_NAME
from ratchet.core.intent.pods import (
    LINKS,
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
