"""The network namespace in which a cluster with a node lives, and the cable from this machine into it."""

import json
import subprocess
from pathlib import Path
from typing import Final

from e2e.kube.places import (
    HOST_ADDRESS,
    LINK,
    NETWORK_NAMESPACE,
    NODE_ADDRESS,
    POD_NETWORK,
    SERVICE_NETWORK,
    STATE,
)

# The kubelet sets these for the whole machine; they are put back afterwards.
MACHINE_SETTINGS: Final = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")
_SAVED: Final = STATE / "settings.json"


def make() -> None:
    """Make the namespace. Its only route out leads to this machine, which reaches pods and services in it."""
    if is_there():
        return
    _SAVED.parent.mkdir(parents=True, exist_ok=True)
    if not _SAVED.exists():
        _SAVED.write_text(
            json.dumps({name: Path("/proc/sys", name).read_text() for name in MACHINE_SETTINGS})
        )
    _ip("netns", "add", NETWORK_NAMESPACE)
    _ip("link", "add", LINK, "type", "veth", "peer", "name", "uplink", "netns", NETWORK_NAMESPACE)
    _ip("address", "add", f"{HOST_ADDRESS}/30", "dev", LINK)
    _ip("link", "set", LINK, "up")
    _ip_inside("link", "set", "lo", "up")
    _ip_inside("address", "add", f"{NODE_ADDRESS}/30", "dev", "uplink")
    _ip_inside("link", "set", "uplink", "up")
    for network in (POD_NETWORK, SERVICE_NETWORK):
        _ip("route", "add", network, "via", NODE_ADDRESS)
    # Replies between two pods of a service must pass the translation that their requests passed.
    settings = "net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1"
    _run("nsenter", f"--net=/run/netns/{NETWORK_NAMESPACE}", "sysctl", "-qw", *settings)


def remove() -> None:
    """Remove the namespace with everything in it, and put the machine's settings back."""
    if is_there():
        _ip("link", "delete", LINK)
        _ip("netns", "delete", NETWORK_NAMESPACE)
    if _SAVED.exists():
        for name, value in json.loads(_SAVED.read_text()).items():
            Path("/proc/sys", name).write_text(value)
        _SAVED.unlink()


def is_there() -> bool:
    """Whether the namespace exists."""
    return Path("/run/netns", NETWORK_NAMESPACE).exists()


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _ip_inside(*arguments: str) -> None:
    _run("ip", "-netns", NETWORK_NAMESPACE, *arguments)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
