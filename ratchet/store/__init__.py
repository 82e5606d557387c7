"""The Kubernetes API: records, Leases, pods, topologies and nodes, and the agent's caches of them."""
