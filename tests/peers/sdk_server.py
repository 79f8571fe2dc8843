"""A server made with the official MCP Python SDK, for mcp.sh: answers, errors, progress, waiting, streams that break off, state, a crash on request.

    python sdk_server.py stdio | sse PORT | http PORT | http-json PORT
"""
import asyncio
import os
import sys

try:
    from mcp.server.mcpserver import Context, MCPServer
    old = False
except ImportError:  # SDK 1.x
    from mcp.server.fastmcp import Context, FastMCP as MCPServer
    old = True
from mcp.server.streamable_http import EventMessage, EventStore


class Events(EventStore):
    """What streams said, for clients that go on with one after they lost it."""

    def __init__(self):
        self.said = []

    async def store_event(self, stream_id, message):
        self.said.append((stream_id, message))
        return str(len(self.said))

    async def replay_events_after(self, last_event_id, send_callback):
        last = int(last_event_id)
        stream_id = self.said[last - 1][0]
        for i, (stream, message) in enumerate(self.said[last:], last + 1):
            if stream == stream_id and message:
                await send_callback(EventMessage(message, str(i)))
        return stream_id


resumable = {"event_store": Events(), "retry_interval": 50} if sys.argv[1] == "http" else {}
server = MCPServer("peer", **(resumable if old else {}))
notes = []


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two integers."""
    return a + b


@server.tool()
def fail(why: str) -> str:
    """Raises an error."""
    raise ValueError(why)


@server.tool()
async def slow(steps: int, seconds: float, ctx: Context) -> str:
    """Reports progress at every step."""
    for i in range(steps):
        await ctx.report_progress(i, steps)
        await asyncio.sleep(seconds / steps)
    return f"{steps} steps"


@server.tool()
async def wait(seconds: float) -> str:
    """Waits; says in the file PEER_LOG if it was cancelled."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        with open(os.environ["PEER_LOG"], "a") as log:
            log.write("wait was cancelled\n")
        raise
    return "waited"


@server.tool()
async def leave(times: int, ctx: Context) -> str:
    """Breaks off the stream of its answer before it answers, where it has one that may be resumed."""
    for _ in range(times):
        await ctx.close_sse_stream()
        await asyncio.sleep(0.3)
    return f"left {times} times"


@server.tool()
def note(text: str) -> list[str]:
    """Keeps the text, and tells all that were kept."""
    notes.append(text)
    return notes


@server.tool()
def crash() -> str:
    """Ends the server."""
    os._exit(3)


kind = sys.argv[1]
transport = {"stdio": "stdio", "sse": "sse", "http": "streamable-http", "http-json": "streamable-http"}[kind]
options = {} if kind == "stdio" else {"host": "127.0.0.1", "port": int(sys.argv[2])}
if kind == "http-json":
    options["json_response"] = True
if not old:
    options.update(resumable)
if old:
    for name, value in options.items():
        setattr(server.settings, name, value)
    options = {}
server.run(transport, **options)
