# Plays one scene, as root in a mount namespace of its own: a fault is made, the user's check sees it, the fixes that it
# prints are run as they are printed, each twice, and the user checks again. See scene.rs.
#
# HOME, USER and XDG_RUNTIME_DIR are the user's, PATH is root's, and besides:
#   FAULT       what root does to the host, in shell
#   PROFILE     what the user's shells do first
#   PRIVILEGES  options of setpriv(1) for them
#   WORDS       options of the checks that print fixes
#   MEND        `apart` for root's script and the user's, `together` for the one that holds both
set -eu

dir=$HOME/scene
exec </dev/null >"$dir/log" 2>&1
set -x

# A shell of the user's, as after a login.
as_user() {
    # shellcheck disable=SC2086
    setpriv --reuid "$USER" --regid "$USER" --init-groups $PRIVILEGES -- env -i \
        HOME="$HOME" USER="$USER" LOGNAME="$USER" XDG_RUNTIME_DIR="$XDG_RUNTIME_DIR" \
        PATH=/usr/local/bin:/usr/bin:/bin dir="$dir" sh -euc ". '$dir/user.sh'
$PROFILE
$1"
}

# Changes in this directory stay in this namespace.
overlay() {
    own=/mnt/$(echo "$1" | tr / _)
    mkdir -p "$own/upper" "$own/work"
    mount -t overlay -o "lowerdir=$1,upperdir=$own/upper,workdir=$own/work" overlay "$1"
}

# What the user's shells know.
cat >"$dir/user.sh" <<'END'
# The report of a check and its exit code.
report() {
    code=0
    "$HOME/bin/dockerd-rootless" check --format json >"$dir/$1.json" || code=$?
    echo "$code" >"$dir/$1.code"
}

# The script that a check prints; it may end with 4.
fix() {
    "$HOME/bin/dockerd-rootless" check "$@" || [ $? = 4 ]
}

# Whatever a fix may change: names, kinds, modes, owners, links, contents, quotas, variables.
state() {
    {
        find /etc /dev/net /run/docker.sock /usr/bin/newuidmap /usr/sbin /var/lib/dpkg/status /var/lib/dockerd-rootless \
            "$HOME" "$XDG_RUNTIME_DIR" -path "$dir" -prune -o -printf '%p %y %m %U:%G %l\n'
        find /etc /var/lib/dpkg/status "$HOME" \( -path "$dir" -o -path "$HOME/bin" -o -name systemd.log \) -prune -o \
            -type f -exec cksum {} +
        grep . /proc/sys/user/* /proc/sys/net/ipv4/ping_group_range
        export -p
    } 2>/dev/null | sort >"$dir/state.$1"
}
END
. "$dir/user.sh"

# Users come and go on the host meanwhile.
mount -t tmpfs -o mode=0755 tmpfs /mnt
flock --timeout 60 "$LOCK" cp -a /etc/. /mnt
mount --move /mnt /etc
mount -t tmpfs -o mode=0755 tmpfs /mnt

eval "$FAULT"
as_user "report before"

case $MEND in
apart)
    as_user "fix --print-fix=root $WORDS >'$dir/fix.root'; fix --print-fix=user $WORDS >'$dir/fix.user'"
    for run in 1 2; do
        env -i HOME=/root PATH="$PATH" sh -eux "$dir/fix.root" >"$dir/root.$run" 2>&1
        state "root.$run"
    done
    as_user "exec 2>'$dir/user.1'
        set -x; . '$dir/fix.user' >'$dir/user.1'; set +x; state user.1
        exec 2>'$dir/user.2'
        set -x; . '$dir/fix.user' >'$dir/user.2'; set +x; state user.2
        report after"
    ;;
together)
    as_user "fix --print-fix $WORDS >'$dir/fix.both'"
    sh -n "$dir/fix.both"
    # Root pastes it, for whom both sudo and su ask nothing, into a shell that knows where the user's sudo is.
    PATH=$HOME/stub:$PATH sh -eux "$dir/fix.both" >"$dir/both.1" 2>&1
    as_user "report after"
    ;;
esac
