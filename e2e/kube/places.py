"""Names, addresses and folders of the test cluster."""

from typing import Final

from e2e.cache import CACHE

HOME: Final = CACHE / "kube"
BIN: Final = HOME / "bin"
# All that a cluster is made of; `down` removes it as a whole.
STATE: Final = HOME / "cluster"
PKI: Final = STATE / "pki"
LOG: Final = STATE / "log"
CONFIGURATION: Final = STATE / "configuration"
DAEMONS: Final = STATE / "daemons"
KUBECONFIG: Final = STATE / "kubeconfig"
CONTAINERD: Final = STATE / "containerd"
CONTAINERD_SOCKET: Final = CONTAINERD / "containerd.sock"
KUBELET: Final = STATE / "kubelet"
VOLUMES: Final = STATE / "volumes"
# Where the kubelet finds plug-ins that register themselves, and ours among them.
CSI_SOCKET: Final = KUBELET / "plugins" / "loop.sock"
CSI_REGISTRATION: Final = KUBELET / "plugins_registry" / "loop.sock"

NODE: Final = "kvtide-e2e"
NETWORK_NAMESPACE: Final = "kvtide-e2e"
LINK: Final = "kvtide-e2e"
CGROUP: Final = "kvtide-e2e"
PAUSE_IMAGE: Final = "localhost/kvtide/pause:e2e"

HOST_ADDRESS: Final = "10.241.255.1"
NODE_ADDRESS: Final = "10.241.255.2"
POD_NETWORK: Final = "10.241.0.0/24"
SERVICE_NETWORK: Final = "10.241.1.0/24"
SERVICE_ADDRESS: Final = "10.241.1.1"

CTR: Final = (str(BIN / "ctr"), "--address", str(CONTAINERD_SOCKET), "--namespace", "k8s.io")
