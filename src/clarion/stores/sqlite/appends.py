"""The writer's side of the log: positions given out, duplicates found, events trimmed, all on the writer's thread.

Heads are held in memory between transactions, because asking the database for them would cost more than the insert.
Whatever goes wrong, they are forgotten, and read again inside of the next transaction: the database is the truth.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

from clarion.ids import Randomness, new_epoch
from clarion.model import Bounds, Draft, Event
from clarion.stores.protocols import Appended, ConflictingEvent, Retention, Stored
from clarion.stores.sqlite.connections import breaks_transaction
from clarion.stores.sqlite.rows import EVENT_COLUMNS, event_row
from clarion.stores.sqlite.statements import MOST_ROWS, ManyRows, queries
from clarion.stores.sqlite.writer import Job

__all__ = ["AppendJob", "Appends", "Committed", "Trimmed"]

_SQL = queries("log")
_INSERT = ManyRows(_SQL["insert_events"], EVENT_COLUMNS)
_KNOWN = ManyRows(_SQL["known_events"], 3)

_TRIM_ROWS = 1_000
"""Events that one transaction deletes, so that a long trim does not hold up emits."""

_Answer = Appended | ConflictingEvent


class AppendJob(Job[list[_Answer]]):
    """One call of `append`."""

    __slots__ = ("drafts",)

    def __init__(self, appends: Appends, drafts: Sequence[Draft]) -> None:
        size = sum([len(draft.payload_json) for draft in drafts])
        super().__init__(partial(appends.append, drafts=drafts), rows=len(drafts), size=size)
        self.drafts = drafts


@dataclass(frozen=True, slots=True)
class Committed:
    """What a transaction added: events in offset order, and the bounds of their tenants after it."""

    stored: list[Stored]
    bounds: dict[str, Bounds]


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What one transaction deleted: how many events, up to which offset, the tenants' bounds; `more`: there may be."""

    count: int
    upto: int
    bounds: dict[str, Bounds]
    more: bool


@dataclass(slots=True)
class _Tenant:
    id: int
    start: int
    floor: int
    head: int


