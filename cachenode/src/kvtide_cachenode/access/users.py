"""Who may do what: users with a password and roles, from a file or from the one password of the data port.

    [users.engine]
    password_sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    roles = ["read", "write"]

The hash is plain SHA-256, as in redis' ACL files: checking a slow one would hold up every other client, so a
password must be a long random string. A user named ``default`` is whom AUTH means when it names nobody.
"""

import tomllib
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Any, Final

DEFAULT: Final = "default"
ROLES: Final = ("read", "write", "admin")
MAX_USERS: Final = 1_000
MAX_NAME_CHARACTERS: Final = 64
# Rights are bits. KNOWN is what every user has; whoever has not said who they are has none.
READ, WRITE, ADMIN, KNOWN = 1, 2, 4, 8
_RIGHT = {"read": READ, "write": WRITE, "admin": ADMIN}
_NOBODY = bytes(32)  # compared with when the name is unknown, so that it takes as long


def role_of(right: int) -> str:
    """The role that a single right is."""
    return next(role for role, bit in _RIGHT.items() if bit & right)


class UsersError(ValueError):
    """The file of users, or one with a secret, is wrong; one sentence without the secret."""


class Secret:
    """A password or token: what a file holds, which may change (`load`), or ``value`` where there is no file.

    ``former`` is what it was before the last change, for whoever has not heard of that yet.

    Raises:
        UsersError: the file cannot be read or holds none.
    """

    def __init__(self, file: Path | None, value: bytes = b"") -> None:
        self._file = file
        self.value = value
        self.former: bytes | None = None
        if file is not None:
            self.value = _secret_in(file)

    def load(self) -> None:
        """Read the file again.

        Raises:
            UsersError: it cannot be read or holds none; the secret is the one from before.
        """
        if self._file is not None and (value := _secret_in(self._file)) != self.value:
            self.former, self.value = self.value, value


@dataclass(frozen=True, slots=True)
class User:
    """One user; ``password_sha256`` is None where anyone may come in."""

    name: str
    rights: int
    password_sha256: bytes | None

    @property
    def roles(self) -> list[str]:
        """The roles by name."""
        return [role for role in ROLES if self.rights & _RIGHT[role]]


ANYONE: Final = User(DEFAULT, READ | WRITE | ADMIN | KNOWN, None)


class Users:
    """The users of a file and, with a ``password``, the default user with all roles.

    When neither names any, everybody is the default user with all roles.

    Raises:
        UsersError: the file cannot be read or is wrong.
    """

    def __init__(self, password: Secret | None = None, file: Path | None = None) -> None:
        self.password = password
        self._file = file
        self._named: dict[str, User] = {}
        self.load()

    def load(self) -> None:
        """Read the files again; whoever is connected keeps the rights it has.

        Raises:
            UsersError: a file cannot be read or is wrong; the users are those from before.
        """
        named = {} if self._file is None else _load(self._file)
        if self.password is not None:
            if DEFAULT in named:
                raise UsersError(
                    f"{self._file} and the password file both name the user 'default': leave one out"
                )
            self.password.load()
            named[DEFAULT] = User(DEFAULT, ANYONE.rights, sha256(self.password.value).digest())
        self._named = named or {DEFAULT: ANYONE}

    @property
    def initial(self) -> User | None:
        """Who a client is that has not said so; None when it must say so first."""
        user = self._named.get(DEFAULT)
        return user if user is not None and user.password_sha256 is None else None

    def all(self) -> list[User]:
        """Every user."""
        return list(self._named.values())

    def check(self, name: bytes, password: bytes) -> User | None:
        """The user, when the password is right; the time it takes does not tell how much of it was."""
        user = self._named.get(name.decode("utf-8", "replace"))
        if user is not None and user.password_sha256 is None:
            return user
        expected = _NOBODY if user is None else user.password_sha256
        assert expected is not None, "users without a password are let in above"
        return user if compare_digest(expected, sha256(password).digest()) else None


def _secret_in(file: Path) -> bytes:
    try:
        secret = file.read_text().strip()
    except UnicodeDecodeError:
        raise UsersError(f"{file} cannot be read: it is no text in UTF-8") from None
    except OSError as error:
        raise UsersError(f"{file} cannot be read: {error.strerror}") from None
    if not secret:
        raise UsersError(f"{file} is empty: write the secret into it, on one line")
    return secret.encode()


def _load(file: Path) -> dict[str, User]:
    try:
        document = tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UsersError(f"{file} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsersError(f"{file} is not TOML: {error}") from None
    tables = document.pop("users", None)
    if document or not isinstance(tables, dict) or not tables:
        raise UsersError(f"{file} must have tables [users.NAME] and nothing else")
    if len(tables) > MAX_USERS:
        raise UsersError(f"{file} names {len(tables)} users, at most {MAX_USERS} are possible")
    return {name: _user(file, name, table) for name, table in tables.items()}


def _user(file: Path, name: str, table: Any) -> User:
    shown = f"{file}: user {name!r}"
    if not 0 < len(name) <= MAX_NAME_CHARACTERS or not name.isprintable() or " " in name:
        raise UsersError(f"{shown}: a name has 1 to {MAX_NAME_CHARACTERS} characters and no spaces")
    if not isinstance(table, dict) or set(table) != {"password_sha256", "roles"}:
        raise UsersError(f"{shown} must have password_sha256 and roles, and nothing else")
    digest, roles = table["password_sha256"], table["roles"]
    try:
        expected = bytes.fromhex(digest) if isinstance(digest, str) else b""
    except ValueError:
        expected = b""
    if len(expected) != sha256().digest_size:
        raise UsersError(f"{shown}: password_sha256 must be 64 hexadecimal digits, as sha256sum prints them")
    if not isinstance(roles, list) or not set(map(str, roles)) <= set(ROLES):
        raise UsersError(f"{shown}: roles must be a list of {', '.join(ROLES)}")
    return User(name, KNOWN | sum(_RIGHT[role] for role in set(roles)), expected)
