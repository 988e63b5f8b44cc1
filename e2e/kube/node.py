"""The node: containerd, kubelet, kube-proxy, and storage that grows."""

import json
from pathlib import Path
from typing import Any, Final

import yaml

from e2e.kube import cgroups, containerd, credentials, daemons
from e2e.kube.control_plane import kubectl
from e2e.kube.places import (
    CONFIGURATION,
    CONTAINERD_SOCKET,
    CSI_REGISTRATION,
    CSI_SOCKET,
    KUBECONFIG,
    KUBELET,
    NETWORK_NAMESPACE,
    NODE,
    NODE_ADDRESS,
    POD_NETWORK,
    STATE,
    VOLUMES,
)

NAMES: Final = ("kubelet", "kube-proxy", "csi-resizer", "csi-driver", "containerd")
READY_S: Final = 60.0


def start() -> None:
    """Start everything and wait until the node is ready and has its StorageClass, `loop`."""
    CONFIGURATION.mkdir(exist_ok=True)
    cgroups.make()
    containerd.start()
    _start_kubelet()
    _start_proxy()
    daemons.wait_for("the node to be ready", is_ready, READY_S, "kubelet")
    _start_storage()


def is_ready() -> bool:
    """Whether the node says that it is."""
    arguments = ("get", "node", NODE, "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}")
    return kubectl(*arguments).stdout == "True"


def _start_kubelet() -> None:
    file = CONFIGURATION / "kubelet.yaml"
    client_kubeconfig = CONFIGURATION / "kubelet.kubeconfig"
    server = yaml.safe_load(KUBECONFIG.read_text())["clusters"][0]["cluster"]["server"]
    credentials.write_kubeconfig(client_kubeconfig, "kubelet", server)
    (CONFIGURATION / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    _write(
        file,
        {
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "address": NODE_ADDRESS,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": credentials.file("ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": credentials.file("kubelet.crt"),
            "tlsPrivateKeyFile": credentials.file("kubelet.key"),
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroups.ROOT,
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,  # as for containerd
            "resolvConf": str(CONFIGURATION / "resolv.conf"),
            "makeIPTablesUtilChains": False,
            "podLogsDir": str(STATE / "pod-logs"),
            "volumePluginDir": str(KUBELET / "volume-plugins"),
            "nodeStatusUpdateFrequency": "5s",
            # Nobody could pull an image again that was collected.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                "memory.available": "200Mi",
                "nodefs.available": "2%",
                "imagefs.available": "2%",
            },
        },
    )
    daemons.start(
        "kubelet",
        f"--config={file}",
        f"--kubeconfig={client_kubeconfig}",
        f"--hostname-override={NODE}",
        f"--node-ip={NODE_ADDRESS}",
        f"--root-dir={KUBELET}",
        f"--cert-dir={STATE / 'pki'}",
        # Where cAdvisor looks for containerd; without it a resize after a restart hangs for minutes.
        f"--containerd={CONTAINERD_SOCKET}",
        inside=NETWORK_NAMESPACE,
    )


def _start_proxy() -> None:
    file = CONFIGURATION / "kube-proxy.yaml"
    _write(
        file,
        {
            "kind": "KubeProxyConfiguration",
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "mode": "iptables",
            "bindAddress": NODE_ADDRESS,
            "hostnameOverride": NODE,
            "clusterCIDR": POD_NETWORK,
            "clientConnection": {"kubeconfig": str(KUBECONFIG)},
            # These limits are the machine's, not the namespace's.
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
        },
    )
    daemons.start("kube-proxy", f"--config={file}", inside=NETWORK_NAMESPACE)


def _start_storage() -> None:
    VOLUMES.mkdir(exist_ok=True)
    for socket in (CSI_SOCKET, CSI_REGISTRATION):
        socket.parent.mkdir(parents=True, exist_ok=True)
    paths = [str(path) for path in (CSI_SOCKET, CSI_REGISTRATION, VOLUMES)]
    daemons.start("csi-driver", *paths, NODE, str(KUBECONFIG), inside=NETWORK_NAMESPACE)
    daemons.wait_for("the storage driver", CSI_SOCKET.is_socket, READY_S, "csi-driver")
    daemons.start(
        "csi-resizer", f"--csi-address={CSI_SOCKET}", f"--kubeconfig={KUBECONFIG}", inside=NETWORK_NAMESPACE
    )
    made = kubectl("apply", "--server-side", f"--filename={Path(__file__).parent / 'storage.yaml'}")
    assert made.returncode == 0, made.stderr


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1))
