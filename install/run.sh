#!/bin/sh
# Runs the daemon of this checkout in the foreground, and says how to reach it once it is ready.
#
#   run.sh [ARGUMENTS...]    the arguments go to `dockerd-rootless run`, and so on to dockerd
#
# Root cannot run it: then an unprivileged user does, the one who called sudo or else one that is made for this.
# What `dockerd-rootless check` knows to fix is fixed for that user. Others than root are told the commands.
# RUN_BINARY names another binary than the release build.
# Exit codes: 4 a prerequisite is missing, else the daemon's own.
set -eu

OWN_USER=dockerd-rootless
# The checks without which no daemon starts, and which can be fixed here. Root runs commands of these forms only:
# a process of the user prints them.
NEEDED=subuid,subgid,tun-device
KNOWN='#.*|usermod --add-sub[ug]ids [0-9]+-[0-9]+ [A-Za-z_][A-Za-z0-9_.-]*|chmod 0666 /dev/net/tun'

say() { echo "run.sh: $*" >&2; }
die() { say "$*"; exit 4; }
is_root() { [ "$(id -u)" -eq 0 ]; }

# The build names its target, so the directory has that in its name.
find_binary() {
    checkout=$(cd "$(dirname "$0")/.." && pwd)
    for binary in "${CARGO_TARGET_DIR:-$checkout/target}/$(uname -m)"-unknown-linux-*/release/dockerd-rootless; do
        binary=${RUN_BINARY:-$binary}
        [ -x "$binary" ] && return
    done
    die "there is no $binary; build it first: make build"
}

choose_user() {
    user=${SUDO_USER:-root}
    [ "$user" = root ] || return 0
    user=$OWN_USER
    say "root cannot run the daemon; the user $user does"
    id "$user" >/dev/null 2>&1 && return
    # Without these files useradd hands out no subordinate ids.
    touch /etc/subuid /etc/subgid
    useradd --create-home --shell /bin/bash "$user"
    say "made that user; to remove it with all it holds: userdel --remove $user"
}

# Becomes the command, as the user and with little more than the user's own environment. No way back: in a
# subshell, or last. The process stays the same, so signals go to the daemon itself and its exit code is ours.
as_user() {
    is_root || exec "$@"
    home=$(getent passwd "$user" | cut -d: -f6)
    cd "$home"
    set -- HOME="$home" USER="$user" LOGNAME="$user" \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
    # Zeros part the variables, for a value may hold newlines.
    for name in $(env -0 | tr '\n\0' ' \n' | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p'); do
        case $name in
            DOCKERD* | *_proxy | *_PROXY | RUST_LOG | NO_COLOR | CLICOLOR* | TERM | TZ | LANG | LC_*)
                eval "set -- $name=\"\$$name\" \"\$@\"" ;;
        esac
    done
    exec setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups -- env -i "$@"
}

# A checkout below /root is closed to the user. The user writes the copy: a root that writes into a user's
# directory follows that user's links.
make_reachable() {
    ! (as_user test -x "$binary") || return 0
    # shellcheck disable=SC2016 # expanded by the user's shell, here and below
    copy=$(as_user sh -c 'mkdir -p ~/.cache/dockerd-rootless.checkout && cd ~/.cache/dockerd-rootless.checkout &&
        cat >new && chmod 0755 new && mv -f new dockerd-rootless && pwd' <"$binary")/dockerd-rootless
    say "$user cannot reach $binary; runs a copy, $copy"
    binary=$copy
}

fix_host() {
    ! fix=$(as_user "$binary" check --only "$NEEDED" --print-fix=root) || return 0
    [ -n "$fix" ] || return 0
    if ! is_root || echo "$fix" | grep -Evqx "$KNOWN"; then
        say "as root, run these commands; then again: make run"
        echo "$fix"
        exit 4
    fi
    say "fixes this host for $user:"
    echo "$fix" | sh -eux
}

main() {
    # A user's PATH lacks the directories for administrators, where dockerd may lie.
    export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
    find_binary
    if is_root; then
        choose_user
        make_reachable
        # As a login makes it.
        [ -d "/run/user/$(id -u "$user")" ] || install -d -m 0700 -o "$user" -g "$(id -g "$user")" "/run/user/$(id -u "$user")"
    fi
    fix_host
    # What the user lacks is a runtime directory; the commands make one and name it in XDG_RUNTIME_DIR.
    fix=$(as_user "$binary" check --only runtime-dir --print-fix=user) || true
    # In a terminal the program itself says how to reach it.
    # shellcheck disable=SC2016
    as_user sh -c "$fix"'
        [ -t 2 ] || {
            until "$1" status; do kill -0 $$ || exit; sleep 0.2; done >/dev/null 2>&1
            echo "The daemon is ready. In another terminal, paste this line; then try: docker run --rm hello-world"
            echo "export DOCKER_HOST=unix://${XDG_RUNTIME_DIR:-/run/user/$(id -u)}/docker.sock"
        } &
        exec "$@" </dev/null' sh "$binary" run "$@"
}

main "$@"
