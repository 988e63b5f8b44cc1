"""How much memory this process may use: the machine's or its cgroup's limit (v1 and v2)."""

from pathlib import Path

from kvtide_cachenode.contract.sizing import capacity_for


def memory_limit_bytes(root: Path = Path("/")) -> int:
    """The limit now; it changes when a container is resized. ``root`` is where /proc and /sys are found."""
    limits = [machine_bytes(root)]
    for controller, path in _cgroups(root):
        base = root / "sys/fs/cgroup"
        name = "memory.max"
        if controller == "memory":
            base, name = base / "memory", "memory.limit_in_bytes"
        # A limit on any level above holds too. In a container the path may name the host's hierarchy, of
        # which only the container's own part is mounted: the loop ends at that mount.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            limit = _number_in(base.joinpath(*parts[:depth], name))
            if limit is not None:
                limits.append(limit)
    return min(limits)


def largest_capacity_bytes(root: Path = Path("/")) -> int:
    """The largest tier that fits the limit together with the process around it."""
    return capacity_for(memory_limit_bytes(root))


def machine_bytes(root: Path = Path("/")) -> int:
    """The machine's memory."""
    for line in (root / "proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemTotal")


def _cgroups(root: Path) -> list[tuple[str, str]]:
    """``(controller, path)`` of the hierarchies that may limit memory; the controller is empty in v2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found.append(("", path))
        elif "memory" in controllers.split(","):
            found.append(("memory", path))
    return found


def _number_in(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
