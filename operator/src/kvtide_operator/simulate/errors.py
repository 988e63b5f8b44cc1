"""What cannot be simulated."""


class SimulationError(ValueError):
    """Inputs that cannot be simulated; the message names the thing, the value and the cure."""
