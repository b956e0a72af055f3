#!/bin/sh
# One whole run, offline: a server on a free port, an agent that uses a tool in a scratch folder, live output, server down.
# Usage: make demo
set -eu

scratch=$(mktemp -d)
mkdir "$scratch/work"
server=""
finish() {
    [ -z "$server" ] || { kill "$server" 2>/dev/null && wait "$server" 2>/dev/null; } || true
    rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say '$ agent-service serve --listen 127.0.0.1:0 --model offline'
agent-service serve --listen 127.0.0.1:0 --data-dir "$scratch/data" --model offline >"$scratch/stdout" 2>"$scratch/stderr" &
server=$!
tries=0
until grep -q '^agent-service listening on ' "$scratch/stdout"; do
    tries=$((tries + 1))
    if [ "$tries" -gt 300 ] || ! kill -0 "$server" 2>/dev/null; then
        cat "$scratch/stdout" "$scratch/stderr" >&2
        echo 'The server did not come up.' >&2
        exit 1
    fi
    sleep 0.1
done
cat "$scratch/stdout"
address=$(sed -n 's/^agent-service listening on //p' "$scratch/stdout")

say '$ agentctl run --allow Bash "..."'
agentctl --server "$address" run --allow Bash --cwd "$scratch/work" 'bash: echo "written by an agent" > note.txt && cat note.txt'

say '$ agentctl list'
agentctl --server "$address" list

say 'What the agent left in its folder:'
cat "$scratch/work/note.txt"

say 'Server down.'
