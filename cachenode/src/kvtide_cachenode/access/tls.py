"""TLS for both ports and between nodes, and a socket that a `Connection` can use like a plain one."""

import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

# Handed to OpenSSL at once, which makes records of 16 KiB of it; small replies in a row share one.
WRITE_BYTES: Final = 64 * 1024


class TlsError(ValueError):
    """Certificate or key cannot be used; one sentence."""


def server_context(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or newer; with ``client_ca`` only clients with a certificate of that authority come in.

    Raises:
        TlsError: a file cannot be read or they do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = TlsSocket
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise TlsError(f"--tls-cert {certificate} with --tls-key {key} cannot be used: {error}") from None
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ssl.SSLError) as error:
            raise TlsError(f"--tls-client-ca {client_ca} cannot be used: {error}") from None
    return context


def peer_context(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """TLS from node to node: both show their certificate, and the other's must be of the same authority.

    That authority is ``client_ca``, or what the certificate's own file holds. Names are not compared: nodes
    know each other by address.
    """
    context = ssl.create_default_context(cafile=client_ca or certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_cert_chain(certificate, key)
    return context


class Certificates:
    """The contexts made of one set of files, which may change while the node runs (`load`).

    ``newest`` is for whoever is accepted next, ``admin`` for a server that keeps one context for ever,
    ``peer`` for connections to other nodes. What is connected already stays.

    Raises:
        TlsError: a file cannot be read or they do not belong together.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self.newest = server_context(certificate, key, client_ca)
        self.admin = server_context(certificate, key, client_ca)
        self.admin.sni_callback = self._use_newest
        if client_ca is not None:
            # A session that is resumed is not asked for its certificate again, and whom to trust may have
            # changed; before TLS 1.3 Python cannot forbid resuming.
            self.admin.minimum_version = ssl.TLSVersion.TLSv1_3
            self.admin.num_tickets = 0
        self.peer = peer_context(certificate, key, client_ca)

    def load(self) -> None:
        """Read the files again; whoever connects from now on sees what they hold.

        Nodes go on trusting each other's former authority, too, until they start anew.

        Raises:
            TlsError: they cannot be used; nothing has changed.
        """
        newest = server_context(self._certificate, self._key, self._client_ca)
        try:
            peer_context(self._certificate, self._key, self._client_ca)
            self.peer.load_cert_chain(self._certificate, self._key)
            self.peer.load_verify_locations(self._client_ca or self._certificate)
        except (OSError, ssl.SSLError) as error:
            raise TlsError(f"{self._certificate} cannot be used between nodes: {error}") from None
        self.newest = newest

    def _use_newest(self, sock: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:  # noqa: ARG002 - any name is served
        """At each handshake: what to show, and whom to trust, is the newest context's."""
        sock.context = self.newest


class TlsSocket(ssl.SSLSocket):
    """A non-blocking TLS socket that says BlockingIOError as a plain one does, and gathers what it sends.

    The handshake is part of the first receive. What is `pending` is decrypted already and wakes nobody; so is
    the end, when it came with other bytes.
    """

    _ended = False

    def pending(self) -> int:
        """See `ssl.SSLSocket.pending`; the end counts as one byte."""
        return super().pending() or self._ended

    @property
    def handshaking(self) -> bool:
        """Whether the peer has not shown yet that it speaks TLS."""
        return self.version() is None

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """See `socket.recv_into`; fills the buffer as far as there is something to fill it with."""
        view = memoryview(buffer)
        received = 0
        while received < len(view):
            try:
                count = super().recv_into(view[received:], nbytes, flags)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if not received:
                    raise BlockingIOError from None
                break
            if not count:
                self._ended = True
                break
            received += count
        return received

    def recvmsg_into(self, buffers: Sequence[memoryview]) -> tuple[int]:  # type: ignore[override]  # ssl has none
        """See `socket.recvmsg_into`; only the count is of use."""
        received = 0
        for buffer in buffers:
            try:
                count = self.recv_into(buffer)
            except BlockingIOError:
                if not received:
                    raise
                break
            received += count
            if count < len(buffer):
                break
        return (received,)

    def sendmsg(self, buffers: Sequence[bytes | memoryview]) -> int:  # type: ignore[override]  # ssl has none
        """See `socket.sendmsg`; sends at least one buffer's worth, at most `WRITE_BYTES`."""
        gathered: list[Any] = []
        room = WRITE_BYTES
        for buffer in buffers:
            gathered.append(memoryview(buffer)[:room])
            room -= len(gathered[-1])
            if not room:
                break
        try:
            return self.send(b"".join(gathered))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None


def wrap(context: ssl.SSLContext, sock: socket.socket) -> TlsSocket:
    """The server's side of an accepted connection.

    Raises:
        OSError: the peer is gone already.
    """
    wrapped = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
    assert isinstance(wrapped, TlsSocket), "the context makes these"
    return wrapped
