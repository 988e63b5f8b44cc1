"""How the node shall be and how it is: the admin API, sizes and their changes, metrics."""
