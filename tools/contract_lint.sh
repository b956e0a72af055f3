#!/bin/sh
# Lints proto/agent.proto as callers have it: copied into a directory of its package's name, with every rule of buf.yaml.
# Usage: contract_lint.sh BUF
set -eu
cd "$(dirname "$0")/.."

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
package=$(sed -n 's/^package \(.*\);$/\1/p' proto/agent.proto)
directory="$copy/proto/$(echo "$package" | tr . /)"
mkdir -p "$directory"
cp proto/agent.proto "$directory"
cp buf.yaml "$copy"
"$1" lint "$copy"
echo "The contract keeps every rule of buf.yaml."
