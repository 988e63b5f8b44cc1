"""The commands of one connection, drawn by chance, each with what its reply may be."""

import random
from collections.abc import Callable, Sequence
from typing import Final

from benches.resp_stream import Reply, RespError, Simple, request
from benches.truth_model import MAX_VALUE_BYTES, Key, Values
from benches.truth_replies import (
    Desync,
    Expected,
    Piece,
    WrongValue,
    must_be,
    nothing,
    number_of,
    shown,
    unexpected,
    value_of,
)

BULK_BYTES: Final = 16_384  # arguments from here on do not travel with the command
LARGE_BYTES: Final = 4 << 20
ECHO_BYTES: Final = (3, 40, 1000, BULK_BYTES - 1, BULK_BYTES, BULK_BYTES + 1)
WRONG: Final = (
    (b"NOSUCHCOMMAND", b"x"),
    (b"GET",),
    (b"GET", b"a", b"b"),
    (b"SET", b"k"),
    (b"SET", b"k", b"v", b"NX", b"XX"),
    (b"SET", b"k", b"v", b"NOSUCHOPTION"),
    (b"MSET", b"a", b"b", b"c"),
    (b"SCAN", b"x"),
    (b"DEL",),
)


def draw_length(rng: random.Random) -> int:
    """Lengths of values: small, dense at the two borders, and some of any size up to a megabyte."""
    chance = rng.random()
    if chance < 0.35:
        return rng.randint(1, 200)
    if chance < 0.58:
        return 2048 + rng.randint(-8, 8)
    if chance < 0.80:
        return BULK_BYTES + rng.randint(-8, 8)
    if chance < 0.99:
        return int(2 ** rng.uniform(0, 17))
    return int(2 ** rng.uniform(17, 20))


