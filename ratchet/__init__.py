"""Ratchet links Kubernetes pods point to point: a vEth pair on one node, a VXLAN tunnel across nodes."""

__version__ = "0.1.0"
