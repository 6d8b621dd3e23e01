#!/bin/sh
# Runs a system-wide dockerd that knows nothing of the host's: in mount, network, PID and cgroup namespaces of its own,
# with all its files in DIRECTORY, `log` among them. It ends with this process.
#
#   outer.sh DIRECTORY CGROUP    CGROUP is made, a name below the root of cgroup v2
set -eu

if [ "${OUTER-}" != inside ]; then
    cgroups=/sys/fs/cgroup
    [ ! -d "$cgroups/unified" ] || cgroups=$cgroups/unified
    mkdir "$cgroups/$2"
    echo $$ >"$cgroups/$2/cgroup.procs"
    OUTER=inside exec unshare --mount --net --pid --cgroup --fork --kill-child -- "$0" "$@"
fi
unset OUTER
mount -t proc proc /proc
mount -t tmpfs -o mode=0755 tmpfs /run
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# A cgroup with processes has no controllers to give to others.
mkdir /sys/fs/cgroup/init
echo 1 >/sys/fs/cgroup/init/cgroup.procs
ip link set lo up
echo '{}' >/run/daemon.json
exec dockerd --config-file /run/daemon.json --data-root "$1/data" --exec-root /run/docker --pidfile /run/docker.pid \
    --host "unix://$1/docker.sock" >"$1/log" 2>&1