class Script:
    """Draws commands. ``own`` keys are this connection's (``long`` ones too), ``shared`` everybody's."""

    def __init__(
        self,
        rng: random.Random,
        values: Values,
        clock: Callable[[], int],
        own: Sequence[Key],
        shared: Sequence[Key],
        long: Sequence[Key],
        large: Sequence[Key],
        known: set[bytes],
    ) -> None:
        self._rng, self._values, self._clock = rng, values, clock
        self._own, self._shared, self._long, self._large = own, shared, long, large
        self._known = known
        self._cursor = b"0"
        self._marks = 0
        self.nils = self.hits = self.out_of_memory = 0
        kinds = [
            *((self._set, 26), (self._get, 26), (self._mget, 6), (self._mset, 4), (self._delete, 4)),
            *((self._getdel, 3), (self._exists, 4), (self._strlen, 4), (self._setnx, 4), (self._ping, 8)),
            *((self._echo, 5), (self._scan, 1), (self._wrong, 3)),
        ]
        self._kinds = [kind for kind, _ in kinds]
        self._weights = [weight for _, weight in kinds]
        self.share_of_large = 0.0004

    def leave_out_scans(self) -> None:
        self._weights[self._kinds.index(self._scan)] = 0

    def next(self) -> tuple[list[Piece], Expected]:
        """A command: what to send, and what may come."""
        if self._rng.random() < self.share_of_large:
            return self._of_large()
        chosen: tuple[list[Piece], Expected] = self._rng.choices(self._kinds, self._weights)[0]()
        return chosen

    def _key(self) -> Key:
        chance = self._rng.random()
        if chance < 0.02:
            return self._rng.choice(self._long)
        return self._rng.choice(self._own if chance < 0.5 else self._shared)

    def _keys(self, most: int) -> list[Key]:
        keys = [*self._rng.sample(self._own, 3), *self._rng.sample(self._shared, most)]
        self._rng.shuffle(keys)
        return keys[: self._rng.randint(1, most)]

    def _of_large(self) -> tuple[list[Piece], Expected]:
        key = self._rng.choice(self._large)
        length = int(self._rng.uniform(LARGE_BYTES, MAX_VALUE_BYTES))
        pieces, expected = self._set_to(key, length, ()) if self._rng.random() < 0.5 else self._get_of(key)
        expected.large = True
        return pieces, expected

    def _set(self) -> tuple[list[Piece], Expected]:
        options = self._rng.choices(
            [(), (b"NX",), (b"XX",), (b"GET",), (b"NX", b"GET"), (b"XX", b"GET")], (60, 8, 8, 8, 3, 3)
        )[0]
        return self._set_to(self._key(), draw_length(self._rng), options)

    def _set_to(self, key: Key, length: int, options: tuple[bytes, ...]) -> tuple[list[Piece], Expected]:
        began = self._clock()
        write = key.begin(length, began)
        header, body = self._values.parts(key.number, write.serial, write.length)
        head = b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b" % (
            *(3 + len(options), len(key.name), key.name, write.length, header),
        )
        tail = b"\r\n" + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in options])
        gives_old, if_absent, if_there = b"GET" in options, b"NX" in options, b"XX" in options

        def check(reply: Reply, now: int) -> None:
            if self._is_refusal(reply, key):
                key.refused(write)
                return
            if not gives_old:
                stored = reply == b"OK" and isinstance(reply, Simple)
                if not stored and (reply is not None or not options):
                    raise Desync(f"a SET is answered with {shown(reply)}")
                there = if_there if stored else if_absent
            else:
                old = value_of(reply)
                self._check_read(key, old, began, now)
                there = old is not None
                stored = there != if_absent if if_absent or if_there else True
            if there and not key.may_exist():
                raise WrongValue(f"{key.name[:40]!r} is there, although it was deleted")
            if stored:
                key.wrote(write, now)
            else:
                key.refused(write)

        return [head, body, tail], Expected(
            b"SET %b of %d %b" % (key.name[:40], write.length, b" ".join(options)),
            check,
            lambda: key.unsure(write),
        )

    def _setnx(self) -> tuple[list[Piece], Expected]:
        key, began = self._key(), self._clock()
        write = key.begin(draw_length(self._rng), began)
        header, body = self._values.parts(key.number, write.serial, write.length)

        def check(reply: Reply, now: int) -> None:
            if self._is_refusal(reply, key):
                key.refused(write)
            elif number_of(reply, 1):
                key.wrote(write, now)
            else:
                key.refused(write)
                if not key.may_exist():
                    raise WrongValue(f"SETNX finds {key.name[:40]!r}, although it was deleted")

        said = b"SETNX %b of %d" % (key.name[:40], write.length)
        return [request(b"SETNX", key.name, header + bytes(body))], Expected(
            said, check, lambda: key.unsure(write)
        )

    def _mset(self) -> tuple[list[Piece], Expected]:
        began = self._clock()
        keys = list({key.number: key for key in self._keys(4)}.values())
        writes = [key.begin(draw_length(self._rng), began) for key in keys]
        words = [b"MSET"]
        for key, write in zip(keys, writes, strict=True):
            header, body = self._values.parts(key.number, write.serial, write.length)
            words += [key.name, header + bytes(body)]

        def lost() -> None:
            for key, write in zip(keys, writes, strict=True):
                key.unsure(write)

        def check(reply: Reply, now: int) -> None:
            if isinstance(reply, RespError) and reply.startswith(b"OOM"):
                self.out_of_memory += 1
                lost()  # those that fitted may be stored
                return
            if reply != b"OK" or not isinstance(reply, Simple):
                raise unexpected("MSET", reply)
            for key, write in zip(keys, writes, strict=True):
                key.wrote(write, now)

        return [request(*words)], Expected(b"MSET of %d" % len(keys), check, lost)

    def _get(self) -> tuple[list[Piece], Expected]:
        return self._get_of(self._key())

    def _get_of(self, key: Key) -> tuple[list[Piece], Expected]:
        began = self._clock()

        def check(reply: Reply, now: int) -> None:
            if not self._is_refused_long(reply, key):
                self._check_read(key, value_of(reply), began, now)

        return [request(b"GET", key.name)], Expected(b"GET " + key.name[:40], check, nothing)

    def _mget(self) -> tuple[list[Piece], Expected]:
        keys, began = self._keys(12), self._clock()

        def check(reply: Reply, now: int) -> None:
            if not isinstance(reply, list) or len(reply) != len(keys):
                raise unexpected(f"MGET of {len(keys)}", reply)
            for key, value in zip(keys, reply, strict=True):
                self._check_read(key, value_of(value), began, now)

        return [request(b"MGET", *(key.name for key in keys))], Expected(
            b"MGET of %d" % len(keys), check, nothing
        )

    def _getdel(self) -> tuple[list[Piece], Expected]:
        key, began = self._key(), self._clock()

        def check(reply: Reply, now: int) -> None:
            if not self._is_refusal(reply, key):
                self._check_read(key, value_of(reply), began, now)
                key.deleted(began, now)

        return [request(b"GETDEL", key.name)], Expected(b"GETDEL " + key.name[:40], check, nothing)

    def _delete(self) -> tuple[list[Piece], Expected]:
        keys, began = list({key.number: key for key in self._keys(3)}.values()), self._clock()

        def check(reply: Reply, now: int) -> None:
            if number_of(reply, len(keys)) > sum(key.may_exist() for key in keys):
                raise WrongValue(f"DEL finds {shown(reply)} keys, more than can be there")
            for key in keys:
                key.deleted(began, now)

        return [request(b"DEL", *(key.name for key in keys))], Expected(b"DEL", check, nothing)

    def _exists(self) -> tuple[list[Piece], Expected]:
        keys = self._keys(8)

        def check(reply: Reply, now: int) -> None:  # noqa: ARG001 - every check's signature
            if number_of(reply, len(keys)) > sum(key.may_exist() for key in keys):
                raise WrongValue(f"EXISTS finds {shown(reply)} keys, more than can be there")

        return [request(b"EXISTS", *(key.name for key in keys))], Expected(b"EXISTS", check, nothing)

    def _strlen(self) -> tuple[list[Piece], Expected]:
        key = self._key()

        def check(reply: Reply, now: int) -> None:  # noqa: ARG001 - every check's signature
            if self._is_refused_long(reply, key):
                return
            if not key.may_have_length(number_of(reply, MAX_VALUE_BYTES)):
                raise WrongValue(f"STRLEN of {key.name[:40]!r} is {shown(reply)}")

        return [request(b"STRLEN", key.name)], Expected(b"STRLEN " + key.name[:40], check, nothing)

    def _mark(self, length: int) -> bytes:
        self._marks += 1
        return (b"%d-%d-" % (id(self), self._marks)).ljust(length, b"m")

    def _ping(self) -> tuple[list[Piece], Expected]:
        if self._rng.random() < 0.2:
            return [b"*1\r\n$4\r\nPING\r\n"], Expected(b"PING", must_be(b"PONG"), nothing)
        mark = self._mark(0)
        return [request(b"PING", mark)], Expected(b"PING mark", must_be(mark), nothing)

    def _echo(self) -> tuple[list[Piece], Expected]:
        mark = self._mark(self._rng.choice(ECHO_BYTES))
        return [request(b"ECHO", mark)], Expected(b"ECHO mark", must_be(mark), nothing)

    def _scan(self) -> tuple[list[Piece], Expected]:
        words = [b"SCAN", self._cursor, b"COUNT", b"%d" % self._rng.choice((1, 10, 100))]

        def check(reply: Reply, now: int) -> None:  # noqa: ARG001 - every check's signature
            self._cursor = b"0"
            match reply:
                case [bytes(cursor), list(found)] if cursor.isdigit():
                    self._cursor = cursor
                    strange = [key for key in found if key not in self._known]
                    if strange:
                        raise WrongValue(f"SCAN names {strange[0]!r}, which was never written")
                case _:
                    raise unexpected("SCAN", reply)

        return [request(*words)], Expected(b"SCAN", check, nothing)

    def _wrong(self) -> tuple[list[Piece], Expected]:
        words = self._rng.choice(WRONG)

        def check(reply: Reply, now: int) -> None:  # noqa: ARG001 - every check's signature
            if not isinstance(reply, RespError) or not reply.startswith(b"ERR"):
                raise Desync(f"{b' '.join(words)!r} is answered with {shown(reply)}")

        return [request(*words)], Expected(b" ".join(words), check, nothing)

    def _check_read(self, key: Key, value: bytes | None, began: int, now: int) -> None:
        self.nils += value is None
        self.hits += value is not None
        problem = key.read(value, began, now)
        if problem is not None:
            raise WrongValue(problem)

    def _is_refusal(self, reply: Reply, key: Key) -> bool:
        """Whether there was no room, the disk too slow or the name too long: the key keeps what it has."""
        if isinstance(reply, RespError) and (reply.startswith(b"OOM") or reply.find(b"read now") >= 0):
            self.out_of_memory += 1
            return True
        return self._is_refused_long(reply, key)

    def _is_refused_long(self, reply: Reply, key: Key) -> bool:
        return isinstance(reply, RespError) and len(key.name) >= BULK_BYTES and reply.startswith(b"ERR")
