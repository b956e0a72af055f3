#!/bin/sh
# Writes the Python stubs of proto/agent.proto into the folder given, and beside them the descriptor set that reflection serves.
# Expects .venv/bin first on the path: protoc looks for its mypy plugins there.
set -eu
cd "$(dirname "$0")/.."
python -m grpc_tools.protoc -Iagentpb=proto \
    --python_out="$1" --grpc_python_out="$1" --mypy_out=quiet:"$1" --mypy_grpc_out=quiet:"$1" agentpb/agent.proto

# google.rpc comes with the packages: the types that the details of errors are of.
packages=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
all=$(mktemp)
trap 'rm -f "$all"' EXIT
python -m grpc_tools.protoc -Iagentpb=proto -I"$packages" --include_imports --include_source_info --descriptor_set_out="$all" \
    agentpb/agent.proto google/rpc/status.proto google/rpc/error_details.proto
python tools/descriptors.py "$all" "$1/agentpb/descriptors.binpb"
