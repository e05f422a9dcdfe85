"""`python -m clarion.demo`: a server, an agent and real events, from nothing to pushed notifications.

Everything is what a user would use: `clarion serve` in a process of its own, keys from `clarion keys create`, the
official MCP SDK's client for the subscriptions, the push stream, the HTTP API for the events. Exit code 0 when exactly
the expected notifications came.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from watchfiles import Change, awatch

from clarion.client import ApiClient, EventFrame, Frame, OpenFrame, Reconnecting
from clarion.client.push import PushClient
from clarion.errors import ClarionError

__all__ = ["DemoFailed", "main", "newest_commit"]

DEMO_SECONDS = 40.0
"""After this the demo has failed, whatever it waits for."""

PUSH_SECONDS = 10.0
"""How long one notification may take."""

STOP_SECONDS = 10.0
"""How long the server may take to stop before it is killed."""

MAX_FILES = 50
"""Paths listed of a commit: in a shallow clone the only commit touches everything."""

PAGE_COLUMNS = 100
"""Columns of a line that goes to a file or a pipe."""

CLIENT_ID = "demo-agent"
FILTER = {"amount_gte": 100000}


class DemoFailed(Exception):
    """Something did not come as it should have."""


# -- what is shown ----------------------------------------------------------------------------------------------------


class Screen:
    """The demo's output: what is emitted, and what the agent is told."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False)

    def title(self, text: str) -> None:
        self._console.print(Text(text, style="bold"))

    def fact(self, name: str, text: str) -> None:
        self._line(Text(f"  {name:<9}", style="dim"), text)

    def emitted(self, topic: str, text: str) -> None:
        self._line(Text.assemble(("  emit ", "yellow"), f"  {topic:<11}"), text)

    def pushed(self, frame: EventFrame, seconds: float) -> None:
        """The notification, as the agent got it."""
        took = f"after {seconds * 1000:.0f} ms"
        self._line(
            Text.assemble(("  push ", "bold green"), (f"  {frame.topic:<11}", "bold")), f"#{frame.event_id} {took}"
        )
        for key, value in frame.payload.items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            self._line(Text(f"           {key:<11}", style="dim"), shown)

    def held_back(self, topic: str, text: str) -> None:
        self._line(Text.assemble(("  held ", "bold magenta"), (f"  {topic:<11}", "bold")), text)

    def text(self, text: str = "") -> None:
        self._console.print(Text(text), soft_wrap=True)

    def done(self, text: str) -> None:
        self._console.print(Text(text, style="bold green"))

    def _line(self, head: Text, text: str) -> None:
        """One line, cut at the edge of the terminal, or of a page."""
        line = Text.assemble(head, " ", "".join(mark if mark.isprintable() else " " for mark in text))
        line.truncate(self._console.width if self._console.is_terminal else PAGE_COLUMNS, overflow="ellipsis")
        self._console.print(line, soft_wrap=True)


# -- the server, as a user starts it ----------------------------------------------------------------------------------


def _environment() -> dict[str, str]:
    """This process's, without settings that would lead the demo elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CLARION_")}


@asynccontextmanager
async def _server(data: Path) -> AsyncIterator[str]:
    """`clarion serve` on a free port; gives its URL, and stops it as an operator would."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "clarion", "serve", "--port", "0", "--data", str(data), "--log-level", "warning",
        env=_environment(), stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    reader = process.stderr
    if reader is None:
        raise DemoFailed("the server's stderr cannot be read")
    relay: asyncio.Task[None] | None = None
    try:
        seen: list[str] = []
        while line := (await reader.readline()).decode():
            seen.append(line.rstrip())
            if "is listening on" in line:
                break
        else:
            raise DemoFailed("the server did not start: " + " / ".join(seen))
        relay = asyncio.create_task(_relay(reader))
        yield seen[-1].rpartition(" ")[2]
    finally:
        await _stop(process)
        if relay is not None:
            await relay


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _relay(reader: asyncio.StreamReader) -> None:
    """Show the server's warnings, and keep its pipe from filling up, until it ends."""
    while line := (await reader.readline()).decode():
        if not line.startswith("  "):  # the rest of the banner
            sys.stderr.write(line)


