#!/bin/sh
# Writes the Python stubs of proto/agent.proto into the folder given. Expects .venv/bin first on the path: protoc looks for its
# mypy plugins there.
set -eu
cd "$(dirname "$0")/.."
python -m grpc_tools.protoc -Iagentpb=proto \
    --python_out="$1" --grpc_python_out="$1" --mypy_out=quiet:"$1" --mypy_grpc_out=quiet:"$1" agentpb/agent.proto
