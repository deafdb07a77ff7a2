#!/bin/bash
# Make a small root filesystem for a container from programs of this machine.
#
# No registry and no package download is needed, and what runs in the container
# is the very version that is installed here. Each program comes with the shared
# libraries it links to, at the paths it has here. All are copies: a container
# may write to its root, and must not reach the machine's files that way.
set -euo pipefail
umask 022

usage() {
    cat <<'EOF'
usage: make-rootfs.sh DIR [--with PROGRAM]… [--package PACKAGE]… [--python]

Makes a root filesystem in DIR, which must be empty or absent.
  --with PROGRAM  a program, by name or path; without any: redis-server,
                  redis-cli, cat, sleep. A shell is always there.
  --package NAME  all files of an installed Debian package but its texts, and the
                  libraries that its programs link to
  --python        python3 with its standard library (about 40 MB)
EOF
}

die() {
    printf 'make-rootfs: %s\n' "$*" >&2
    exit 1
}

root=
programs=()
packages=()
python=no

parse_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
        --with)
            [ $# -ge 2 ] || die "--with needs a program; see --help"
            programs+=("$2")
            shift
            ;;
        --with=*) programs+=("${1#*=}") ;;
        --package)
            [ $# -ge 2 ] || die "--package needs a name; see --help"
            packages+=("$2")
            shift
            ;;
        --package=*) packages+=("${1#*=}") ;;
        --python) python=yes ;;
        -h | --help)
            usage
            exit 0
            ;;
        -*) die "unknown option '$1'; see --help" ;;
        *)
            [ -z "$root" ] || die "one DIR only, not '$root' and '$1'"
            root=$1
            ;;
        esac
        shift
    done
    [ -n "$root" ] || die "DIR is missing; see --help"
    [ ${#programs[@]} -gt 0 ] || programs=(redis-server redis-cli cat sleep)
}

make_folders() {
    mkdir -p "$root"
    [ -z "$(ls -A "$root")" ] || die "$root is not empty; give another folder or remove it"
    # Merged /usr, as on the machine: library paths then fit both spellings.
    mkdir -p "$root"/usr/{bin,sbin,lib,lib64} "$root"/{etc,proc,sys,dev,run,data,root,tmp} "$root"/var/tmp
    local name
    for name in bin sbin lib lib64; do ln -s "usr/$name" "$root/$name"; done
    ln -s ../run "$root/var/run"
    chmod 1777 "$root/tmp" "$root/var/tmp"
    chmod 700 "$root/root"
}

make_accounts() {
    printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' \
        'nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin' >"$root/etc/passwd"
    printf '%s\n' 'root:x:0:' 'nogroup:x:65534:' >"$root/etc/group"
    printf '%s\n' '127.0.0.1 localhost' '::1 localhost' >"$root/etc/hosts"
}

copy_file() { # FILE: to its own path in the root, whatever it links to
    [ ! -e "$root$1" ] || return 0
    mkdir -p "$root$(dirname "$1")"
    cp --dereference --preserve=mode,timestamps "$1" "$root$1"
}

copy_libraries() { # FILE [lenient]: what it links to, and the loader; lenient: some may be found only by who loads it
    local library output
    # A static program or a script has none: ldd says so and fails.
    output=$(ldd "$1" 2>/dev/null) || return 0
    case $output in
    *'not found'*) [ "${2-}" = lenient ] || die "$1: $(grep -m 1 'not found' <<<"$output" | tr -s '[:space:]' ' ')" ;;
    esac
    # "name => /path (address)" for libraries, "/path (address)" for the loader
    while read -r library; do
        copy_file "$library"
    done < <(awk '$2 == "=>" && $3 ~ "^/" { print $3 } $1 ~ "^/" && $2 != "=>" { print $1 }' <<<"$output")
}

