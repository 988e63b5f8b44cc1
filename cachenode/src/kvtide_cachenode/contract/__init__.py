"""What both programs share: all that the operator imports of the node, besides the pure packages."""
