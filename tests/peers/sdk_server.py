"""A server made with the official MCP Python SDK, for mcp.sh: answers, errors, progress, waiting, state, a crash on request.

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
    """Waits; says in the file PEER_LOG if it was cancelled."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        with open(os.environ["PEER_LOG"], "a") as log:
            log.write("wait was cancelled\n")
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
transport = {"stdio": "stdio", "sse": "sse", "http": "streamable-http", "http-json": "streamable-http"}[kind]
options = {} if kind == "stdio" else {"host": "127.0.0.1", "port": int(sys.argv[2])}
if kind == "http-json":
    options["json_response"] = True
if old:
    for name, value in options.items():
        setattr(server.settings, name, value)
    options = {}
server.run(transport, **options)
