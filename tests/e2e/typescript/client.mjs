// What a program with the official client sees of a server's events, as one JSON object on standard output.
// Arguments: the protocol's revision, and the server's URL, or the command that serves on its standard input.

import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import * as z from 'zod';

const EXTENSION = 'io.modelcontextprotocol/events';
const ANYTHING = z.looseObject({});
const PATIENCE_MS = 20_000;

const [revision, server, ...rest] = process.argv.slice(2);
const client = new Client(
    { name: 'independent', version: '1' },
    {
        capabilities: { extensions: { [EXTENSION]: {} } },
        versionNegotiation: { mode: revision === '2026-07-28' ? { pin: revision } : 'legacy' },
    },
);

const frames = [];
let arrived = () => {};
for (const kind of ['active', 'event', 'heartbeat', 'error', 'terminated']) {
    client.setNotificationHandler(`notifications/events/${kind}`, { params: ANYTHING }, (params, { params: raw }) => {
        frames.push({ kind, ...params, _meta: raw._meta });
        arrived();
    });
}

function call(method, params, options) {
    return client.request({ method, params }, ANYTHING, options);
}

// The frames from `begin` on, as soon as `count` of a kind are among them.
async function received(begin, kind, count) {
    const late = setTimeout(() => { throw new Error(`no ${count} ${kind}: ${JSON.stringify(frames)}`); }, PATIENCE_MS);
    while (frames.slice(begin).filter((frame) => frame.kind === kind).length < count) {
        await new Promise((resolve) => { arrived = resolve; });
    }
    clearTimeout(late);
    return frames.slice(begin);
}

// A stream until two events have come, then aborted; answers its frames and how its request ended.
async function stream(cursor) {
    const begin = frames.length;
    const abort = new AbortController();
    const request = call(
        'events/stream',
        { name: 'chat.message', arguments: {}, cursor },
        { signal: abort.signal, timeout: 2 ** 31 - 1 },
    ).then(() => 'a result', (error) => error.name);
    await Promise.race([received(begin, 'event', 2), request]);
    abort.abort();
    const end = await request;
    return { frames: frames.slice(begin), end };
}

// Polls on from `cursor` until `count` events have come.
async function poll(cursor, count) {
    const found = [];
    while (found.length < count) {
        const answer = await call('events/poll', { name: 'chat.message', arguments: {}, cursor, timeoutMs: 5000 });
        found.push(...answer.events);
        cursor = answer.cursor;
    }
    return { events: found, cursor };
}

async function refusal(method, params) {
    return call(method, params).then(() => null, ({ code, data }) => ({ code, data }));
}

const transport = server.startsWith('http')
    ? new StreamableHTTPClientTransport(new URL(server))
    : new StdioClientTransport({ command: server, args: rest });
await client.connect(transport);

const names = [];
let page = {};
do {
    page = await call('events/list', page.nextCursor === undefined ? {} : { cursor: page.nextCursor });
    names.push(...page.events.map((each) => each.name));
} while (page.nextCursor !== undefined);

const first = await call('events/poll', { name: 'chat.message', arguments: {}, cursor: null });
const opened = await stream(null);
const missed = await poll(opened.frames.at(-1).cursor, 1);
const resumed = await stream(opened.frames.at(-1).cursor);
const polled = await poll(first.cursor, 4);

const begin = frames.length;
const ending = call('events/stream', { name: 'build.finished' }, { timeout: 2 ** 31 - 1 });
await received(begin, 'active', 1);
await client.callTool({ name: 'events_conformance_terminate', arguments: { name: 'build.finished' } });
const result = await ending;

console.log(JSON.stringify({
    capabilities: client.getServerCapabilities(),
    names,
    first,
    opened,
    missed,
    resumed,
    polled,
    ended: { frames: frames.slice(begin), result },
    unknown: await refusal('events/poll', { name: 'nobody' }),
    unoffered: await refusal('events/stream', { name: 'report.ready' }),
    unfit: await refusal('events/stream', { name: 'chat.message', arguments: { channel: 1 } }),
}));
await client.close();
