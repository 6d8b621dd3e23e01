#!/bin/sh
# Runs a command inside the root directory of another release, for suites and benchmarks that were built here:
#
#   mmdebstrap --variant=minbase trixie /var/tmp/trixie
#   in-root.sh /var/tmp/trixie COMMAND...
#
# A chroot would not do: nobody in one may make user namespaces. This is a mount namespace with the directory as its
# root, and ends with the command. What was built is static and found where it was built: this directory, and
# CARGO_TARGET_DIR. Users that are made in there share neither IDs nor ports with the host's, for a suite ends all
# processes of its users; two different roots at the same time do share them.
set -eu

[ "$(id -u)" -eq 0 ] || exec sudo -E -- "$0" "$@"
[ $# -ge 2 ] || { echo "usage: $0 DIR COMMAND..." >&2; exit 2; }
if [ "${IN_ROOT-}" != mounted ]; then
    IN_ROOT=mounted exec unshare --mount -- "$0" "$@"
fi
unset IN_ROOT
root=$(cd "$1" && pwd)
shift

mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=0755 tmpfs "$root/run"
mkdir -m 1777 "$root/run/lock"
mkdir "$root/run/user" "$root/run/systemd"
for directory in "$PWD" ${CARGO_TARGET_DIR:+"$CARGO_TARGET_DIR"}; do
    mkdir -p "$root$directory"
    mount --rbind "$directory" "$root$directory"
done

# Of two lines with one name the last one counts.
{
    cat "$root/etc/login.defs"
    echo UID_MIN 32000
    echo SUB_UID_MIN 700000000
    echo SUB_UID_MAX 1300000000
    echo GID_MIN 32000
    echo SUB_GID_MIN 700000000
    echo SUB_GID_MAX 1300000000
} >"$root/run/login.defs"
mount --bind "$root/run/login.defs" "$root/etc/login.defs"

directory=$PWD
cd "$root"
pivot_root . mnt
umount -l /mnt
cd "$directory"
exec "$@"
