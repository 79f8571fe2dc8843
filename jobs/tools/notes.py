#!/usr/bin/env python3
"""A tool with state, as toolsvc/PROCESS.md describes it: notes that the model takes during an episode.

In a job file:  tools: [{name: notes, kind: process, command: [python3, jobs/tools/notes.py], state: episode}]
By hand:        rlf tools JOB.yaml call add_note '{"text": "Lima"}'
"""
import json
import sys

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
NOTHING = {"type": "object", "properties": {}}
FUNCTIONS = [
    {"name": "add_note", "description": "Keep a note.", "parameters": TEXT},
    {"name": "read_notes", "description": "All notes so far.", "parameters": NOTHING},
]
episodes = {}  # number -> list of notes


def call(function, arguments, notes):
    if function == "add_note":
        notes.append(arguments["text"])
        return f"note {len(notes)} is kept"
    return "\n".join(notes) or "there are no notes"


def answer(request):
    try:
        return {"id": request["id"], "result": call(request["function"], request["arguments"], episodes[request["episode"]])}
    except Exception as error:  # what the model reads
        return {"id": request["id"], "error": str(error)}


for line in sys.stdin:
    request = json.loads(line)
    if request["op"] == "describe":
        print(json.dumps({"id": request["id"], "functions": FUNCTIONS}), flush=True)
    elif request["op"] == "open":
        episodes[request["episode"]] = []
    elif request["op"] == "close":
        del episodes[request["episode"]]
    elif request["op"] == "call":
        print(json.dumps(answer(request)), flush=True)
