"""Consents over SQLite: the append-only ledger, and beside it, in the same transaction, what it says now."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import replace
from functools import partial

from clarion.encoding import encode
from clarion.model import ConsentEntry, ConsentState, PurposeConsent, SubjectConsent
from clarion.stores.sqlite.readers import Readers, snapshot
from clarion.stores.sqlite.statements import queries
from clarion.stores.sqlite.writer import Job, Writer

__all__ = ["SqliteConsents"]

_SQL = queries("consents")


class SqliteConsents:
    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers

    async def append(self, entry: ConsentEntry) -> ConsentEntry:
        return await self._writer.submit(Job(partial(_append, entry=entry)))

    async def states(self, tenant: str, subjects: Collection[str]) -> dict[str, SubjectConsent]:
        if not subjects:
            return {}
        return await self._readers.run(partial(_states, tenant=tenant, subjects=subjects))

    async def history(self, tenant: str, subject: str, *, limit: int) -> list[ConsentEntry]:
        return await self._readers.run(partial(_history, tenant=tenant, subject=subject, limit=limit))


def _append(connection: sqlite3.Connection, entry: ConsentEntry) -> ConsentEntry:
    tenant, subject = entry.tenant, entry.subject
    seq = connection.execute(_SQL["next_seq"], (tenant,)).fetchone()[0]
    placed = replace(entry, seq=seq)
    why = (entry.purpose, entry.reason, entry.actor, entry.proof)
    connection.execute(
        _SQL["append"], (tenant, seq, subject, entry.state.value, *why, entry.expires_at, entry.recorded_at)
    )
    match entry.state:
        case ConsentState.SUPPRESSED:
            connection.execute(_SQL["suppress"], (tenant, subject, entry.reason or "admin"))
        case ConsentState.RELEASED:
            connection.execute(_SQL["release"], (tenant, subject))
        case state:
            if entry.purpose is None and state is ConsentState.WITHDRAWN:
                connection.execute(_SQL["withdraw_all"], (tenant, subject, seq))
            line = (tenant, subject, entry.purpose, state.value, seq, entry.expires_at)
            connection.execute(_SQL["put_state"], line)
    return placed


def _states(connection: sqlite3.Connection, tenant: str, subjects: Collection[str]) -> dict[str, SubjectConsent]:
    wanted = encode(list(dict.fromkeys(subjects))).decode()
    with snapshot(connection):
        lines = connection.execute(_SQL["states"], (tenant, wanted)).fetchall()
        suppressed = dict(connection.execute(_SQL["suppressions"], (tenant, wanted)).fetchall())
    purposes: dict[str, dict[str | None, PurposeConsent]] = {}
    for subject, purpose, state, seq, expires_at in lines:
        purposes.setdefault(subject, {})[purpose] = PurposeConsent(ConsentState(state), seq, expires_at)
    return {subject: SubjectConsent(suppressed.get(subject), purposes.get(subject, {})) for subject in subjects}


def _history(connection: sqlite3.Connection, tenant: str, subject: str, limit: int) -> list[ConsentEntry]:
    rows = connection.execute(_SQL["history"], (tenant, subject, limit)).fetchall()
    return [ConsentEntry(row[0], row[1], ConsentState(row[2]), *row[3:]) for row in rows]
