# Runs one shell command of an agent's in the cgroup of its tools: tools.sh COMMAND. What it starts stays there.
#
# AGENT_TOOLS_CGROUP is that cgroup's file of processes. A tool that takes all places then leaves the agent its own: of
# ten agents whose tools forked until nothing more could be forked, six had died for want of a thread.
echo 0 >"$AGENT_TOOLS_CGROUP" || exit 126
exec bash -c "$1"
