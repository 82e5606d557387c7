"""Putting the plugin where a container runtime looks for it, so that a half-done install never breaks a pod's start.

`executables` is what is executed; `bundle` a Python to take along, for nodes that have none; `kubeconfig` what a plugin
reaches the API with; `network` the runtime's configuration, which comes last; `keep` sees to it that all of it stays.
"""

from ratchet.install.conflist import CONFIG
from ratchet.install.plugin import FALLBACK, LAUNCHER, install, uninstall

__all__ = ["CONFIG", "FALLBACK", "LAUNCHER", "install", "uninstall"]
