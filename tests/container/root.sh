#!/bin/sh
# Prints an archive of a root directory like that of the image docker:dind-rootless: BusyBox, the programs of rootless
# Docker with their libraries, the user `rootless` with 65536 subordinate IDs, and the program BINARY. newuidmap and
# newgidmap have file capabilities.
#
#   root.sh DIRECTORY BINARY    DIRECTORY is made
set -eu

root=$1 binary=$2

# Puts a program of this host into the root, and the libraries that it is linked with.
put() {
    program=$(readlink -f "$(command -v "$1")")
    install -D -m 0755 "$program" "$root/usr/bin/${program##*/}"
    # A static program has none.
    { ldd "$program" 2>/dev/null || :; } | grep -o '/[^ ]*' | while read -r library; do
        [ -e "$root$library" ] || install -D "$(readlink -f "$library")" "$root$library"
    done
}

for directory in bin etc proc sys dev run/user tmp usr/local/bin usr/sbin www home/rootless/.local/share/docker; do
    mkdir -p "$root/$directory"
done
chmod 1777 "$root/tmp" "$root/run/user"
install -m 0755 /bin/busybox "$root/bin/busybox"
chroot "$root" /bin/busybox --install -s /bin
# Debian's BusyBox takes its own `ip` before that of PATH, and Alpine's does not.
rm "$root/bin/nsenter" "$root/bin/ip"

for program in containerd containerd-shim-runc-v2 docker docker-proxy dockerd ip newgidmap newuidmap nsenter \
    rootlesskit runc slirp4netns xtables-legacy-multi xtables-nft-multi; do
    put "$program"
done
# Docker 28 and later do without.
! command -v rootlesskit-docker-proxy >/dev/null || put rootlesskit-docker-proxy
setcap cap_setuid+ep "$root/usr/bin/newuidmap"
setcap cap_setgid+ep "$root/usr/bin/newgidmap"
for name in iptables ip6tables; do
    ln -s ../bin/xtables-nft-multi "$root/usr/sbin/$name"
    ln -s ../bin/xtables-legacy-multi "$root/usr/sbin/$name-legacy"
done
extensions=$(dirname "$(find /usr/lib /lib -name libxt_addrtype.so | head -n 1)")
mkdir -p "$root$extensions"
cp -a "$extensions/." "$root$extensions"
strip -o "$root/usr/local/bin/dockerd-rootless" "$binary"

echo rootless:x:1000:1000::/home/rootless:/bin/sh >"$root/etc/passwd"
echo rootless:x:1000: >"$root/etc/group"
echo rootless:100000:65536 | tee "$root/etc/subuid" >"$root/etc/subgid"
echo 'it answers' >"$root/www/index.html"
chown -R 1000:1000 "$root/home/rootless"

exec tar --create --xattrs --xattrs-include='*' --directory "$root" .
