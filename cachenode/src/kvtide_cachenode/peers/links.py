"""The other nodes of the cluster: pooled connections to them, and at which epoch each was last heard of."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from kvtide_cachenode.access.users import Secret
from kvtide_cachenode.cluster.topology import Node
from kvtide_cachenode.peers.link import CONNECT_S, PeerLink, PeerLostError, PeerState

LINKS_PER_PEER: Final = 16
# A command waits so long for a free link, then its owner counts as unreachable.
LINK_WAIT_S: Final = 5.0
POLL_S: Final = 1.0
# After a failed connection nobody tries again for so long: requests fail at once, not after CONNECT_S.
DOWN_S: Final = 1.0

Address = tuple[str, int]


async def _connected(address: Address, tls: ssl.SSLContext | None) -> PeerLink:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_S):
            _, link = await loop.create_connection(PeerLink, *address, ssl=tls)
    except (OSError, TimeoutError) as error:
        raise PeerLostError(f"{address[0]}:{address[1]} cannot be reached: {error}") from None
    return link


class _Pool:
    """Links to one address, at most `LINKS_PER_PEER`."""

    def __init__(self) -> None:
        self.idle: list[PeerLink] = []
        self.free = asyncio.Semaphore(LINKS_PER_PEER)
        self.down_until_s = 0.0


class Peers:
    """Links by address, for the node with the id ``me``.

    All nodes of a cluster have the same ``password`` (None: none) and, where they speak TLS, certificates
    that ``tls`` accepts.
    """

    def __init__(self, me: str, password: Secret | None, tls: ssl.SSLContext | None) -> None:
        self.heard: dict[str, int] = {}
        self._me = me.encode()
        self._password = password
        self._tls = tls
        self._pools: dict[Address, _Pool] = {}

    @asynccontextmanager
    async def link(self, address: Address, epoch: int) -> AsyncIterator[PeerLink]:
        """A link on which commands go out under ``epoch``; it is closed when its user fails.

        Raises:
            PeerLostError: no link in time, or the peer cannot be reached.
        """
        pool = self._pools.setdefault(address, _Pool())
        try:
            async with asyncio.timeout(LINK_WAIT_S):
                await pool.free.acquire()
        except TimeoutError:
            raise PeerLostError(
                f"all {LINKS_PER_PEER} links to {address[0]}:{address[1]} are in use"
            ) from None
        try:
            link = await self._idle_or_new(pool, address)
            try:
                if link.epoch != epoch:
                    await self._introduce(link, epoch)
                yield link
            except BaseException:
                await _closed(link)
                raise
            if link.usable:
                pool.idle.append(link)
            else:
                await _closed(link)
        finally:
            pool.free.release()

    async def ask_state(self, node: Node, epoch: int) -> PeerState | None:
        """What a member says of itself now; None, and not heard of, when it does not answer."""
        try:
            async with self.link((node.host, node.port), epoch) as link:
                state = await self._introduce(link, epoch)
        except PeerLostError:
            self.heard.pop(node.id, None)
            return None
        if state.id == node.id:
            self.heard[node.id] = state.epoch
        return state

    async def poll(self, members: Iterable[Node], epoch: int) -> None:
        """Ask all members at once."""
        await asyncio.gather(*(self.ask_state(node, epoch) for node in members))

    def keep(self, members: Iterable[Node]) -> None:
        """Close the links to whoever is no member any more."""
        addresses = {(node.host, node.port) for node in members}
        for address in self._pools.keys() - addresses:
            for link in self._pools.pop(address).idle:
                link.close()
        ids = {node.id for node in members}
        for node_id in self.heard.keys() - ids:
            del self.heard[node_id]

    def close(self) -> None:
        """Close all idle links."""
        self.keep(())

    async def _idle_or_new(self, pool: _Pool, address: Address) -> PeerLink:
        while pool.idle:
            link = pool.idle.pop()
            if link.usable:
                return link
            link.close()
        if time.monotonic() < pool.down_until_s:
            raise PeerLostError(f"{address[0]}:{address[1]} could not be reached a moment ago")
        try:
            link = await _connected(address, self._tls)
        except PeerLostError:
            pool.down_until_s = time.monotonic() + DOWN_S
            raise
        try:
            await self._log_in(link, address)
        except BaseException:
            link.close()
            raise
        return link

    async def _log_in(self, link: PeerLink, address: Address) -> None:
        """Say the password; where a changed one is not known yet, the one before."""
        if self._password is None:
            return
        for password in (self._password.value, self._password.former):
            if password is not None:
                link.send(b"AUTH", password)
                if await link.reply() == b"OK":
                    return
        raise PeerLostError(f"{address[0]}:{address[1]} refuses our password")

    async def _introduce(self, link: PeerLink, epoch: int) -> PeerState:
        link.send(b"KVTIDE.PEER", b"%d" % epoch, self._me)
        try:
            async with asyncio.timeout(LINK_WAIT_S):
                state = await link.state()
        except TimeoutError:
            raise PeerLostError(f"no answer within {LINK_WAIT_S:.0f} s") from None
        link.epoch = epoch
        return state


async def _closed(link: PeerLink) -> None:
    """Close a link; when this returns, nothing that was given to `PeerLink.send` is in use any more."""
    link.close()
    await link.gone.wait()
