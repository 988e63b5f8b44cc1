"""`kvtide engine`: step times of inference engines, and the simulator held against one."""

import click

from kvtide_operator.cli.engine.calibrate import calibrate
from kvtide_operator.cli.engine.profile import profile, profiles
from kvtide_operator.cli.engine.validate import validate


@click.group("engine")
def command() -> None:
    """Step times of inference engines, and how well the simulator predicts one."""


for each in (calibrate, profile, profiles, validate):
    command.add_command(each)
