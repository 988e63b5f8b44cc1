"""How a command that did not work ends: one sentence and an exit code."""

import click

from kvtide_cachenode.contract.command_line import FAILED, MISTAKE


class UserError(click.ClickException):
    """A mistake the user can mend; the message names the thing, the value and the cure."""

    exit_code = MISTAKE


class WorkError(click.ClickException):
    """What was asked for makes sense and was not done; the message says what stands in the way."""

    exit_code = FAILED
