"""etcd, API server, controller manager, scheduler."""

import subprocess
from dataclasses import dataclass
from typing import Final, Self

from tests.ports import free_port

from e2e.kube import credentials, daemons
from e2e.kube.places import (
    BIN,
    KUBECONFIG,
    NETWORK_NAMESPACE,
    NODE_ADDRESS,
    SERVICE_NETWORK,
    STATE,
)

NAMES: Final = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
READY_S: Final = 60.0
CONTROLLERS: Final = "*"
CONTROLLERS_ALONE: Final = "*,-endpoints-controller,-endpointslice-controller"
"""Nobody routes to Services without a node; and of pods on the loopback network these two only complain."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the API server and etcd listen; ``inside`` is the network namespace, None the machine's own."""

    host: str
    api_port: int
    etcd_port: int
    etcd_peer_port: int
    inside: str | None

    @classmethod
    def on_loopback(cls) -> Self:
        """Free ports of this machine, for a control plane alone."""
        return cls("127.0.0.1", free_port(), free_port(), free_port(), None)

    @classmethod
    def of_node(cls) -> Self:
        """The usual ports, in the namespace of the node."""
        return cls(NODE_ADDRESS, 6443, 2379, 2380, NETWORK_NAMESPACE)


def start(at: Addresses) -> None:
    """Start all four and wait until they serve."""
    credentials.make()
    credentials.write_kubeconfig(KUBECONFIG, "admin", f"https://{at.host}:{at.api_port}")
    etcd = f"http://127.0.0.1:{at.etcd_port}"
    daemons.start(
        "etcd", "--data-dir", str(STATE / "etcd"), "--log-level", "warn",
        "--unsafe-no-fsync",  # what this cluster holds need not outlive the machine
        "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
        "--listen-peer-urls", f"http://127.0.0.1:{at.etcd_peer_port}",
        inside=at.inside,
    )  # fmt: skip
    daemons.start(
        "kube-apiserver",
        f"--etcd-servers={etcd}",
        f"--bind-address={at.host}",
        f"--advertise-address={NODE_ADDRESS}",
        f"--secure-port={at.api_port}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged",
        f"--client-ca-file={credentials.file('ca.crt')}",
        f"--tls-cert-file={credentials.file('apiserver.crt')}",
        f"--tls-private-key-file={credentials.file('apiserver.key')}",
        f"--kubelet-certificate-authority={credentials.file('ca.crt')}",
        f"--kubelet-client-certificate={credentials.file('admin.crt')}",
        f"--kubelet-client-key={credentials.file('admin.key')}",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={credentials.file('accounts.pub')}",
        f"--service-account-signing-key-file={credentials.file('accounts.key')}",
        inside=at.inside,
    )
    daemons.wait_for("the API server", is_ready, READY_S, "kube-apiserver")
    common = (f"--kubeconfig={KUBECONFIG}", "--leader-elect=false", "--secure-port=0")
    daemons.start(
        "kube-controller-manager", *common,
        "--use-service-account-credentials",
        "--node-monitor-grace-period=20s",
        f"--root-ca-file={credentials.file('ca.crt')}",
        f"--service-account-private-key-file={credentials.file('accounts.key')}",
        f"--controllers={CONTROLLERS if at.inside else CONTROLLERS_ALONE}",
        inside=at.inside,
    )  # fmt: skip
    daemons.start("kube-scheduler", *common, inside=at.inside)
    daemons.wait_for(
        "the default service account",
        lambda: kubectl("get", "serviceaccount", "default").returncode == 0,
        READY_S,
        "kube-controller-manager",
    )


def is_ready() -> bool:
    """Whether the API server says that it is."""
    return kubectl("get", "--raw=/readyz").returncode == 0


def kubectl(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run kubectl as the cluster's administrator."""
    command = [str(BIN / "kubectl"), f"--kubeconfig={KUBECONFIG}", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
