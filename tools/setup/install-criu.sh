#!/bin/bash
# Provide a CRIU that works on the running kernel, as a self-contained folder.
#
# CRIU follows kernel internals closely: the version a distribution ships may
# not work on the kernel that runs. So no version is trusted: each candidate is
# tried by doing (dump and restore a process with an open TCP connection) and
# the first that passes is installed. Candidates, in order: the one already in
# the prefix, the one in PATH, the distribution's package, Debian testing's.
#
# Layout of the prefix. Nothing in it depends on where it is, so it can be bind
# mounted elsewhere and run as  lib/ld.so --library-path lib bin/criu :
#   bin/criu   the program as it was built    lib/     every library, and the loader
#   criu       wrapper to run it by hand      VERSION  for example 4.2.1
#   TESTED     the kernel release it was tried on
set -euo pipefail
umask 022
PATH=$PATH:/usr/sbin:/sbin # where criu and ip are; a plain user's PATH lacks them

readonly default_prefix=/opt/fleximigrate/criu
readonly keyring=/usr/share/keyrings/debian-archive-keyring.gpg
readonly self=${BASH_SOURCE[0]}
# What lazy migration is built on, by CRIU's name. (Not mem_dirty_track: kernels
# without it exist, and migration without pre-copy rounds works on them.)
readonly features=(uffd-noncoop)

prefix=$default_prefix
retest=no
work=

usage() {
    cat <<EOF
usage: install-criu.sh [--prefix DIR] [--retest]

Installs a CRIU that works on the running kernel into DIR ($default_prefix).
  --retest   try the installed one again, even if it passed on this kernel
EOF
}

say() { printf 'install-criu: %s\n' "$*"; }

die() {
    printf 'install-criu: %s\n' "$*" >&2
    exit 1
}

