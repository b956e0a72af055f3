#!/bin/sh
# Compares proto/agent.proto with what it was: on a branch, where it left main; on main itself, at the last release, or one commit ago.
# Usage: contract_unbroken.sh BUF
set -eu
cd "$(dirname "$0")/.."

base=""
for main in origin/main main; do
    base=$(git merge-base HEAD "$main" 2>/dev/null) && break
done
if [ -z "$base" ] || [ "$base" = "$(git rev-parse HEAD)" ]; then
    base=$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || git rev-parse --verify --quiet HEAD~1 || true)
fi
if [ -z "$base" ] || ! git cat-file -e "$base:proto/agent.proto" 2>/dev/null; then
    echo "The contract was compared with nothing: no earlier version of proto/agent.proto is known here."
    exit 0
fi

package() { sed -n 's/^package \(.*\);$/\1/p'; }
if [ "$(git show "$base:proto/agent.proto" | package)" != "$(package <proto/agent.proto)" ]; then
    echo "The contract begins anew: its package is $(package <proto/agent.proto) since $(git rev-parse --short "$base")."
    exit 0
fi

before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
mkdir "$before/proto"
git show "$base:proto/agent.proto" >"$before/proto/agent.proto"
cp buf.yaml "$before"
"$1" breaking --against "$before"
echo "The contract breaks nothing that $(git rev-parse --short "$base") promised."
