#!/usr/bin/env python3
"""Calls of an MCP tool through the official Python client (`pip install mcp`) with asyncio: the usual way.

    mcp_client.py URL CALLS IN_FLIGHT

One session, IN_FLIGHT calls at once; call i has the text "call i", which the answer must give back. Prints one JSON object as
`rlf tools JOB bench` does: calls per second, latencies, and the processor time of this process.
Measured with mcp 2.3.0 (httpx2 2.16.2, anyio 4.16.0)."""
import asyncio
import json
import resource
import sys
import time
from importlib.metadata import version

from mcp import Client


def cpu_s():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def call_all(client, numbers, ms):
    for i in numbers:
        start = time.perf_counter()
        result = await client.call_tool("echo", {"text": f"call {i}"})
        if result.content[0].text != f"call {i}":
            sys.exit(f"mcp_client.py: call {i} was answered {result.content[0].text!r}")
        ms.append((time.perf_counter() - start) * 1e3)


async def main(url, calls, in_flight):
    ms, numbers = [], iter(range(calls))
    async with Client(url) as client:
        start, cpu = time.perf_counter(), cpu_s()
        await asyncio.gather(*(call_all(client, numbers, ms) for _ in range(in_flight)))
        seconds, cpu = time.perf_counter() - start, cpu_s() - cpu
    ms.sort()
    print(json.dumps({"done": len(ms), "ok": len(ms), "in_flight": in_flight, "seconds": round(seconds, 3),
                      "calls_per_s": round(len(ms) / seconds, 1), "p50_ms": round(ms[len(ms) // 2], 3),
                      "p99_ms": round(ms[len(ms) * 99 // 100], 3), "cpu_s": round(cpu, 3),
                      "resident_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
                      "mcp": version("mcp")}))


if len(sys.argv) != 4:
    sys.exit("mcp_client.py: expected URL CALLS IN_FLIGHT")
asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
