"""This node among the others: links to them, the topology, entries on the move."""
