"""containerd, the network of its pods, and the image that holds a pod's namespaces."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any, Final

from e2e.kube import daemons
from e2e.kube.places import (
    BIN,
    CONFIGURATION,
    CONTAINERD,
    CONTAINERD_SOCKET,
    CTR,
    NETWORK_NAMESPACE,
    PAUSE_IMAGE,
    POD_NETWORK,
    STATE,
)

NETWORK: Final = "kvtide-e2e"
PLUGINS: Final = "/usr/lib/cni"
READY_S: Final = 60.0


def start() -> None:
    """Start it, wait until it answers, and give it the image of a pod's first process."""
    runtime = "[plugins.'io.containerd.cri.v1.runtime'"
    runc = f"{runtime}.containerd.runtimes.runc"
    network = CONFIGURATION / "network"
    network.mkdir(exist_ok=True)
    (network / "10-pods.conflist").write_text(json.dumps(_network()))
    file = CONFIGURATION / "containerd.toml"
    # No oom_score_adj below the own one: lowering it takes CAP_SYS_RESOURCE, which a container has not got.
    file.write_text(f"""version = 3
root = '{CONTAINERD}/root'
state = '{CONTAINERD}/state'
disabled_plugins = ['io.containerd.nri.v1.nri', 'io.containerd.internal.v1.tracing']
[grpc]
address = '{CONTAINERD_SOCKET}'
[plugins.'io.containerd.internal.v1.opt']
path = '{CONTAINERD}/opt'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{PAUSE_IMAGE}'
{runtime}]
netns_mounts_under_state_dir = true
restrict_oom_score_adj = true
disable_apparmor = true
{runc}]
runtime_type = 'io.containerd.runc.v2'
{runc}.options]
BinaryName = '{shutil.which("runc")}'
SystemdCgroup = false
{runtime}.cni]
bin_dirs = ['{PLUGINS}']
conf_dir = '{network}'
""")
    CONTAINERD.mkdir(exist_ok=True)
    daemons.start("containerd", "--config", str(file), inside=NETWORK_NAMESPACE)
    daemons.wait_for("containerd", lambda: _ctr("version") is not None, READY_S, "containerd")
    if PAUSE_IMAGE not in (_ctr("images", "ls", "-q") or ""):
        archive = STATE / "pause.tar"
        _write_pause_image(archive)
        _ctr("images", "import", str(archive))


def _network() -> dict[str, Any]:
    addresses = {
        "type": "host-local",
        "dataDir": str(CONTAINERD / "addresses"),
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": "pods",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {**addresses, "ranges": [[{"subnet": POD_NETWORK}]]},
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": NETWORK, "plugins": [bridge, ports]}


def _write_pause_image(archive: Path) -> None:
    """An image of one static binary, as `docker save` would write it."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(BIN / "pause", "pause")
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    configuration = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/pause"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [PAUSE_IMAGE], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        for name, content in (
            ("config.json", json.dumps(configuration).encode()),
            ("manifest.json", json.dumps(manifest).encode()),
            ("layer.tar", layer.getvalue()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def _ctr(*arguments: str) -> str | None:
    done = subprocess.run([*CTR, *arguments], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None
