"""A real Kubernetes on this machine, without Docker and without a registry of images.

Every binary is built once from Go modules. A control plane alone needs no rights; with a node, everything
runs in a network namespace of its own, so that the machine's addresses, ports and firewall stay as they are,
and pods reach this machine and nothing beyond it.

There is no DNS in the cluster: clients go to addresses.
"""
