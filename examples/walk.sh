#!/bin/sh
# SPDX-License-Identifier: MIT
# For examples/README.md: start one daemon of the lab "walk" in its host's network namespace.
#   walk.sh manager DIR
#   walk.sh agent DIR HOST ADDRESS
# Its process id is in DIR/HOST.pid (manager: DIR/manager.pid), its log in DIR/HOST.log.
set -eu
program=${PROGRAM:-$PWD/build/fleximigrate}
role=$1 dir=$2
mkdir -p "$dir/runc"
case $role in
manager)
    host=cli name=manager
    set -- manager --listen 10.77.0.3:7400 --socket "$dir/manager.sock" --state-dir "$dir/manager"
    ;;
agent)
    host=$3 name=$3
    set -- agent --name "$3" --manager 10.77.0.3:7400 --listen "$4:7401" --bridge br0 --cgroup "/fleximigrate/walk/$3" \
        --state-dir "$dir/state/$3" --run-dir "$dir/run/$3" --runtime-root "$dir/runc/$3"
    ;;
*)
    echo "usage: walk.sh manager DIR | walk.sh agent DIR HOST ADDRESS" >&2
    exit 2
    ;;
esac
# --net only: the mounts that an agent makes have to be the machine's.
nsenter --net="/run/netns/walk-$host" setsid "$program" "$@" --tls-dir "$dir/pki" </dev/null >>"$dir/$name.log" 2>&1 &
echo $! >"$dir/$name.pid"
sleep 2
kill -0 "$(cat "$dir/$name.pid")" 2>/dev/null || { tail -3 "$dir/$name.log" >&2; exit 1; }
echo "$name: $(tail -1 "$dir/$name.log")"
