#!/bin/bash
# SPDX-License-Identifier: MIT
# Process 1 of the guest: what a system with unified cgroups has, then the programs of vm.py's plan, then the end.
# Nothing of it may be needed to end: whatever fails is on the console, and the guest powers off.
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8

finish() {
    sync
    exec busybox poweroff -f
}
trap finish EXIT

set -e
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=0755 run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo '+cpu +cpuset +memory +io +pids' >/sys/fs/cgroup/cgroup.subtree_control
hostname guest
ip link set lo up
cd /fleximigrate
stty -F /dev/hvc0 raw -echo
set +e
python3 /fleximigrate/tests/vm/guest.py </dev/null >/dev/hvc0 2>&1
