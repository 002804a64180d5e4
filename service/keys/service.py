"""The rules of API keys: made of chance, shown once, stored as a digest, known to the running service within seconds."""

import hashlib
import secrets
import time
from collections import OrderedDict
from datetime import UTC, datetime

from sqlalchemy.engine import Engine

from service.keys import repository
from service.keys.repository import Key

PREFIX = "pm"
FAILURES = 10  # wrong keys from one address in a minute, before it is told to wait
_MINUTE = 60.0
_MOST_ADDRESSES = 10_000


def digest(key: str) -> str:
    """What is stored of a key. A key has 256 random bits, so a plain hash cannot be searched backwards."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def make(engine: Engine, name: str, scopes: frozenset[str]) -> tuple[Key, str]:
    """Make and store a key; returns it and the secret, which nobody can read again."""
    key_id = secrets.token_hex(4)
    secret = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
    key = Key(key_id, name, digest(secret), scopes, datetime.now(UTC), None)
    with engine.begin() as connection:
        repository.add(connection, key)
    return key, secret


class KeyRing:
    """The valid keys as the running service knows them, refreshed in the background: a request asks no database."""

    def __init__(self, engine: Engine, rate: float) -> None:
        self._engine = engine
        self._rate = rate
        self._keys: dict[str, Key] = {}
        self._any = False
        self.known = False  # whether the keys were ever read: before, nobody may do anything
        self._buckets: dict[str, tuple[float, float]] = {}
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    @property
    def empty(self) -> bool:
        """Whether no key was ever made: then the loopback rule holds."""
        return not self._any

    def refresh(self) -> None:
        """Read the keys anew. Blocks; call it on a thread."""
        with self._engine.connect() as connection:
            found = repository.find_all(connection)
        self._any = bool(found)
        self._keys = {key.digest: key for key in found if key.revoked_at is None}
        self.known = True

    def find(self, secret: str) -> Key | None:
        """The valid key that `secret` is. The look-up is by digest, so its time tells nothing of the secret."""
        return self._keys.get(digest(secret))

    def wait(self, key: Key) -> float:
        """Take one request from the key's allowance: 0 where it has one, else the seconds until it has."""
        if not self._rate:
            return 0.0
        now = time.monotonic()
        left, at = self._buckets.get(key.key_id, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        self._buckets[key.key_id] = (left - 1 if left >= 1 else left, now)
        return 0.0 if left >= 1 else (1 - left) / self._rate

    @property
    def _burst(self) -> float:
        return max(1.0, self._rate)

    def failed(self, address: str) -> None:
        """Remember a wrong key from `address`."""
        now = time.monotonic()
        recent = [at for at in self._failures.pop(address, []) if now - at < _MINUTE]
        self._failures[address] = [*recent, now][-FAILURES:]
        while len(self._failures) > _MOST_ADDRESSES:
            self._failures.popitem(last=False)

    def held_back(self, address: str) -> bool:
        """Whether `address` sent so many wrong keys lately that it must wait, whatever it sends."""
        recent = self._failures.get(address, [])
        return len(recent) >= FAILURES and time.monotonic() - recent[0] < _MINUTE
