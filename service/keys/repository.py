"""All SQL about API keys."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.database import keys


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as it is stored: never the key itself, only its SHA-256."""

    key_id: str
    name: str
    digest: str
    scopes: frozenset[str]
    created_at: datetime
    revoked_at: datetime | None


def add(connection: Connection, key: Key) -> None:
    """Store a new key."""
    values = {"key_id": key.key_id, "name": key.name, "digest": key.digest, "scopes": " ".join(sorted(key.scopes)), "created_at": key.created_at}
    connection.execute(sa.insert(keys).values(values))


def find_all(connection: Connection) -> list[Key]:
    """Every key ever made, oldest first."""
    found = connection.execute(sa.select(keys).order_by(keys.c.created_at))
    return [Key(row.key_id, row.name, row.digest, frozenset(row.scopes.split()), row.created_at, row.revoked_at) for row in found]


def revoke(connection: Connection, key_id: str, at: datetime) -> bool:
    """Revoke a key; False where there is none of that id, or it is revoked already."""
    found = connection.execute(sa.update(keys).where(keys.c.key_id == key_id, keys.c.revoked_at.is_(None)).values(revoked_at=at))
    return found.rowcount == 1
