"""Redis Cluster as data and decisions, without I/O: who owns a slot, who answers a command, how slots move.

slots     key → slot
topology  nodes, slots, moves under way: one document that every node gets
shares    DRAM sizes → slots of each node, with the fewest moves
redirect  topology + caller + keys → serve | MOVED | ASK | forward …
replies   topology → what CLUSTER SLOTS, SHARDS, NODES, INFO … say
handover  two topologies + what the nodes report → what to do next
"""
