"""The controller: every TieredCache in its own rhythm of passes and rounds.

access      ways in to nodes and Prometheus
allowed     which addresses caches may name
cache       one cache: a pass
declared    what is declared of it
plans       its CachePlans
troubles    what keeps its pods from being made or run
turns       its passes, one at a time, and how a failure is said
failures    what to say of one
metrics     how long passes and rounds take, and how they end
controller  which caches there are, and when it is whose turn
"""

from kvtide_operator.reconcile.controller import Controller

__all__ = ["Controller"]
