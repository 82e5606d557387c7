"""A real Kubernetes on one machine: `hack/cluster`, and what the end-to-end tests stand on.

The control plane and each node are machines of their own to whoever runs in them: namespaces for mounts, processes and
the network, all of which end with one process each. Of the host itself nothing is touched but a folder and sub-groups
of its control groups; and on loopback there is a port by which the API is reached.
"""
