"""Many stale clients at once: `events_replayers.py URL BEARER CURSOR STREAMS EVENTS` reads them all to their end.

Says `begun` before it begins, and at the end what was read, as JSON.
"""

import asyncio
import json
import sys
from pathlib import Path

import httpx2

sys.path.insert(0, str(Path(__file__).parents[1]))

from fault.events_load import Wanted, open_stream


async def replay(client: httpx2.AsyncClient, cursor: str, events: int) -> int:
    """Answers how many events came; they are to be numbered from 0, in order."""
    stream = await open_stream(client, Wanted("custom.*"), cursor)
    count = 0
    while count < events:
        blocks = await stream.blocks()
        if not blocks:
            raise ConnectionError("the stream ended early")
        for block in blocks:
            if b'"notifications/events/event"' in block:
                if b'"data":{"n":%d,' % count not in block:
                    raise ValueError(f"not event {count}: {block[:300]!r}")
                count += 1
            elif b'"truncated":true' in block:
                raise ValueError("a gap")
    stream.close()
    return count


async def main(url: str, bearer: str, cursor: str, streams: int, events: int) -> None:
    headers = {"Authorization": f"Bearer {bearer}"}
    client = httpx2.AsyncClient(base_url=url, headers=headers, verify=False)
    async with client, asyncio.TaskGroup() as tasks:
        print("begun", flush=True)
        reading = [tasks.create_task(replay(client, cursor, events)) for _ in range(streams)]
    print(json.dumps({"streams": streams, "events": sum(task.result() for task in reading)}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])))