find_program() { # NAME or path
    local path
    # The system's own folders first: a version manager's shims are scripts that
    # would not work in the container.
    path=$(PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH command -v "$1") || path=
    [ -x "$path" ] || die "there is no program '$1' here; install it, or name another with --with"
    [ "$(head -c 4 "$path" | tail -c 3)" = ELF ] ||
        die "$path is a script, which cannot run without its interpreter; name a compiled program"
    printf '%s/%s\n' "$(readlink -f "$(dirname "$path")")" "$(basename "$path")"
}

copy_program() { # NAME or path
    local path
    path=$(find_program "$1")
    copy_file "$path"
    copy_libraries "$path"
    # Reachable by name wherever it came from.
    case $path in
    /usr/bin/* | /usr/sbin/*) ;;
    *) ln -sf "$path" "$root/usr/bin/$(basename "$path")" ;;
    esac
}

copy_package() { # NAME
    local file files
    files=$(dpkg-query -L "$1" 2>/dev/null) || die "the package $1 is not installed here; run tools/setup/install-packages.sh --group test"
    while read -r file; do
        case $file in
        /. | /usr/share/doc* | /usr/share/man* | /usr/share/locale* | /usr/share/lintian* | /usr/share/bug* | /etc/init.d* | /lib/systemd*) ;;
        *)
            if [ -L "$file" ] && [ -d "$file" ]; then
                cp -d "$file" "$root$file"
            elif [ -d "$file" ]; then
                mkdir -p "$root$file"
            elif [ -f "$file" ]; then # what a link leads to may be in no package
                copy_file "$file"
                [ "$(head -c 4 "$file" | tr -d '\0')" != $'\177ELF' ] || copy_libraries "$file" lenient
            fi
            ;;
        esac
    done <<<"$files"
}

make_shell() {
    # A static busybox is a shell and the usual commands in one file; other
    # builds of it, or none: dash.
    if command -v busybox >/dev/null; then
        copy_program busybox
        local applet
        for applet in sh ls ps kill mkdir rm echo true false date hostname ip nc wget; do
            [ -e "$root/usr/bin/$applet" ] || ln -s busybox "$root/usr/bin/$applet"
        done
    else
        copy_program dash
        ln -sf dash "$root/usr/bin/sh"
    fi
}

copy_python() {
    local program library extension version
    program=$(readlink -f "$(find_program python3)")
    version=$("$program" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    library=$("$program" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
    copy_file "$program"
    copy_libraries "$program"
    local name
    for name in python3 "$version"; do
        [ -e "$root/usr/bin/$name" ] || ln -s "$program" "$root/usr/bin/$name"
    done
    mkdir -p "$root$library"
    # Without what a service never imports: tests, user interfaces, the packager,
    # the build's leftovers, compiled copies.
    tar -C "$library" --exclude=__pycache__ --exclude=./test --exclude='*/tests' --exclude='./config-*' \
        --exclude=./dist-packages --exclude=./site-packages --exclude=./ensurepip --exclude=./idlelib \
        --exclude=./tkinter --exclude=./turtledemo --exclude=./lib2to3 -c . | tar -C "$root$library" -x
    # The distribution links some files into /etc: take the contents instead.
    while read -r name; do
        rm "$root$library/$name"
        [ ! -f "$library/$name" ] || cp --dereference "$library/$name" "$root$library/$name"
    done < <(cd "$root$library" && find . -xtype l)
    for extension in "$root$library"/lib-dynload/*.so; do copy_libraries "${extension#"$root"}"; done
}

main() {
    parse_arguments "$@"
    make_folders
    make_accounts
    local program
    for program in "${programs[@]}"; do copy_program "$program"; done
    for program in ${packages[@]+"${packages[@]}"}; do copy_package "$program"; done
    make_shell
    if [ "$python" = yes ]; then copy_python; fi
    printf 'make-rootfs: %s, %s\n' "$root" "$(du -sh "$root" | cut -f 1)"
}

main "$@"
