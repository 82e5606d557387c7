"""What happens on one node: the CNI verbs, the reconciler under them, and the hosts that run them."""