parse_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
        --prefix)
            [ $# -ge 2 ] || die "--prefix needs a folder; see --help"
            prefix=$2
            shift
            ;;
        --prefix=*) prefix=${1#*=} ;;
        --retest) retest=yes ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) die "unknown argument '$1'; see --help" ;;
        esac
        shift
    done
    case $prefix in
    / | '') die "--prefix '$prefix': give a folder of its own, it is replaced as a whole" ;;
    /*) ;;
    *) prefix=$PWD/$prefix ;;
    esac
    prefix=${prefix%/}
    # Whatever is there is replaced: take only what an earlier run made.
    if [ -e "$prefix" ] && [ ! -e "$prefix/VERSION" ] && ! rmdir "$prefix" 2>/dev/null; then
        die "$prefix exists and is not a CRIU of ours; give another --prefix or remove it"
    fi
}

loader_name() {
    case $(uname -m) in
    x86_64) echo ld-linux-x86-64.so.2 ;;
    aarch64) echo ld-linux-aarch64.so.1 ;;
    *) die "machine type $(uname -m): only x86_64 and aarch64 are known here" ;;
    esac
}

system_loader() {
    local dir
    for dir in /lib64 /lib; do
        if [ -e "$dir/$loader" ]; then
            echo "$dir/$loader"
            return
        fi
    done
}

python() {
    # The distribution's own first: a version manager's shim may start elsewhere.
    if [ -x /usr/bin/python3 ]; then echo /usr/bin/python3; else command -v python3; fi
}

cleanup() {
    [ -n "$work" ] || return 0
    # A failed restore may leave CRIU's cgroup yard mounted below.
    awk -v top="$work/" 'index($5, top) == 1 { print $5 }' /proc/self/mountinfo |
        sort -r | while read -r mount; do umount -l "$mount" || true; done
    rm -rf --one-file-system "$work"
}

# --- the trial -----------------------------------------------------------------
# Runs as process 1 of new pid, network and mount namespaces: whatever a broken
# CRIU leaves behind (processes, mounts, firewall rules) ends with them.

victim_program='
import os, socket, sys, time
os.closerange(3, 1024)  # the caller may have left files open that CRIU cannot dump
progress = open(sys.argv[1], "ab", buffering=0)
listener = socket.create_server(("127.0.0.1", 0))
near = socket.create_connection(listener.getsockname())
far, _ = listener.accept()
while True:
    near.sendall(b".")
    progress.write(far.recv(1))
    time.sleep(0.01)
'

size_of() { stat -c %s "$1" 2>/dev/null || echo 0; }

wait_until_grown() { # FILE: at most 10 s
    local before tries
    before=$(size_of "$1")
    for ((tries = 0; tries < 500; tries++)); do
        [ "$(size_of "$1")" -le "$before" ] || return 0
        sleep 0.02
    done
    return 1
}

give_up() { # STEP LOG: the step and CRIU's own complaint, one line
    local why
    # The first error is the cause, later ones are its consequences; but without
    # CAP_SYS_RESOURCE every run starts with a harmless one about a limit.
    why=$(grep -h 'Error' "$2" 2>/dev/null | grep -m 1 -v "rlimit: Can't setup RLIMIT") || true
    [ -n "$why" ] || why=$(grep -hv '^[[:space:]]*$' "$2" 2>/dev/null | tail -n 1) || true
    printf '%s: %s\n' "$1" "${why:-no message}" >reason
    exit 1
}

trial_criu() { # STEP LOG ARGUMENTS…
    local step=$1 log=$2
    shift 2
    timeout -k 1 60 "$criu" "$@" >"$log.out" 2>&1 </dev/null && return
    cat "$log" >>"$log.out" 2>/dev/null || true
    give_up "$step" "$log.out"
}

trial_round() { # NAME RESTORE-OPTIONS…: dump the victim, restore it, see it go on
    local name=$1
    shift
    local common=(--images-dir "$name" --tcp-established --network-lock skip -v2)
    mkdir "$name"
    trial_criu "$name dump" "$name/dump.log" dump "${common[@]}" --tree "$victim" --log-file dump.log
    # CRIU has killed it; its pid is free again once its parent collected it.
    wait "$victim" 2>/dev/null || true
    if [ "$name" = lazy ]; then
        "$criu" lazy-pages --images-dir "$name" -v2 --log-file pages.log >/dev/null 2>&1 </dev/null &
        local tries
        for ((tries = 0; tries < 250; tries++)); do
            [ ! -S "$name/lazy-pages.socket" ] || break
            sleep 0.02
        done
    fi
    trial_criu "$name restore" "$name/restore.log" \
        restore "${common[@]}" --restore-detached --log-file restore.log "$@"
    wait_until_grown progress || give_up "$name restore: the process does not go on" "$name/restore.log"
}

trial_inside() { # CRIU WORK
    criu=$1
    cd "$2"
    ip link set lo up
    # Its stdio must not be files outside: /dev/null only. Errors are lost with it.
    setsid "$(python)" -c "$victim_program" "$PWD/progress" </dev/null >/dev/null 2>&1 &
    victim=$!
    wait_until_grown progress || give_up "the process to dump does not start" output
    local feature
    for feature in "${features[@]}"; do
        trial_criu "feature $feature" "check.$feature" check --feature "$feature"
    done
    trial_round plain
    trial_round lazy --lazy-pages
}

in_namespaces() { # COMMAND…
    timeout -k 5 300 unshare --pid --net --ipc --mount --fork --kill-child --mount-proc "$@"
}

passes() { # FOLDER: is the CRIU in this prefix layout good? Says why not.
    local room
    room=$(mktemp -d "$work/trial.XXXXXX")
    if in_namespaces bash "$self" --trial-inside "$1/criu" "$room" >"$room/output" 2>&1; then
        return 0
    fi
    reason=$(cat "$room/reason" 2>/dev/null || tail -n 1 "$room/output")
    return 1
}

# --- the candidates --------------------------------------------------------------
# Each candidate_… function fills the folder $1 with the prefix layout, or sets
# "reason" and fails.

# All libraries "$2" needs as loader "$1" finds them in library path "$3".
list_libraries() {
    "$1" ${3:+--library-path "$3"} --list "$2" 2>/dev/null | awk '
        $2 == "=>" { print $1, $3 }
        # Not linked to: the C library opens it by name, for the backtrace of a bug.
        $1 == "libc.so.6" { sub("libc.so.6$", "libgcc_s.so.1", $3); print "libgcc_s.so.1", $3 }'
}

write_wrapper() { # FILE
    cat >"$1" <<EOF
#!/bin/sh
# Runs this folder's CRIU with this folder's loader and libraries only.
dir=\$(dirname "\$(readlink -f "\$0")")
exec "\$dir/lib/$loader" --library-path "\$dir/lib" "\$dir/bin/criu" "\$@"
EOF
    chmod 755 "$1"
}

# Copies a program, its loader and libraries into the layout. With TOP, a library
# found outside TOP is an error: it would mix two systems' C libraries.
materialise() { # FOLDER PROGRAM LOADER LIBRARY-PATH TOP
    local folder=$1 program=$2 ld=$3 path=$4 top=$5 name file version
    mkdir -p "$folder/bin" "$folder/lib"
    install -m 755 "$program" "$folder/bin/criu"
    install -m 755 "$(readlink -f "$ld")" "$folder/lib/$loader"
    ln -s "$loader" "$folder/lib/ld.so"
    while read -r name file; do
        case $name in */"$loader" | "$loader") continue ;; esac
        case $file in
        "$top"/*) install -m 644 "$file" "$folder/lib/$name" ;;
        /*)
            reason="needs $name, which its packages lack ($file is the system's)"
            return 1
            ;;
        *)
            reason="needs $name, which is missing"
            return 1
            ;;
        esac
    done < <(list_libraries "$ld" "$program" "$path")
    write_wrapper "$folder/criu"
    version=$("$folder/criu" --version 2>&1 | awk '$1 == "Version:" { print $2; exit }') || true
    if [ -z "$version" ]; then
        reason="does not start: $("$folder/criu" --version 2>&1 | tail -n 1)"
        return 1
    fi
    echo "$version" >"$folder/VERSION"
}

candidate_path() {
    local program
    if ! program=$(command -v criu); then
        reason="there is none"
        return 1
    fi
    program=$(readlink -f "$program")
    if [ "$(head -c 4 "$program" | tail -c 3)" != ELF ]; then
        reason="$program is a script, not the program itself"
        return 1
    fi
    materialise "$1" "$program" "$(system_loader)" "" ""
}

# Downloads criu and its libraries with private apt state into "$1/root": the
# system's own package lists and packages are neither used nor changed. Further
# arguments go to apt. Packages that cannot be verified are never used.
download_packages() { # FOLDER APT-OPTIONS…
    local folder=$1
    shift
    local apt=(-qq
        -o "Dir::State::Lists=$folder/lists" -o "Dir::State::status=$folder/status"
        -o "Dir::Cache=$folder/cache" -o APT::Sandbox::User=root
        -o APT::Update::Error-Mode=any -o Acquire::Languages=none
        -o Acquire::AllowInsecureRepositories=false -o Acquire::AllowWeakRepositories=false
        -o Acquire::AllowDowngradeToInsecureRepositories=false
        -o APT::Get::AllowUnauthenticated=false "$@")
    mkdir -p "$folder"/{lists/partial,cache/archives/partial,debs,root}
    : >"$folder/status"
    if ! apt-get "${apt[@]}" update >"$folder/log" 2>&1; then
        reason="package lists: $(grep -E '^(E|W):' "$folder/log" | head -n 1)"
        return 1
    fi
    # CRIU's own Python tools (crit) are not needed, so only library packages are.
    local packages
    mapfile -t packages < <(apt-cache "${apt[@]}" depends --recurse --no-recommends --no-suggests \
        --no-conflicts --no-breaks --no-replaces --no-enhances criu 2>"$folder/log" |
        grep -E '^(criu|lib[a-z0-9.+-]+)$' | grep -Ev '^libpython')
    if [ ${#packages[@]} -eq 0 ]; then
        reason="it has no package criu"
        return 1
    fi
    if ! (cd "$folder/debs" && apt-get "${apt[@]}" download "${packages[@]}") >"$folder/log" 2>&1; then
        reason="download: $(grep -E '^(E|W):' "$folder/log" | head -n 1)"
        return 1
    fi
    local deb
    for deb in "$folder"/debs/*.deb; do dpkg -x "$deb" "$folder/root"; done
}

materialise_packages() { # FOLDER DOWNLOADED
    local root=$2/root ld path
    ld=$(find "$root" -name "$loader" -type f | head -n 1)
    path=$(find "$root" -name 'lib*.so*' -printf '%h\n' | sort -u | paste -sd :)
    if [ -z "$ld" ] || [ ! -e "$root/usr/sbin/criu" ]; then
        reason="its packages lack the loader or the program"
        return 1
    fi
    materialise "$1" "$root/usr/sbin/criu" "$ld" "$path" "$root"
}

candidate_distribution() {
    download_packages "$work/distribution" || return
    materialise_packages "$1" "$work/distribution"
}

# The machine's own mirror: it knows best what it can reach.
debian_mirror() {
    # shellcheck disable=SC2016  # $(REPO_URI) is apt's, not the shell's
    local list=(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages') uris
    uris=$("${list[@]}" 'Origin: Debian' 'Label: Debian' 2>/dev/null) || true
    # Without package lists apt knows no origin yet: take the first source.
    [ -n "$uris" ] || uris=$("${list[@]}" 2>/dev/null) || true
    printf '%s\n' "${uris%%$'\n'*}"
}

candidate_testing() {
    local mirror folder=$work/testing
    mirror=$(debian_mirror)
    if [ -z "$mirror" ]; then
        reason="apt has no Debian source to derive testing's from; add one to /etc/apt"
        return 1
    fi
    if [ ! -e "$keyring" ]; then
        reason="cannot be verified: $keyring is missing; install debian-archive-keyring"
        return 1
    fi
    mkdir -p "$folder/nothing"
    echo "deb [signed-by=$keyring] $mirror testing main" >"$folder/sources.list"
    if ! download_packages "$folder" \
        -o "Dir::Etc::SourceList=$folder/sources.list" -o "Dir::Etc::SourceParts=$folder/nothing" \
        -o "Dir::Etc::Preferences=$folder/none" -o "Dir::Etc::PreferencesParts=$folder/nothing"; then
        grep -Eq 'NO_PUBKEY|not signed|EXPKEYSIG' "$folder/log" &&
            reason="cannot be verified with $keyring (update debian-archive-keyring): $reason"
        return 1
    fi
    materialise_packages "$1" "$folder"
}

# --- the choice ----------------------------------------------------------------

put_in_place() { # FOLDER
    uname -r >"$1/TESTED"
    chmod 755 "$1"
    if [ -e "$prefix" ]; then mv -T "$prefix" "$work/old"; fi
    if ! mv -T "$1" "$prefix"; then
        if [ -e "$work/old" ]; then mv -T "$work/old" "$prefix"; fi
        die "cannot move the new CRIU to $prefix; what was there is kept"
    fi
}

installed_is_known_good() {
    [ "$retest" = no ] && [ "$(cat "$prefix/TESTED" 2>/dev/null)" = "$(uname -r)" ] &&
        "$prefix/criu" --version >/dev/null 2>&1
}

installed_passes() {
    # Until it has passed, it does not count as tried.
    rm -f "$prefix/TESTED"
    passes "$prefix" || return
    uname -r >"$prefix/TESTED"
}

check_surroundings() {
    [ "$(id -u)" = 0 ] || die "dumping a process needs root; run this as root"
    [ -n "$(python)" ] || die "the trial needs python3; run install-packages.sh --group run first"
    command -v ip >/dev/null || die "the trial needs ip (iproute2); run install-packages.sh --group run first"
    local why
    why=$(in_namespaces true 2>&1) ||
        die "the trial needs namespaces of its own, but: ${why:-no message}; run this on the host, not in a chroot or an unprivileged container"
}

main() {
    parse_arguments "$@"
    if installed_is_known_good; then
        say "CRIU $(cat "$prefix/VERSION") in $prefix works on $(uname -r) (tried before)"
        return
    fi
    check_surroundings
    loader=$(loader_name)
    mkdir -p "${prefix%/*}/"
    # One at a time: two would replace each other's result.
    exec 9<"${prefix%/*}/"
    flock 9
    trap cleanup EXIT
    trap 'exit 130' INT TERM HUP
    work=$(mktemp -d "${prefix%/*}/.install-criu.XXXXXX")

    if [ -e "$prefix/VERSION" ]; then
        if installed_passes; then
            say "CRIU $(cat "$prefix/VERSION") in $prefix works on $(uname -r)"
            return
        fi
        say "no: the one in $prefix ($(cat "$prefix/VERSION")): $reason"
    fi
    local candidate title folder version
    for candidate in path distribution testing; do
        case $candidate in
        path) title="the one in PATH" ;;
        distribution) title="the distribution's package" ;;
        testing) title="Debian testing's package" ;;
        esac
        folder=$work/new.$candidate
        reason=''
        version=''
        if "candidate_$candidate" "$folder"; then
            version=$(cat "$folder/VERSION")
            if passes "$folder"; then
                put_in_place "$folder"
                say "chosen: $title, CRIU $version, works on $(uname -r), now in $prefix"
                return
            fi
        fi
        say "no: $title${version:+ ($version)}: $reason"
    done
    die "no CRIU found that works on kernel $(uname -r); install a newer one so that it is in PATH, then run this again"
}

if [ "${1-}" = --trial-inside ]; then
    shift
    trial_inside "$@"
else
    main "$@"
fi
