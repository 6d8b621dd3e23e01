#!/bin/sh
# Runs the daemon of this checkout in the foreground and says how to reach it once it answers.
#
#   run.sh [WORDS...]        the words go to `dockerd-rootless run`, and so on to dockerd
#
# As root it takes an unprivileged user: the one who called sudo, else a user of its own.
# Exit codes: 4 a prerequisite is missing, else the daemon's own.
set -eu

OWN_USER=dockerd-rootless
TUN=/dev/net/tun
PATIENCE=60 # seconds until it is said that there is no answer; the daemon may go on

say() { echo "run.sh: $*" >&2; }
die() { say "$*"; exit 4; }
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" -eq 0 ]; }

# The build names its target, so the directory has that in its name.
find_binary() {
    checkout=$(cd "$(dirname "$0")/.." && pwd)
    for binary in "${CARGO_TARGET_DIR:-$checkout/target}/$(uname -m)"-unknown-linux-*/release/dockerd-rootless; do
        [ -x "$binary" ] && return
    done
    die "there is no $binary; build it first: make build"
}

choose_user() {
    user=$(id -un)
    is_root || return 0
    user=${SUDO_USER:-root}
    [ "$user" = root ] || return 0
    user=$OWN_USER
    say "root cannot be the daemon's user; it runs as the user $user"
    id "$user" >/dev/null 2>&1 && return
    # Without these files useradd hands out no subordinate ids.
    touch /etc/subuid /etc/subgid
    useradd --create-home --shell /bin/bash "$user"
    say "made that user; to remove it with all it holds: userdel --remove $user"
}

check_subordinate_ids() {
    options=
    for kind in uid gid; do
        awk -F: -v name="$user" -v id="$uid" '$1 == name || $1 == id { found = 1 } END { exit !found }' \
            "/etc/sub$kind" 2>/dev/null || options="$options --add-sub${kind}s $(free_ids)"
    done
    [ -z "$options" ] || die "$user has no subordinate ids; give it some: sudo usermod$options $user"
}

# The first 65536 ids behind all that are handed out.
free_ids() {
    cat /etc/subuid /etc/subgid 2>/dev/null | awk -F: '
        BEGIN { first = 100000 }
        $2 + $3 > first { first = $2 + $3 }
        END { printf "%d-%d", first, first + 65535 }'
}

choose_runtime_dir() {
    if is_root; then
        XDG_RUNTIME_DIR=/run/user/$uid
        [ -d "$XDG_RUNTIME_DIR" ] && return
        # What logind does when the user logs in.
        mkdir -p /run/user
        install -d -m 0700 -o "$uid" -g "$gid" "$XDG_RUNTIME_DIR"
        say "made $XDG_RUNTIME_DIR, which lasts until the next boot"
    elif [ -z "${XDG_RUNTIME_DIR:-}" ]; then
        XDG_RUNTIME_DIR=/run/user/$uid
        [ ! -d "$XDG_RUNTIME_DIR" ] || return 0
        XDG_RUNTIME_DIR=$home/.docker/run
        mkdir -p "$XDG_RUNTIME_DIR"
        chmod 0700 "$XDG_RUNTIME_DIR"
        say "XDG_RUNTIME_DIR is not set; takes $XDG_RUNTIME_DIR"
    fi
}

# Becomes the command, as the user and with little more than the user's own environment. No
# way back: in a subshell, or last. The process stays the same, so signals go to the daemon
# itself and its exit code is ours.
as_user() {
    is_root || exec "$@"
    cd "$home" || exit
    # Zeros part the variables, for a value may hold newlines.
    for name in $(env -0 | tr '\n\0' ' \n' | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p'); do
        case $name in
            DOCKERD* | *_proxy | *_PROXY | XDG_RUNTIME_DIR) ;;
            RUST_LOG | NO_COLOR | CLICOLOR_FORCE | TERM | TZ | LANG | LC_*) ;;
            *) unset "$name" ;;
        esac
    done
    export HOME="$home" USER="$user" LOGNAME="$user"
    export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    exec setpriv --reuid "$uid" --regid "$gid" --init-groups -- "$@"
}

# shellcheck disable=SC2016 # expanded by the user's shell, here and below
tun_opens() { (as_user sh -c ': <>"$1"' sh "$TUN") 2>/dev/null; }

# Every network driver needs it. udev opens it to all; containers and bare hosts have no udev.
check_tun() {
    ! tun_opens || return 0
    [ -e "$TUN" ] || die "there is no $TUN; as root: modprobe tun"
    is_root || die "$user may not open $TUN; change that: sudo chmod 0666 $TUN"
    say "$user may not open $TUN; does what udev does elsewhere: chmod 0666 $TUN"
    chmod 0666 "$TUN"
    tun_opens || die "$user still cannot open $TUN"
}

# A checkout below /root is closed to the user. The copy goes where it is on nobody's PATH and
# programs may be run (/run is often mounted noexec); the user writes it, for a root that writes
# into a user's directory follows that user's links.
make_reachable() {
    ! (as_user test -x "$binary") || return 0
    copy=$home/.cache/dockerd-rootless.checkout/dockerd-rootless
    # shellcheck disable=SC2016
    (as_user sh -c 'mkdir -p "${1%/*}" && cat >"$1.new" && chmod 0755 "$1.new" && mv -f "$1.new" "$1"' \
        sh "$copy") <"$binary"
    say "$user cannot reach $binary; runs a copy, $copy"
    binary=$copy
}

answers() {
    [ -S "$socket" ] || return
    if have curl; then
        curl --silent --fail --noproxy '*' --max-time 2 --output /dev/null --unix-socket "$socket" http://docker/_ping
    elif have docker; then
        docker --host "unix://$socket" version >/dev/null 2>&1
    fi
}

# Polls beside the daemon, whose process id is $1.
announce() {
    end=$(($(date +%s) + PATIENCE))
    until answers; do
        kill -0 "$1" 2>/dev/null || return 0
        [ "$(date +%s)" -lt "$end" ] || { say "no answer on $socket after $PATIENCE s"; return; }
        sleep 0.1
    done
    echo "The daemon answers. In another terminal, paste the last line; then try: docker run --rm hello-world"
    echo "export DOCKER_HOST=unix://$socket"
}

main() {
    # Should the caller have exported these, they must not reach the daemon.
    unset user uid gid home binary socket
    # A user's PATH lacks the directories for administrators, where dockerd may lie.
    export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
    find_binary
    choose_user
    uid=$(id -u "$user") gid=$(id -g "$user")
    home=$(getent passwd "$user" | cut -d: -f6)
    check_subordinate_ids
    choose_runtime_dir
    export XDG_RUNTIME_DIR
    check_tun
    make_reachable

    # Is somebody there already, the binary says so and ends.
    socket=$XDG_RUNTIME_DIR/docker.sock
    answers || (announce $$ &)
    as_user "$binary" run "$@" </dev/null
}

main "$@"
