"""A real Kubernetes on one machine, for `hack/cluster` and the end-to-end tests.

The control plane and each node run in namespaces for mounts, processes and the network. All namespaces of a machine end
with its first process. On the host, a cluster uses one folder, its own control groups, and a loopback port for the API.
"""
