#!/bin/bash
# Start Docker's daemon in a nested devbox and wait until it answers: start-docker GROUP
# Members of GROUP may use it. Corral runs this at each start of a devbox that asks for docker_in_docker.
set -eu
group=${1:-docker}
log=/var/log/dockerd.log
config=/etc/docker/daemon.json

if ! command -v dockerd >/dev/null; then
    echo "there is no dockerd in this image: nothing was started" >&2
    exit 0
fi
if [ -S /var/run/docker.sock ] && timeout 5 docker version >/dev/null 2>&1; then
    exit 0
fi

# Version 2 alone: a group whose controllers are given on may hold no process itself. Such files look empty to `-s`.
top=/sys/fs/cgroup
controllers=$(cat "$top/cgroup.controllers" 2>/dev/null || true)
if [ -n "$controllers" ]; then
    mkdir -p "$top/init"
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        while read -r pid; do
            echo "$pid" >"$top/init/cgroup.procs" 2>/dev/null || true
        done <"$top/cgroup.procs"
        echo "+${controllers// / +}" 2>/dev/null >"$top/cgroup.subtree_control" && break
    done
fi

# What an ordinary machine loses when it boots; a disk that was kept has it still.
rm -rf /run/docker /run/docker.pid /run/docker.sock /run/containerd

flags=()
set_unless_configured() {
    grep -qs "\"$1\"" "$config" || flags+=("--$1=$2")
}
# Docker prefers btrfs's own driver on such a disk, which boxes may not use.
set_unless_configured storage-driver overlay2
set_unless_configured group "$group"

[ -e "$log" ] && mv -f "$log" "$log.1"
setsid nohup dockerd "${flags[@]}" >"$log" 2>&1 </dev/null &
daemon=$!
for _ in $(seq 1200); do
    if [ -S /var/run/docker.sock ] && timeout 5 docker version >/dev/null 2>&1; then
        exit 0
    fi
    if ! kill -0 "$daemon" 2>/dev/null; then
        echo "dockerd ended: $(tail -n 3 "$log")" >&2
        exit 1
    fi
    sleep 0.05
done
echo "dockerd did not answer within 60 s: $(tail -n 3 "$log")" >&2
exit 1
