#!/usr/bin/env python3
"""A CLI that behaves badly, in the ways a prompt asks for. It speaks as much of the protocol as the service needs."""

import json
import os
import sys
import time


def say(**frame):
    sys.stdout.write(json.dumps(frame) + "\n")
    sys.stdout.flush()


def answer(request):
    say(
        type="control_response",
        response={"subtype": "success", "request_id": request["request_id"], "response": {"commands": []}},
    )


def turn(uuid, prompt):
    say(type="system", subtype="init", model="fake", uuid="i")
    word, _, argument = prompt.partition(" ")
    if word == "big":
        result = {"type": "tool_result", "tool_use_id": "t", "content": "x\0\ud800" + "y" * int(argument)}
        say(type="user", message={"role": "user", "content": [result]}, parent_tool_use_id=None, uuid="u")
    if word == "garbage":
        sys.stdout.write('{"type": "assistant", "mess\n')
        sys.stdout.flush()
    if word == "exit":
        sys.stderr.write("the last words\n")
        os._exit(int(argument))
    text = {"role": "assistant", "model": "fake", "content": [{"type": "text", "text": "done"}]}
    say(type="assistant", message=text, parent_tool_use_id=None, uuid="a")
    say(
        type="result",
        subtype="success",
        is_error=False,
        result="done",
        num_turns=1,
        duration_ms=1,
        duration_api_ms=1,
        session_id="s",
        total_cost_usd=0.5,
        usage={},
        uuid="r",
        user_message_uuids=[uuid],
    )


def main():
    for line in sys.stdin:
        frame = json.loads(line)
        if frame["type"] == "control_request":
            answer(frame)
        elif frame["type"] == "user":
            turn(frame["uuid"], frame["message"]["content"])
    while True:  # deaf to the end of its input
        time.sleep(60)


if __name__ == "__main__":
    main()
