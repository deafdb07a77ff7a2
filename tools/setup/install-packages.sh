#!/bin/bash
# Install the Debian packages of packages.txt that are missing, and only those.
#
# Installing a package must not start a service: the tests start their own Redis
# and name servers, and a machine that is being set up should not get listening
# ones as a side effect. Debian's hook for that is policy-rc.d; ours is there only
# meanwhile. Servers that we brought for the tests are not started by the next boot either.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
readonly list=$here/packages.txt
readonly policy=/usr/sbin/policy-rc.d
readonly known_groups="build run test bench vm develop"

usage() {
    cat <<EOF
usage: install-packages.sh [--group build|run|test|bench|vm|develop]…

Installs what is missing of $list, all groups without --group.
EOF
}

say() { printf 'install-packages: %s\n' "$*"; }

die() {
    printf 'install-packages: %s\n' "$*" >&2
    exit 1
}

policy_is_ours=
log=
groups=()

parse_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
        --group)
            [ $# -ge 2 ] || die "--group needs one of: $known_groups"
            groups+=("$2")
            shift
            ;;
        --group=*) groups+=("${1#*=}") ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) die "unknown argument '$1'; see --help" ;;
        esac
        shift
    done
    local group
    for group in ${groups[@]+"${groups[@]}"}; do
        case " $known_groups " in
        *" $group "*) ;;
        *) die "unknown group '$group'; there are: $known_groups" ;;
        esac
    done
    [ ${#groups[@]} -gt 0 ] || read -ra groups <<<"$known_groups"
}

wanted() { # the packages of the groups, one a line, each once
    awk -v groups=" ${groups[*]} " '
        { sub(/[ \t]*#.*/, "") }
        /^\[.*\]$/ { inside = index(groups, " " substr($0, 2, length($0) - 2) " "); next }
        inside && NF { print $1 }' "$list" | sort -u
}

installed() { # of the packages given, one a line
    # dpkg-query fails for packages it has never heard of: they are missing, too.
    { dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null || true; } |
        awk '$2 == "installed" { print $1 }' | sort -u
}

cleanup() {
    [ -z "$policy_is_ours" ] || rm -f "$policy"
    rm -f "$log"
}

forbid_services() {
    # An existing policy is the administrator's: it stays, and decides.
    [ ! -e "$policy" ] || return 0
    policy_is_ours=yes
    printf '#!/bin/sh\n# Temporary, by FlexiMigrate install-packages.sh: start no service.\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}

apt() { # ADVICE ARGUMENTS…: apt-get, whose output matters only if it fails
    local advice=$1
    shift
    apt-get -q -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1 </dev/null && return
    tail -n 30 "$log" >&2
    die "apt-get $1 failed, see above; $advice, then run this again"
}

keep_from_booting() { # PACKAGE…: just installed, for the tests only
    command -v systemctl >/dev/null || return 0
    local package
    for package in "$@"; do
        case $package in
        knot) systemctl --quiet disable knot.service || say "could not disable knot.service" ;;
        bind9) systemctl --quiet disable named.service || say "could not disable named.service" ;;
        prometheus) systemctl --quiet disable prometheus.service || say "could not disable prometheus.service" ;;
        haproxy) systemctl --quiet disable haproxy.service || say "could not disable haproxy.service" ;;
        containerd) systemctl --quiet disable containerd.service || say "could not disable containerd.service" ;;
        memcached) systemctl --quiet disable memcached.service || say "could not disable memcached.service" ;;
        nginx-light) systemctl --quiet disable nginx.service || say "could not disable nginx.service" ;;
        postgresql) systemctl --quiet disable postgresql.service || say "could not disable postgresql.service" ;;
        mariadb-server) systemctl --quiet disable mariadb.service || say "could not disable mariadb.service" ;;
        etcd-server) systemctl --quiet disable etcd.service || say "could not disable etcd.service" ;;
        docker.io) systemctl --quiet disable docker.service docker.socket || say "could not disable docker.service" ;;
        esac
    done
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    apt "check apt's sources and the network" update
    apt "repair that" install --yes --no-install-recommends "$@"
}

main() {
    parse_arguments "$@"
    command -v dpkg-query >/dev/null || die "this needs a Debian system; dpkg-query is not here"
    local want missing
    mapfile -t want < <(wanted)
    mapfile -t missing < <(comm -23 <(printf '%s\n' "${want[@]}") <(installed "${want[@]}"))
    if [ ${#missing[@]} -eq 0 ]; then
        say "nothing missing (${groups[*]}: ${#want[@]} packages)"
        return
    fi
    [ "$(id -u)" = 0 ] || die "missing: ${missing[*]}; installing them needs root: run this as root"
    say "installing: ${missing[*]}"
    trap cleanup EXIT
    trap 'exit 130' INT TERM HUP
    log=$(mktemp)
    forbid_services
    install_packages "${missing[@]}"
    keep_from_booting "${missing[@]}"
    say "installed ${#missing[@]} packages"
}

main "$@"
