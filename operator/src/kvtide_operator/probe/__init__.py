"""A running engine, asked over HTTP: how long its steps take, and whether the simulator agrees."""
