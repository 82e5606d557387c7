"""The node's part of Ratchet: CNI commands, the reconciler that they use, and the hosts that run them."""
