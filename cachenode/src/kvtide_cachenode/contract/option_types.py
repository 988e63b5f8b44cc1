"""What options of the command line may say: addresses and sizes."""

from typing import Any, Final

import click

from kvtide_cachenode.contract.quantity import parse_quantity

# `--dram auto`: what fits the memory there is.
AUTO: Final = -1


class Address(click.ParamType[tuple[str, int]]):
    """Where to listen: host and port."""

    name = "HOST:PORT"

    def __init__(self, example: str = "127.0.0.1:6379") -> None:
        self._example = example

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """See `click.ParamType`."""
        if isinstance(value, tuple):
            return value[0], value[1]
        host, colon, port = str(value).rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            self.fail(f"{value!r} is not HOST:PORT; write for example {self._example}", param, ctx)
        return host.strip("[]"), int(port)


class Size(click.ParamType[int]):
    """Bytes or a quantity; with ``auto`` also that word, which is `AUTO`."""

    name = "SIZE"

    def __init__(self, auto: bool = False) -> None:
        self._auto = auto

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See `click.ParamType`."""
        if self._auto and value == "auto":
            return AUTO
        try:
            return value if isinstance(value, int) else parse_quantity(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