class Appends:
    """The Group of the log's writer. `committed` is called on the event loop after each transaction with events."""

    def __init__(self, committed: Callable[[Committed], None], randomness: Randomness) -> None:
        self._committed = committed
        self._randomness = randomness
        self._tenants: dict[str, _Tenant] = {}
        self._epoch: str | None = None
        self._end: int | None = None
        self._stored: list[Stored] = []

    def run(self, connection: sqlite3.Connection, jobs: Sequence[Job[Any]]) -> Callable[[], None] | None:
        appends = [job for job in jobs if isinstance(job, AppendJob)]
        others = [job for job in jobs if not isinstance(job, AppendJob)]
        committed = self._as_if_new(connection, appends, others) or self._one_by_one(connection, appends, others)
        return partial(self._committed, committed) if committed.stored else None

    def forget(self) -> None:
        self._tenants.clear()
        self._epoch = None
        self._end = None

    def _as_if_new(
        self, connection: sqlite3.Connection, appends: Sequence[AppendJob], others: Sequence[Job[Any]]
    ) -> Committed | None:
        """Append for all callers at once, as if every event were new; None, and nothing done, when it was not so.

        Nearly always it is, and no look-up is needed. One statement is a transaction by itself: the common group, of
        appends alone, costs a single step.
        """
        drafts = appends[0].drafts if len(appends) == 1 else [draft for job in appends for draft in job.drafts]
        names = {draft.tenant for draft in drafts}
        alone = not others and len(drafts) <= MOST_ROWS and self._knows(names)
        if not alone:
            connection.execute("BEGIN IMMEDIATE")
        self._stored = []
        try:
            answers = self._insert(connection, drafts, names)
        except Exception as error:
            # An event that is known, or one caller's draft that cannot be stored: to be found one by one.
            if breaks_transaction(error):
                raise
            self.forget()
            if not alone:
                connection.execute("ROLLBACK")
            return None
        done = 0
        for job in appends:
            job.result = answers[done : done + len(job.drafts)]
            done += len(job.drafts)
        for other in others:
            self._run_one(connection, other)
        committed = self._so_far(connection)
        if not alone:
            connection.execute("COMMIT")
        return committed

    def _one_by_one(
        self, connection: sqlite3.Connection, appends: Sequence[AppendJob], others: Sequence[Job[Any]]
    ) -> Committed:
        """Look up what is known, for each caller by itself, so that one caller's error is not another's."""
        connection.execute("BEGIN IMMEDIATE")
        self._stored = []
        for job in (*appends, *others):
            self._run_one(connection, job)
        committed = self._so_far(connection)
        connection.execute("COMMIT")
        return committed

    def _run_one(self, connection: sqlite3.Connection, job: Job[Any]) -> None:
        count = len(self._stored)
        job.run(connection)
        if job.error is not None:
            del self._stored[count:]
            self.forget()

    def _so_far(self, connection: sqlite3.Connection) -> Committed:
        names = {one.event.tenant for one in self._stored}
        return Committed(self._stored, {name: self._bounds(connection, name) for name in names})

    def _knows(self, names: Set[str]) -> bool:
        """Whether nothing must be read before drafts of these tenants can be given their positions."""
        return self._end is not None and self._epoch is not None and names <= self._tenants.keys()

    # append

    def append(self, connection: sqlite3.Connection, drafts: Sequence[Draft]) -> list[_Answer]:
        """Append one call's drafts, which may be known already, in the database or from one another."""
        known = self._known(connection, drafts)
        epoch = self._current_epoch(connection)
        heads = {name: self._tenants[name].head for name in {draft.tenant for draft in drafts}}
        fresh: list[Draft] = []
        answers: list[_Answer] = []
        for draft in drafts:
            name = (draft.tenant, draft.source, draft.event_id)
            found = known.get(name)
            if found is not None:
                seq, digest = found
                same = digest == draft.digest
                answers.append(Appended(epoch, seq, True) if same else ConflictingEvent(epoch, seq))
                continue
            seq = heads[draft.tenant] = heads[draft.tenant] + 1
            known[name] = (seq, draft.digest)
            fresh.append(draft)
            answers.append(Appended(epoch, seq, False))
        self._insert(connection, fresh, heads.keys())
        return answers

    def _insert(self, connection: sqlite3.Connection, drafts: Sequence[Draft], names: Set[str]) -> list[_Answer]:
        """Insert `drafts` at the next positions. Raises IntegrityError when one of them is there already."""
        epoch = self._current_epoch(connection)
        tenants = {name: self._tenant(connection, name) for name in names}
        offset = self._current_end(connection)
        rows: list[tuple[Any, ...]] = []
        answers: list[_Answer] = []
        stored = self._stored
        for draft in drafts:
            tenant = tenants[draft.tenant]
            seq = tenant.head = tenant.head + 1
            offset += 1
            rows.append(event_row(draft, offset, tenant.id, seq))
            stored.append(Stored(offset, Event.of(draft, seq)))
            answers.append(Appended(epoch, seq, False))
        self._end = offset
        _INSERT.execute(connection, rows)
        return answers

    def _known(
        self, connection: sqlite3.Connection, drafts: Sequence[Draft]
    ) -> dict[tuple[str, str, str], tuple[int, bytes]]:
        names = {self._tenant(connection, name).id: name for name in {draft.tenant for draft in drafts}}
        wanted = [(self._tenants[draft.tenant].id, draft.source, draft.event_id) for draft in drafts]
        found = _KNOWN.fetch(connection, wanted)
        return {(names[tenant], source, event_id): (seq, digest) for tenant, source, event_id, seq, digest in found}

    # trim and epochs

    def trim(self, connection: sqlite3.Connection, retention: Retention) -> Trimmed:
        """Delete the oldest events that `retention` does not keep, up to a bound."""
        excess = 0
        if retention.max_bytes is not None:
            excess = connection.execute(_SQL["event_bytes"]).fetchone()[0] - retention.max_bytes
        oldest = connection.execute(_SQL["oldest"], (_TRIM_ROWS,)).fetchall()
        count = upto = believed = 0
        floors: dict[str, int] = {}
        for offset, name, seq, recorded_at, size in oldest:
            if retention.now is None or recorded_at <= retention.now:
                since = recorded_at
            elif offset > believed:
                believed, since = self._believable(connection, offset, retention.now, recorded_at)
            expired = retention.keep_after is not None and since < retention.keep_after
            if not expired and excess <= 0:
                break
            excess -= size
            floors[name] = seq
            upto = offset
            count += 1
        if count:
            self._delete(connection, upto, floors)
        again = count == _TRIM_ROWS
        return Trimmed(count, upto, {name: self._bounds(connection, name) for name in floors}, again)

    def _believable(self, connection: sqlite3.Connection, offset: int, now: int, moment: int) -> tuple[int, int]:
        """Offset and moment of the first event from `offset` on that was not recorded later than `now`; the end and
        `moment` when there is none."""
        found: tuple[int, int] | None = connection.execute(_SQL["next_recorded_by"], (offset, now)).fetchone()
        return found or (self._current_end(connection), moment)

    def _delete(self, connection: sqlite3.Connection, upto: int, floors: dict[str, int]) -> None:
        for name, floor in floors.items():
            tenant = self._tenant(connection, name)
            tenant.floor = floor
            connection.execute(_SQL["move_floor"], (tenant.id, floor, tenant.head))
        connection.execute(_SQL["put_meta"], ("trimmed_offset", self._current_end(connection)))
        connection.execute(_SQL["delete_upto"], (upto,))

    def renew_epoch(self, connection: sqlite3.Connection) -> str:
        """Begin a new epoch at every tenant's head."""
        epoch = new_epoch(self._randomness)
        connection.execute(_SQL["renew_starts"])
        connection.execute(_SQL["put_meta"], ("epoch", epoch))
        self.forget()
        return epoch

    # what is held in memory

    def _tenant(self, connection: sqlite3.Connection, name: str) -> _Tenant:
        tenant = self._tenants.get(name)
        if tenant is None:
            row = connection.execute(_SQL["tenant"], (name,)).fetchone()
            if row is None:
                row = (connection.execute(_SQL["add_tenant"], (name,)).lastrowid, 0, 0, 0)
            tenant = self._tenants[name] = _Tenant(*row)
        return tenant

    def _bounds(self, connection: sqlite3.Connection, name: str) -> Bounds:
        tenant = self._tenant(connection, name)
        return Bounds(self._current_epoch(connection), tenant.start, tenant.floor, tenant.head)

    def _current_epoch(self, connection: sqlite3.Connection) -> str:
        if self._epoch is None:
            self._epoch = str(connection.execute(_SQL["epoch"]).fetchone()[0])
        return self._epoch

    def _current_end(self, connection: sqlite3.Connection) -> int:
        if self._end is None:
            self._end = int(connection.execute(_SQL["end"]).fetchone()[0])
        return self._end
