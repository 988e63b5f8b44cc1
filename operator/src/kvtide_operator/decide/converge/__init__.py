"""Resize without loss: the cluster as it is and a target → what to do now. Pure and level-triggered.

    view        one seat for each ordinal: its pod, volume claim and node; which are here, absent or unknown
    held        what was given up, and until when
    roll        restarts for another pod template or a smaller volume
    topology    who owns which slots (mend: without those who are lost)
    sizes       one node's memory: pod and node in the right order
    claims      one node's volume
    documents   what a node is told
    replicas    the StatefulSet

`converge` joins them. Nothing is remembered between two passes but what the world and ``held`` say, so a pass
that is lost, repeated, or half done, does no harm.
"""

from kvtide_operator.decide.converge.passes import converge
from kvtide_operator.decide.converge.view import DEADLINES, Deadlines

__all__ = ["DEADLINES", "Deadlines", "converge"]
