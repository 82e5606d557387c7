"""The patch panel of a node: a namespace in which cables from pods are patched to each other or to tunnels.

A cable is a vEth pair: one end in the pod, under the name that the user chose, the other in the panel. A patch is a
redirect from one device of the panel to another one. What happens to a link changes patches and the carrier of panel
ends, and no interface in a running pod.

`links` is what `datapath.links` uses for links in panel wiring.
"""
