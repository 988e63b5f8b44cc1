"""The engine's model: how long its steps take, measured, scaled, fitted and paced."""
