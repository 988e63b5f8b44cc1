"""One client's socket: receives straight into the arena, sends straight from it, and shares the loop."""

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from kvtide_cachenode.access.tls import TlsSocket
from kvtide_cachenode.process.rounds import CROWD
from kvtide_cachenode.serve.commands import execute
from kvtide_cachenode.serve.commands.landing import give_up, place_for, request_of
from kvtide_cachenode.serve.request import Request
from kvtide_cachenode.serve.sending import linger, send
from kvtide_cachenode.serve.session import ReplyCutError, Session
from kvtide_cachenode.wire import replies
from kvtide_cachenode.wire.events import Announced, Broken, Landed, Parser
from kvtide_cachenode.wire.resp import BUFFER_BYTES, RequestParser

# Receives per turn of the loop; with the parser's limits one connection takes at most two megabytes a turn.
RECEIVES_PER_TURN = 2
# Of commands, where the turn is over: what is taken in is split at once, also for the last of many clients.
LITTLE_BYTES = 4096
PAGE_BITS = 12
# Of many commands in a row, after every 16 it is looked whether it is others' turn; after each, where it was
# before the first.
LOOK_MASK = 15
# A longer list of words is freed in parts of so many.
FREED_WORDS = 8192
# While a command waits for the SSD, so many behind it have their values read, too.
READ_AHEAD = 8
READS_VALUE = frozenset((b"GET", b"get", b"MGET", b"mget", b"GETDEL", b"getdel"))