async def _key(data: Path, role: str) -> str:
    """A key, from the command line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "clarion", "keys", "create", "--data", str(data), "--role", role, "--subject", "demo",
        env=_environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    if process.returncode != 0:
        raise DemoFailed(f"keys create: {errors.decode().strip()}")
    return output.decode().strip()


# -- real input -------------------------------------------------------------------------------------------------------


def _git(*arguments: str) -> str:
    return subprocess.run(
        ("git", *arguments), check=True, capture_output=True, text=True, errors="replace", timeout=10
    ).stdout.strip("\n")


def newest_commit() -> dict[str, Any] | None:
    """The payload of git.commit for the newest commit of the repository around the working directory, if any."""
    try:
        top = _git("rev-parse", "--show-toplevel")
        branch = _git("rev-parse", "--abbrev-ref", "HEAD")
        commit, author, email, subject = _git("log", "-1", "--format=%H%x00%an%x00%ae%x00%s").split("\0")
        files = _git("show", "--format=", "--name-only", "HEAD").splitlines()
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return {
        "repository": Path(top).name,
        "branch": branch,
        "commit": commit,
        "author": author,
        "email": email,
        "subject": subject,
        "files": files[:MAX_FILES],
    }


def _made_commit() -> dict[str, Any]:
    return {
        "repository": "clarion-demo",
        "branch": "main",
        "commit": secrets.token_hex(20),
        "author": "Ada Demo",
        "email": "ada@example.com",
        "subject": "Tell the agents",
        "files": ["README.md"],
    }


async def _watch(folder: Path, api: ApiClient, ready: asyncio.Event) -> None:
    """Emit what happens in `folder`."""
    topics = {Change.added: "file.added", Change.modified: "file.modified", Change.deleted: "file.deleted"}
    async for changes in awatch(folder, step=20, rust_timeout=100, yield_on_timeout=True):
        ready.set()  # the first return, of changes or of the timeout, shows that the folder is being watched
        by_path: dict[str, Change] = {}
        for change, path in sorted(changes):  # a file that was added and written to at once was added
            by_path.setdefault(path, change)
        for path, change in by_path.items():
            await api.emit({"topic": topics[change], "payload": _file_payload(folder, Path(path))})


def _file_payload(folder: Path, path: Path) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "path": path.name,
        "name": path.name,
        "extension": path.suffix.lower(),
        "root": folder.name,
    }
    with suppress(FileNotFoundError):
        payload["size"] = path.stat().st_size
    return payload


# -- the agent --------------------------------------------------------------------------------------------------------


class Agent:
    """The subscriber: hands out the notifications one by one, in the order in which they came."""

    def __init__(self, client: PushClient) -> None:
        self._client = client
        self._opened = asyncio.Event()
        self._frames: asyncio.Queue[EventFrame] = asyncio.Queue()
        self.received = 0

    async def listen(self) -> None:
        async for item in self._client.stream():
            self._take(item)

    def _take(self, item: Frame | Reconnecting) -> None:
        if isinstance(item, OpenFrame):
            self._opened.set()
        elif isinstance(item, EventFrame):
            self.received += 1
            self._frames.put_nowait(item)

    async def opened(self) -> None:
        async with asyncio.timeout(PUSH_SECONDS):
            await self._opened.wait()

    async def told(self, topic: str, wanted: Mapping[str, Any]) -> EventFrame:
        """The next notification, which must be of `topic` with `wanted` in its payload."""
        try:
            async with asyncio.timeout(PUSH_SECONDS):
                frame = await self._frames.get()
        except TimeoutError:
            raise DemoFailed(f"{topic} was not pushed within {PUSH_SECONDS:.0f} s") from None
        if frame.topic != topic or any(frame.payload.get(key) != value for key, value in wanted.items()):
            raise DemoFailed(f"{topic} with {dict(wanted)} was expected, but pushed was {frame.raw}")
        return frame


class Script:
    """What happens in the demo, in order. Every push is awaited, so one that should not come is noticed by the next."""

    def __init__(self, screen: Screen, api: ApiClient, agent: Agent) -> None:
        self._screen = screen
        self._api = api
        self._agent = agent
        self._expected = 0

    async def run(self, folder: Path, commit: dict[str, Any] | None) -> None:
        if commit is None:
            self._screen.fact("git", "no repository with a commit around here: its newest commit is left out")
        else:
            about = f"the newest commit here, {commit['commit'][:10]}"
            await self._emit("git.commit", commit, about, event_id=commit["commit"])
        await self._emit("git.commit", _made_commit(), "a commit made up for this demo")
        await self._change_file(folder)
        small = {"deal_id": "d_2", "account_id": "acc_2", "name": "Corner shop", "amount": 50000}
        self._screen.emitted("deal.won", "Corner shop, 50,000")
        await self._api.emit({"topic": "deal.won", "payload": small})
        big = {"deal_id": "d_1", "account_id": "acc_1", "name": "Acme renewal", "amount": 150000}
        await self._emit("deal.won", big, "Acme renewal, 150,000")
        self._screen.held_back("deal.won", "Corner shop was not pushed: 50,000 is below 100,000")
        if self._agent.received != self._expected:
            raise DemoFailed(f"{self._agent.received} notifications came, {self._expected} were expected")

    @property
    def expected(self) -> int:
        return self._expected

    async def _emit(self, topic: str, payload: dict[str, Any], about: str, event_id: str | None = None) -> None:
        self._screen.emitted(topic, about)
        began = time.perf_counter()
        await self._api.emit({"topic": topic, "payload": payload, "event_id": event_id})
        await self._pushed(topic, payload, began)

    async def _change_file(self, folder: Path) -> None:
        self._screen.emitted("file.added", "a file appears in a watched folder")
        began = time.perf_counter()
        text = "Pushed, not polled.\n"
        draft = folder.parent / "hello.md"
        draft.write_text(text)
        draft.replace(folder / "hello.md")  # appears at once with its content: one change
        await self._pushed("file.added", {"path": "hello.md", "size": len(text)}, began)

    async def _pushed(self, topic: str, wanted: Mapping[str, Any], began: float) -> None:
        frame = await self._agent.told(topic, wanted)
        self._screen.pushed(frame, time.perf_counter() - began)
        self._expected += 1


# -- all of it --------------------------------------------------------------------------------------------------------


async def _demo(screen: Screen, place: Path) -> None:
    data, folder = place / "clarion-data", place / "watched"
    folder.mkdir()
    screen.title("Clarion pushes events to an MCP client the moment they happen")
    async with _server(data) as url:
        screen.fact("server", f"clarion serve, on {url}")
        publisher, subscriber = await asyncio.gather(_key(data, "publisher"), _key(data, "subscriber"))
        async with (
            ApiClient(url, publisher) as api,
            PushClient(url, subscriber, client_id=CLIENT_ID) as client,
        ):
            agent, ready = Agent(client), asyncio.Event()
            await client.subscribe(["git.*", "file.*"], label="demo")
            await client.subscribe(["deal.won"], FILTER, label="demo")
            screen.fact("client", "the official MCP SDK's, subscribed to git.* and file.*")
            screen.fact("", "and to deal.won where amount_gte is 100,000")
            listening = asyncio.create_task(agent.listen())
            watching = asyncio.create_task(_watch(folder, api, ready))
            script = asyncio.create_task(_play(screen, api, agent, ready, folder))
            try:
                await asyncio.wait((listening, watching, script), return_when=asyncio.FIRST_COMPLETED)
                for task in (listening, watching, script):
                    if task.done():
                        task.result()
            finally:
                for task in (listening, watching, script):
                    task.cancel()
                await asyncio.gather(listening, watching, script, return_exceptions=True)


async def _play(screen: Screen, api: ApiClient, agent: Agent, ready: asyncio.Event, folder: Path) -> None:
    await agent.opened()
    async with asyncio.timeout(PUSH_SECONDS):
        await ready.wait()
    commit = await asyncio.to_thread(newest_commit)
    screen.text()
    script = Script(screen, api, agent)
    await script.run(folder, commit)
    screen.text()
    screen.done(f"{script.expected} notifications expected, {agent.received} received.")


def _go_on(screen: Screen) -> None:
    beside = Path(sys.executable).with_name("clarion")
    command = os.path.relpath(beside) if beside.exists() else "clarion"
    if command.startswith(".."):
        command = str(beside)
    screen.text()
    screen.text("Go on by hand, in three terminals:")
    screen.text(f"  {command} serve")
    screen.text(f"  {command} listen 'deal.*' --filter '{{\"amount_gte\": 100000}}'")
    screen.text(f'  {command} emit deal.won \'{{"name": "Acme renewal", "amount": 150000}}\'')
    screen.text("and for an MCP client of your own, at http://127.0.0.1:8787/mcp, a key:")
    screen.text(f"  {command} keys create --role subscriber")


async def _bounded(screen: Screen, place: Path) -> None:
    async with asyncio.timeout(DEMO_SECONDS):
        await _demo(screen, place)


def main() -> int:
    """Run the demo; answers the exit code."""
    screen = Screen()
    place = Path(tempfile.mkdtemp(prefix="clarion-demo-")).resolve()
    try:
        asyncio.run(_bounded(screen, place))
    except (DemoFailed, ClarionError) as error:
        print(f"error: the demo failed: {error}", file=sys.stderr)
        return 1
    except TimeoutError:
        print(f"error: the demo was not done within {DEMO_SECONDS:.0f} s", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(place, ignore_errors=True)
    _go_on(screen)
    return 0


if __name__ == "__main__":
    sys.exit(main())
