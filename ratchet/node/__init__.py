"""What happens on one node: the CNI commands, the reconciler below them, and the hosts that run them."""
