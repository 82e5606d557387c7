"""The modules that a call imports at their first use. An agent imports them at its start.

So its first calls are no slower than later ones, and need no file descriptors for imports.
"""

import tenacity  # noqa: F401

from ratchet.core.intent import yaml_parser  # noqa: F401
from ratchet.datapath import identity, links, stats, underlay, vni_conflicts  # noqa: F401
from ratchet.node import add, check, collect, delete, status  # noqa: F401
