"""The SSD tier: an append-only log of records."""

from kvtide_cachenode.store.ssd.files import SsdLogError
from kvtide_cachenode.store.ssd.log import SsdLog
from kvtide_cachenode.store.ssd.results import Miss, Missed, Refused, Stored
from kvtide_cachenode.store.ssd.stream import StreamBrokenError, ValueStream
from kvtide_cachenode.store.ssd.tasks import Tasks

__all__ = [
    "Miss",
    "Missed",
    "Refused",
    "SsdLog",
    "SsdLogError",
    "Stored",
    "StreamBrokenError",
    "Tasks",
    "ValueStream",
]
