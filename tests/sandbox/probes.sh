#!/bin/bash
# What a command of an agent's reaches: one line for each of 22 probes, "name: yes" or "name: no".
# probes.sh PORT OTHER_PORT DATA OTHER_SESSION SOCKET TMP_FILE HOME_FILE CODE SERVICE_PID KEY
port=$1 other_port=$2 data=$3 other=$4 socket=$5 tmp_file=$6 home_file=$7 code=$8 service=$9 key=${10}

probe() {
    local name=$1
    shift
    if ("$@") >/dev/null 2>&1 </dev/null; then echo "$name: yes"; else echo "$name: no"; fi
}
connects() { exec 3<>"/dev/tcp/127.0.0.1/$1"; }
reads() { [ "$(head -c 1 "$1" | wc -c)" = 1 ]; }
appends() { [ -e "$1" ] && printf '' >>"$1"; }
finds() { [ -n "$(find "$1" -name "$2" -print -quit)" ]; }
makes() { touch "$1" && rm "$1"; }
talks() { python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])' "$1"; }
has_key() { cat "$@" | tr '\0' '\n' | grep -q "^ANTHROPIC_API_KEY=$key"; }
capable() { ! grep -Eq '^CapEff:.*0000000[08]0000000$' /proc/self/status; }

probe "the service's port" connects "$port"
probe "another port of the host" connects "$other_port"
probe "read the ledger" reads "$data/ledger.db"
probe "write the ledger" appends "$data/ledger.db"
probe "read the local token" reads "$data/local.token"
probe "read another session's file" reads "$other/work/file"
probe "write another session's file" appends "$other/work/file"
probe "read another session's transcript" finds "$other/config" '*.jsonl'
probe "write another session's configuration" makes "$other/config/probe"
probe "see other agents' temporary files" eval 'ls "$data/tmp" | grep -qv "^$(basename "$TMPDIR")"'
probe "write its own HOME" makes "$HOME/probe"
probe "the API key of its agent" has_key "/proc/$PPID/environ" "/proc/$(cut -d' ' -f4 "/proc/$PPID/stat")/environ"
probe "the service's own environment" reads "/proc/$service/environ"
probe "read /etc/shadow" reads /etc/shadow
probe "read the home of the service's user" reads "$home_file"
probe "write the host's programs" makes /usr/local/probe
probe "write the service's code" makes "$code/probe"
probe "see the host's temporary files" reads "$tmp_file"
probe "talk to a daemon's socket" talks "$socket"
probe "mount" mount -t tmpfs none /mnt
probe "capabilities" capable
probe "write the kernel's settings" eval 'cat /proc/sys/kernel/core_uses_pid >/proc/sys/kernel/core_uses_pid'
