"""How a user's mistake ends: one sentence and exit code 2."""

import click


class UserError(click.ClickException):
    """A mistake the user can mend; the message names the thing, the value and the cure."""

    exit_code = 2
