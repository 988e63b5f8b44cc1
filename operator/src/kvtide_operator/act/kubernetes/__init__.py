"""Writes to Kubernetes.

errors     what can go wrong, as classes
transport  blocking HTTP calls in a bounded pool of threads
api        verbs on objects: read, apply, patch, delete; retries, counting, the leader's gate
compare    manifest × live object → does it have to be written?
lease      who leads: a Lease, and the gate that every write passes
events     Kubernetes Events, deduplicated
execute    a pass of decide → what was done, a sentence each
children   TieredCache → manifests (pure)
"""
