"""Development tools: the embedded API server, testbeds, the demo, local clusters.

Ratchet's image and the nodes do not contain this package.
"""
