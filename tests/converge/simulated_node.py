"""A cache node as a process: what it holds, which documents it takes, what outlives it."""

import itertools
from dataclasses import dataclass, field

from kvtide_cachenode.cluster.redirect import View
from kvtide_cachenode.cluster.slots import key_slot
from kvtide_cachenode.contract.messages import IdleTimeouts, Version
from kvtide_cachenode.contract.sizing import MI, capacity_for
from kvtide_operator.decide.split import ssd_for

ENTRY_BYTES = 4 * MI
SLOWNESS = 10.0  # of this network, compared with what the operator reckons with
SLOT = {number: key_slot(b"key:%d" % number) for number in range(4096)}
uids = itertools.count(1)


class RefusedError(Exception):
    """403, 409 and the like."""


@dataclass
class Disk:
    """What outlives a node's process: its id, its document, its SSD."""

    node_id: str = field(default_factory=lambda: f"{next(uids):040x}")
    dram_bytes: int | None = None
    version: Version | None = None
    document: object = None
    topology: object = None
    ssd_bytes: int = 0
    ssd_entries: set = field(default_factory=set)


class Node:
    """The process in a pod; entries of one size, a higher number is hotter."""

    def __init__(self, pod, disk, has_ssd):
        self.pod, self.disk, self.has_ssd = pod, disk, has_ssd
        largest = capacity_for(pod.actual)
        self.capacity = min(disk.dram_bytes or largest, largest)
        self.entries, self.garbage_bytes, self.pinned_bytes, self.page_cache_bytes = set(), 0, 0, 0
        self.shrinks_since_s = None
        self.losses = []
        self.ttl = IdleTimeouts()
        self._view = None, None
        self.mover_until_s = 0.0
        self.emptied = True
        self.silent = False
        self.sees_limit = None  # where it lags behind its cgroup
        if disk.topology is not None:
            self.adopt(disk.topology, 0.0)

    @property
    def used(self):
        return len(self.entries) * ENTRY_BYTES

    @property
    def resident(self):
        return self.used + self.garbage_bytes + self.pinned_bytes

    @property
    def view(self):
        topology = self.disk.topology
        if topology is not None and self._view[0] is not topology:
            self._view = topology, View(topology, self.disk.node_id)
        return None if topology is None else self._view[1]

    def put(self, number):
        """Store, evicting the coldest; False without room."""
        self.entries.add(number)
        while self.used > self.capacity:
            self.evict("to make room")
        return number in self.entries

    def evict(self, why):
        coldest = min(self.entries)
        self.entries.remove(coldest)
        if self.has_ssd and len(self.disk.ssd_entries) * ENTRY_BYTES < self.disk.ssd_bytes:
            self.disk.ssd_entries.add(coldest)
        else:
            self.losses.append((why, coldest))

    def put_desired(self, document, now_s):
        known = self.disk.version
        version = Version(document.term, document.generation)
        if known is not None and (version.term, version.generation) < (known.term, known.generation):
            raise RefusedError(f"older than {known}")
        if version == known and document != self.disk.document:
            raise RefusedError(f"another document of {known}")
        dram, ssd = document.capacity.dram, document.capacity.ssd
        if dram is not None and dram > capacity_for(self.pod.actual):
            raise RefusedError("409 above the limit")
        assert (document.ttl_s is not None) <= self.has_ssd, "ttl_s is for an SSD tier"
        topology = document.topology
        if topology is not None and topology != self.disk.topology:
            if self.disk.topology is not None and topology.epoch <= self.disk.topology.epoch:
                raise RefusedError("409 older topology")
            self.adopt(topology, now_s)
        if document.ttl_s is not None:
            self.ttl = document.ttl_s
        self.disk.version, self.disk.document = version, document
        if dram is not None:
            self.capacity = self.disk.dram_bytes = dram
            while self.used > dram:
                self.evict("to shrink")
                self.garbage_bytes += ENTRY_BYTES
            self.shrinks_since_s = now_s
        if ssd is not None:
            assert self.has_ssd, "no SSD tier"
            assert ssd <= ssd_for(self.pod.claim.actual) + 64 * MI, "409 above the file system"
            self.disk.ssd_bytes = ssd
            while len(self.disk.ssd_entries) * ENTRY_BYTES > ssd:
                self.disk.ssd_entries.remove(min(self.disk.ssd_entries))

    def adopt(self, topology, now_s):
        self.disk.topology = topology
        view = self.view
        for held in (self.entries, self.disk.ssd_entries):
            foreign = {number for number in held if not view.holds(SLOT[number])}
            held -= foreign
            self.losses += [("as foreign", number) for number in foreign]
        self.mover_until_s = now_s + topology.deadline_s * SLOWNESS
        self.emptied = not any(
            view.place in topology.owners[part.first : part.last + 1] for part in topology.moves
        )

    def moving(self):
        """Entries that shall go elsewhere, hottest first."""
        view = self.view
        held = self.entries | self.disk.ssd_entries
        return sorted(
            (number for number in held if view.owns(SLOT[number]) and view.topology.target(SLOT[number])),
            reverse=True,
        )
