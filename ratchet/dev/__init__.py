"""Development tools: the embedded API server, testbeds of network namespaces, the demo, local clusters.

Ratchet's image and the nodes do not contain this package.
"""
