#!/bin/busybox sh
# shellcheck shell=dash
# SPDX-License-Identifier: MIT
# First program of the guest, in the initramfs that vm.py makes: disks, then guest.sh as process 1 of the guest's root.
set -e
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do /bin/busybox insmod "/modules/$module"; done </modules/order
/bin/busybox mount -t ext4 -o noatime /dev/vda /root
/bin/busybox tar -x -f /dev/vdb -C /root
exec /bin/busybox switch_root /root /bin/bash /fleximigrate/tests/vm/guest.sh