class Connection:
    """Runs a session over a non-blocking socket until a side closes; ``on_close`` is then given its id."""

    failure = b"-ERR internal error: the node has logged it and closes this connection\r\n"
    _parser: Parser

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        session: Session,
        on_close: Callable[[int], None],
    ) -> None:
        self.session = session
        self.moved_bytes = 0
        self.judged: tuple[float, int] | None = None  # when the server last looked, and ``moved_bytes`` then
        self._loop = loop
        self._socket = sock
        self._tls = sock if isinstance(sock, TlsSocket) else None
        self._clients = session.node.clients
        self._turns = session.node.turns
        self._clients.joined()
        self._weight = 0  # pages that the node counts for this connection
        self._make_parser()
        self._on_close = on_close
        self._reading = True
        self._writing = False
        self._lingering = False
        self._closed = False
        self._round = -1
        self._later_since_s = 0.0
        self._answered_bytes = 0  # replied when the command that is answered later began
        self._answering: asyncio.Task[object] | None = None  # the command that is answered later
        session.push = self._push
        loop.add_reader(sock, self._guarded, self._readable)

    def _make_parser(self) -> None:
        self._parser = self._requests = RequestParser()
        self.session.on_user = self._know_user
        self._know_user()

    def _know_user(self) -> None:
        """Before it is known who the client is, little is taken from it."""
        self._requests.restrict(self.session.user is None or self.session.guest)

    @property
    def stranger(self) -> bool:
        """Whether the client has not shown that it is one: it is the first to make way."""
        return self.session.stranger or self._handshaking

    @property
    def _handshaking(self) -> bool:
        return self._tls is not None and self._tls.handshaking

    def cut_off(self, sentence: str) -> None:
        """Close, with an error where one can be sent."""
        if not (self._closed or self.session.out or self._answering):  # no reply is begun
            with suppress(OSError):
                self._socket.sendmsg([replies.error(sentence)])
        self.close()

    @property
    def waiting(self) -> bool:
        """Whether the peer owes us something: the rest of a request, EXEC, or room for our replies."""
        owes_rest = self._parser.in_request or self.session.transaction_bytes > 0
        return self._writing or self._lingering or owes_rest or self._handshaking

    @property
    def gone(self) -> bool:
        """Whether the peer has reset the connection.

        The loop calls once when that happens, and never again; what had arrived may be all that is read then.
        """
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0

    @property
    def idle(self) -> bool:
        """Whether nothing is under way: no request, no answer."""
        return not (self.waiting or self._answering or self.session.out)

    def close(self) -> None:
        """Close at once; what was not sent is lost."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket)
        if self._writing:
            self._loop.remove_writer(self._socket)
        if self._answering is not None:
            self._answering.cancel()
        self._socket.close()
        try:
            self._let_go()
        except Exception as error:  # noqa: BLE001 - a defect ends the connection, not the node
            self.session.node.failures.note("connection", error)
        finally:
            self._clients.left(self)
            self._on_close(self.session.id)

    def _let_go(self) -> None:
        self._parser.put_aside()
        give_up(self._requests.arriving)
        self.session.close()

    def _readable(self) -> None:
        in_crowd = len(self.session.node.sessions) >= CROWD
        if in_crowd and self._was_read():
            self._pause()
            self._loop.call_soon(self._resume)
            return
        parser = self._parser
        session, began_s = self.session, time.monotonic()
        session.now_s = began_s + session.node.ahead_s
        commands = session.node.commands_total
        for _ in range(1 if in_crowd else RECEIVES_PER_TURN):
            buffers = parser.buffers(self._clients.receive_bytes)
            if not buffers:  # others have their turn before more is evicted for it
                self._pause()
                self._turns.after(self._resume)
                break
            if len(buffers[0]) <= BUFFER_BYTES and self._turns.spent():
                buffers = [buffers[0][:LITTLE_BYTES]]
            try:
                if len(buffers) == 1:
                    count = self._socket.recv_into(buffers[0])
                else:
                    count = self._socket.recvmsg_into(buffers)[0]
            except BlockingIOError:
                break
            except OSError:
                self.close()
                return
            if not count:
                self._end_of_input()
                return
            self.moved_bytes += count
            parser.received(count)
            self._run_events()
            if not self._reading or self._closed or count < sum(map(len, buffers)):
                break
        self._push()
        commands = session.node.commands_total - commands
        if commands:
            session.node.dram_latency.record(time.monotonic() - began_s, commands)
        self._read_pending()

    def _was_read(self) -> bool:
        """Whether that was in this round of the loop; it is now."""
        before, self._round = self._round, self.session.node.rounds.number
        return self._round == before

    def _read_pending(self) -> None:
        """Take another turn for what is decrypted already: the loop does not see it."""
        if self._tls is not None and self._reading and not self._closed and self._tls.pending():
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        if self._reading and not self._closed:
            self._guarded(self._readable)

    def _end_of_input(self) -> None:
        """The peer sends no more; what it has asked for is still answered."""
        self.session.closing = True
        self._pause()
        if self.session.out:
            self._send()
        else:
            self.close()

    def _run_events(self) -> None:
        """Execute what has arrived, until replies pile up or it is others' turn."""
        session, parser = self.session, self._requests
        most_bytes = self._clients.unsent_bytes
        look, executed = 0 if self._turns.spent() else LOOK_MASK, 0
        queued_bytes, request = session.queued_bytes, None
        try:
            while not session.closing:
                if session.queued_bytes > most_bytes and self._piled_up():
                    return
                queued_bytes = session.queued_bytes
                event = parser.next_event()
                if event is None:
                    return
                request = Request(event) if isinstance(event, list) else self._arrived(event)
                if request is None:
                    continue
                executed += 1
                execute(session, request)
                if session.later is not None:
                    self._answer_later(request)
                    return
                if request.values:
                    request.release(session.node.store)
                if len(request.words) > FREED_WORDS:
                    self._free(request.words)
                if not executed & look and parser.has_more and self._turns.over():
                    self._pause()
                    self._turns.after(self._resume)
                    return
        except Exception as error:  # noqa: BLE001 - a defect ends the connection, not the node
            self._failed("command", error, begun=session.queued_bytes > queued_bytes)
            if request is not None:
                request.release(session.node.store)
            return
        finally:
            session.node.commands_total += executed
        self._pause()

    def _arrived(self, event: Announced | Landed | Broken) -> Request | None:
        """What an event that is no plain command comes to: a request, or nothing more to do for now."""
        if isinstance(event, Announced):
            self._requests.land(place_for(self.session, event))
            return None
        if isinstance(event, Landed):
            return request_of(self.session, event)
        self.session.reply(replies.error(f"Protocol error: {event.reason}"))
        self.session.closing = True
        return None

    def _piled_up(self) -> bool:
        """Send what can be sent; whether so much is left that nothing more is read."""
        self._send()
        if not self._closed and self.session.queued_bytes > self._clients.unsent_bytes:
            self._pause()
        return self._closed or not self._reading

    def _answer_later(self, request: Request | None = None) -> None:
        """Begin the work that queues the reply of ``request``; until it ends nothing else is executed."""
        work, self.session.later = self.session.later, None
        assert work is not None, "something to do"
        try:
            self.session.node.store.read_ahead(self._wanted_next())
        except BaseException:
            work.close()
            raise
        self._pause()
        self._later_since_s, self._answered_bytes = time.monotonic(), self.session.replied_bytes
        self._answering = self._loop.create_task(work)
        self._answering.add_done_callback(partial(self._answered, request))

    def _wanted_next(self) -> list[bytes]:
        """Keys whose values the commands behind the one under way ask for."""
        behind = self._requests.ahead(READ_AHEAD)
        return [words[1] for words in behind if words[0] in READS_VALUE and len(words) > 1]

    def _answered(self, request: Request | None, done: "asyncio.Task[object]") -> None:
        """The reply of the command that took its time is queued: go on behind it."""
        self._answering = None
        error = None if done.cancelled() else done.exception()
        begun = self.session.replied_bytes > self._answered_bytes
        try:
            if error is None and self.session.later is not None and not self._closed:
                self._answer_later(request)
                return
            if request is not None:
                request.release(self.session.node.store)
                self._free(request.words)
            if done.cancelled() or isinstance(error, ReplyCutError):
                self.close()
            elif error is not None:
                self._failed("command", error, begun)
            elif not self._closed:
                self.session.node.later_latency.record(time.monotonic() - self._later_since_s, 1)
                self._push()
                self._resume()
        except Exception as defect:  # noqa: BLE001 - a defect ends the connection, not the node
            self._failed("connection", defect, begun=True)

    def _failed(self, where: str, error: BaseException, begun: bool) -> None:
        """A defect ends the connection: it is told if its reply has not begun, and no later reply shifts."""
        session = self.session
        session.node.failures.note(where, error, session.last_command.decode("latin-1"))
        if self._closed:
            return
        try:
            if not begun:
                session.reply(self.failure)
            session.closing = True
            self._pause()
            if not session.out or self._answering is not None:
                self.close()
            elif not self._writing:
                self._send()
        except Exception as again:  # noqa: BLE001 - a defect ends the connection, not the node
            session.node.failures.note("connection", again)
            self.close()

    def _free(self, words: list[bytes]) -> None:
        """Let go of the words of a command that has run: a million of them take long."""
        if len(words) > FREED_WORDS:
            del words[-FREED_WORDS:]
            self._turns.after(partial(self._free, words))

    def _resume(self) -> None:
        """Go on after a pause, unless there is a reason to wait."""
        if self._closed or self._reading or self._answering is not None or self.session.closing:
            return
        if self.session.queued_bytes <= self._clients.unsent_bytes:
            self._guarded(self._go_on)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - a defect ends the connection, not the node
            self._failed("connection", error, begun=True)

    def _push(self) -> None:
        session, parser = self.session, self._parser
        if session.out and not self._writing and not self._closed:
            self._send()
        session.report()
        parser.put_aside()
        holds = session.out or session.transaction_bytes or parser.in_request or self._answering
        if holds or self._weight:
            self._weigh()

    def _weigh(self) -> None:
        """Have the node count what this connection holds, in pages: less is nothing."""
        if self._closed:
            return
        held_bytes = self._parser.held_bytes + self.session.held_bytes
        if held_bytes >> PAGE_BITS != self._weight:
            self._weight = held_bytes >> PAGE_BITS
            self._clients.holds(self, self._weight << PAGE_BITS)

    def _go_on(self) -> None:
        """Read again, and execute what arrived before."""
        self._reading = True
        self._loop.add_reader(self._socket, self._guarded, self._readable)
        self.session.now_s = time.monotonic() + self.session.node.ahead_s
        self._run_events()
        self._push()
        self._read_pending()

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._socket)

    def _send(self) -> None:
        session = self.session
        out = session.out
        try:
            self.moved_bytes += send(self._socket, session)
        except OSError:
            self.close()
            return
        if out:
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._socket, self._guarded, self._writable)
            return
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._socket)
        if session.closing and not self._lingering:
            self._linger()

    def _linger(self) -> None:
        self._pause()
        self._lingering = True
        linger(self._loop, self._socket, self.close)

    def _writable(self) -> None:
        self._send()
        self._resume()
