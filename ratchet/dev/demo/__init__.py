"""The demo: two nodes on one machine, with the installed plugin, pods and a fake kubelet.

`runner`: starts and stops a demo. `walkthrough`, `late_peer`, `cloud_router`: the scenarios. `environment`: nodes and
pods of a scenario. `terminal`: its output. `frr`: routers in pods.
"""

from ratchet.dev.demo.runner import SCENARIOS, run, take_down

__all__ = ["SCENARIOS", "run", "take_down"]
