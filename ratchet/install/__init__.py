"""Install the plugin for the container runtime. A partial install never breaks a pod's start.

`plugin`: the executables. `bundle`: a Python for nodes that have none. `kubeconfig`: the account of a plugin without an
agent. `conflist`: the network configuration, which is written last. `chain`: the network to chain after. `follow`:
keeps the configuration in step with that network. `loop`: keeps all of it installed. `lock`: installers take turns.
`deployment`: whether the installer's DaemonSet is deleted.
"""

from ratchet.install.conflist import CONFIG
from ratchet.install.plugin import FALLBACK, LAUNCHER, install, uninstall

__all__ = ["CONFIG", "FALLBACK", "LAUNCHER", "install", "uninstall"]
