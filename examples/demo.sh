#!/bin/sh
# One whole run, offline: a server on a free port, an agent that uses a tool in a scratch folder, live output, server down.
# Usage: make demo
set -eu

scratch=$(mktemp -d)
mkdir "$scratch/work"
server=""
down() {
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
        server=""
    fi
}
trap 'down; rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM

if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold="" plain=""; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

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

# The offline model follows directives, one a line; any other model reads the same lines as a request.
prompt='think: a note has to be written
bash: echo "written by an agent" > note.txt && cat note.txt
say: The note is written.'

say "\$ agentctl run --allow Bash --cwd $scratch/work '$prompt'"
agentctl --server "$address" run --allow Bash --cwd "$scratch/work" "$prompt"

say '$ agentctl ls'
agentctl --server "$address" ls

say "\$ cat $scratch/work/note.txt"
cat "$scratch/work/note.txt"

down
say 'Server down.'
