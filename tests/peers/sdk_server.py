"""A server made with the official MCP Python SDK, for mcp.sh: answers, errors, progress, waiting, state, a crash on request.

    python sdk_server.py stdio | sse PORT | http PORT | http-json PORT
"""
import asyncio
import os
import sys

from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("peer")
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
    """Waits; says on standard error if it was cancelled."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        print("wait was cancelled", file=sys.stderr, flush=True)
        raise
    return "waited"


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
if kind == "stdio":
    server.run("stdio")
elif kind == "sse":
    server.run("sse", host="127.0.0.1", port=int(sys.argv[2]))
else:
    server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]), json_response=kind == "http-json")
