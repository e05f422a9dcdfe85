"""What an author's hooks show of events that wait for one stream, asked for before they are sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from clarion.clock import Clock
from clarion.errors import HookFailed
from clarion.hub.protocols import Lens
from clarion.hub.ring import Entry, Parcel

__all__ = ["LOOK_SECONDS", "VIEW_BATCH", "Views"]

LOOK_SECONDS = 0.1
"""How long looking may take before what was looked at is sent. Stops a slow hook from holding up what came before."""

VIEW_BATCH = 16
"""Events of one stream that are looked at before the first of them is sent. Bounds how late it is, and what is looked
at again when the stream has to begin anew."""


class Views:
    """Keeps what the lens said of each event until it is sent, and no longer: a transport that stalls may take hours,
    and what was allowed then need not be allowed now."""

    __slots__ = ("_clock", "_failed", "_lens", "_shown")

    def __init__(self, lens: Lens, clock: Clock, failed: Callable[[Entry, HookFailed], None]) -> None:
        self._lens = lens
        self._clock = clock
        self._failed = failed
        self._shown: dict[int, Parcel | None] = {}

    async def prepare(self, entries: Sequence[Entry]) -> None:
        """Ask about those of the first `VIEW_BATCH` entries that were not asked about yet, in order, until one fails or
        it has taken long: what is known by then is sent first.

        Raises Forbidden when access is gone. One that fails is hidden, and told.
        """
        began = self._clock.monotonic()
        for entry in entries[:VIEW_BATCH]:
            parcel, event = entry.parcel, entry.parcel.event
            if event.seq in self._shown:
                continue
            try:
                shown = await self._lens.view(event)
            except HookFailed as error:
                self._shown[event.seq] = None
                self._failed(entry, error)
                return
            # Unchanged, it is the parcel whose bytes all streams share.
            self._shown[event.seq] = parcel if shown is event else None if shown is None else Parcel(shown)
            if self._clock.monotonic() - began > LOOK_SECONDS:
                return

    def ready(self, entries: Iterable[Entry]) -> list[Entry]:
        """The entries up to the first that was not asked about."""
        found = []
        for entry in entries:
            if entry.parcel.event.seq not in self._shown:
                break
            found.append(entry)
        return found

    def of(self, entry: Entry) -> Parcel | None:
        """What is shown of it; None when it is hidden, or was not asked about."""
        return self._shown.get(entry.parcel.event.seq)

    def forget(self) -> None:
        """Ask anew about everything that was not sent."""
        self._shown.clear()
