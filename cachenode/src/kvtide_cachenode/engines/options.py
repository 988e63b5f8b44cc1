"""What a user may set in an engine's extra configuration, checked once at start."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec

from kvtide_cachenode.contract.quantity import parse_quantity
from kvtide_cachenode.engines.node_connection import Credentials

_Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]
_Threads = Annotated[int, msgspec.Meta(ge=1, le=64)]
MAX_ROOT_DEPTH: Final = 999_999  # what `placement.depth` reads


class OptionsError(ValueError):
    """An option is wrong; the sentence says which, and what is right."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options, the same for every engine.

    Attributes:
        nodes: ``host:port`` of any cache nodes of one cluster, separated by commas; they name the others.
        username: user of the nodes' ``--users``.
        password_file: file that holds the password.
        tls_ca_file: certificate authority of the nodes (PEM); with it connections are TLS.
        model_id: name under which blocks are shared, instead of a digest of configuration and weights.
        root_depth: depth of the block whose hash names a subtree (a TTL group); 0 is the first block.
        lookup_timeout_s: after so long a look-up counts as a miss.
        load_timeout_s: after so long blocks not yet loaded are computed.
        store_buffer: bytes of blocks on their way to the nodes; when it is full, blocks are not stored.
        load_threads: transfers into the engine at a time.
        store_threads: transfers to the nodes at a time.
        trace: whether each request is reported to a node.
    """

    nodes: str
    username: str | None = None
    password_file: str | None = None
    tls_ca_file: str | None = None
    model_id: str | None = None
    root_depth: Annotated[int, msgspec.Meta(ge=0, le=MAX_ROOT_DEPTH)] = 0
    lookup_timeout_s: _Seconds = 0.25
    load_timeout_s: _Seconds = 5.0
    store_buffer: str = "256Mi"
    load_threads: _Threads = 4
    store_threads: _Threads = 2
    trace: bool = True

    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each named node.

        Raises:
            OptionsError: one is not ``host:port``.
        """
        return [_address(text.strip()) for text in self.nodes.split(",")]

    def store_buffer_bytes(self) -> int:
        """`store_buffer` in bytes.

        Raises:
            OptionsError: it is no size.
        """
        try:
            return parse_quantity(self.store_buffer)
        except ValueError as error:
            raise OptionsError(f"store_buffer: {error}") from None

    def credentials(self) -> Credentials:
        """How to come in at the nodes."""
        tls = None
        if self.tls_ca_file is not None:
            tls = ssl.create_default_context(cafile=self.tls_ca_file)
        return Credentials(self.username, self.password(), tls)

    def password(self) -> str | None:
        """What `password_file` holds, None without one.

        Raises:
            OptionsError: it cannot be read.
        """
        if self.password_file is None:
            return None
        try:
            return Path(self.password_file).read_text().strip()
        except OSError as error:
            raise OptionsError(
                f"password_file {self.password_file} cannot be read: {error.strerror}"
            ) from None


def read_options(extra: Mapping[str, object], where: str) -> Options:
    """The options in ``extra``, all of them checked; ``where`` is what the user calls that place.

    Raises:
        OptionsError: one is missing, unknown or wrong.
    """
    try:
        options = msgspec.convert(dict(extra), Options)
        options.addresses()
        options.store_buffer_bytes()
        options.password()
    except msgspec.ValidationError as error:
        known = ", ".join(Options.__struct_fields__)
        raise OptionsError(f"{where}: {error}; known options: {known}") from None
    except OptionsError as error:
        raise OptionsError(f"{where}: {error}") from None
    if options.username is not None and options.password_file is None:
        raise OptionsError(f"{where}: username without password_file; name both or none")
    return options


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65536:
        raise OptionsError(f"nodes: {text!r} is not host:port; write for example cache-0:6379")
    return host.removeprefix("[").removesuffix("]"), int(port)
