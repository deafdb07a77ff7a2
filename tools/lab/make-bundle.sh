#!/bin/bash
# Write config.json for a container whose root filesystem is DIR/rootfs, so that
# DIR is an OCI bundle that "runc run --bundle DIR NAME" starts.
#
# It is what runc itself proposes, with what a container gets from Docker (its
# capabilities) and without what stands in the way of moving it (a terminal, and
# resource limits, which a host without CAP_SYS_RESOURCE cannot set).
set -euo pipefail

usage() {
    cat <<'EOF'
usage: make-bundle.sh DIR [--memory BYTES] [--tty yes|no] -- PROGRAM [ARGUMENT…]

Writes DIR/config.json; DIR/rootfs must exist (make-rootfs.sh makes one).
  --memory BYTES  the most memory the container may use; without: no limit
  --tty yes       give it a terminal; without: none
EOF
}

die() {
    printf 'make-bundle: %s\n' "$*" >&2
    exit 1
}

bundle=
memory=0
tty=no
command=()

parse_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
        --memory | --tty)
            [ $# -ge 2 ] || die "$1 needs a value; see --help"
            if [ "$1" = --memory ]; then memory=$2; else tty=$2; fi
            shift
            ;;
        --)
            shift
            command=("$@")
            break
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        -*) die "unknown option '$1'; see --help" ;;
        *)
            [ -z "$bundle" ] || die "one DIR only, not '$bundle' and '$1'; the program comes after --"
            bundle=$1
            ;;
        esac
        shift
    done
    [ -n "$bundle" ] || die "DIR is missing; see --help"
    [ ${#command[@]} -gt 0 ] || die "no program; give it after --"
    [[ $memory =~ ^[0-9]+$ ]] || die "--memory '$memory' is not a number of bytes"
    [[ $tty =~ ^(yes|no)$ ]] || die "--tty '$tty' is neither yes nor no"
    [ -d "$bundle/rootfs" ] || die "$bundle/rootfs is missing; make it with make-rootfs.sh"
}

main() {
    parse_arguments "$@"
    command -v runc >/dev/null || die "runc is missing; run tools/setup/install-packages.sh --group run"
    bundle=$(readlink -f "$bundle")
    rm -f "$bundle/config.json"
    runc spec --bundle "$bundle"
    python3 - "$bundle" "$memory" "$tty" "${command[@]}" <<'EOF'
import json, os, sys

bundle, memory, tty, command = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "yes", sys.argv[4:]

# Docker's default list.
CAPABILITIES = ["CAP_" + name for name in """
    CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP
    NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE""".split()]

path = os.path.join(bundle, "config.json")
with open(path) as file:
    config = json.load(file)

process = config["process"]
process["terminal"] = tty
process["args"] = command
process["cwd"] = "/"
process["env"] = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
if tty:
    process["env"].append("TERM=xterm")
process.pop("rlimits", None)
process["capabilities"] = {kind: CAPABILITIES for kind in ("bounding", "effective", "permitted")}

config["ociVersion"] = "1.0.2"
config["root"] = {"path": "rootfs", "readonly": False}
config["hostname"] = os.path.basename(bundle)

linux = config["linux"]
linux["namespaces"] = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")]
if memory:
    linux.setdefault("resources", {})["memory"] = {"limit": memory}
# Devices, masked and read-only paths and the mounts are runc's own defaults,
# but for /sys/fs/cgroup: its contents differ from host to host, so a container
# that has it mounted moves less far.
config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "cgroup"]

with open(path, "w") as file:
    json.dump(config, file, indent=4)
    file.write("\n")
EOF
}

main "$@"
