#!/bin/sh
# Installs the Debian or Ubuntu packages that this project needs and that are missing.
#
#   packages.sh run      what the daemon needs, and the linker for building it
#   packages.sh test     and what the test suites need
#   packages.sh bench    and what the benchmarks need
#
# A rootful Docker daemon that was not there before is neither started nor left enabled.
# Exit codes: 0 nothing is missing (any more), 2 usage, 4 a prerequisite cannot be had,
# else apt-get's own.
set -eu

# rustc links statically and calls cc for it: gcc alone brings no C library.
RUN='docker.io docker-cli rootlesskit slirp4netns uidmap iptables iproute2 dbus-user-session
     ca-certificates gcc libc6-dev'
TEST='passt busybox-static libcap2-bin systemd util-linux procps curl wget openssl strace skopeo shellcheck'
BENCH='iperf3 valgrind'

# Some releases lack these, and nothing stops without them (where there is no docker-cli,
# docker.io holds the client itself).
OPTIONAL='docker-cli passt shellcheck'

# What docker.io and containerd bring along, enable and start.
UNITS='docker.socket docker.service containerd.service'
POLICY=/usr/sbin/policy-rc.d

say() { echo "packages: $*"; }
die() { echo "packages: $2" >&2; exit "$1"; }
have() { command -v "$1" >/dev/null 2>&1; }
among() { case " $2 " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

# Docker's own packages conflict with the distribution's, so for what comes from either the
# program counts and not the package's name.
satisfied() {
    case $1 in
        docker.io) have dockerd && return ;;
        docker-cli) have docker && return ;;
        rootlesskit) { have docker-rootlesskit || have rootlesskit; } && return ;;
        gcc) have cc && return ;;
    esac
    dpkg-query --show --showformat '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}

known_to_apt() {
    candidate=$(LC_ALL=C apt-cache policy "$1" | sed -n 's/^  Candidate: //p')
    [ "${candidate:-(none)}" != '(none)' ]
}

# An optional package is not missing if apt's lists, once there are any, do not have it: else
# every call would ask for root again, only to find that out.
missing_of() {
    lists=$(find /var/lib/apt/lists -name '*_Packages*' 2>/dev/null | head -n 1)
    for package; do
        satisfied "$package" && continue
        [ -n "$lists" ] && among "$package" "$OPTIONAL" && ! known_to_apt "$package" && continue
        printf '%s ' "$package"
    done
}

without_apt() {
    if have dockerd && { have docker-rootlesskit || have rootlesskit; } &&
        { have slirp4netns || have pasta; } && have newuidmap; then
        say 'no apt-get here, but the programs that are needed are'
        exit 0
    fi
    die 4 "only Debian and Ubuntu are known here (no apt-get): please install dockerd, rootlesskit, \
slirp4netns or pasta, and newuidmap with newgidmap (often: shadow-utils or uidmap) by your system's own means"
}

# The directory of links is read instead of asking systemctl: Debian's packages enable their
# units also where systemd is not installed.
enabled() {
    for link in /etc/systemd/system/*.wants/"$1"; do
        [ -L "$link" ] && return
    done
    return 1
}

active() { [ -d /run/systemd/system ] && systemctl --quiet is-active "$1"; }

installed_unit() {
    [ -f "/etc/systemd/system/$1" ] || [ -f "/lib/systemd/system/$1" ] || [ -f "/usr/lib/systemd/system/$1" ]
}

# The units that do nothing yet. Links that a removed package left behind do not count.
idle_units() {
    for unit in $UNITS; do
        installed_unit "$unit" && { enabled "$unit" || active "$unit"; } && continue
        printf '%s ' "$unit"
    done
}

# Maintainer scripts ask policy-rc.d before they start something. An administrator's own stays
# in force; ours goes on every way out, and says yes to everything should we be killed.
forbid_start() {
    [ ! -e "$POLICY" ] && [ ! -L "$POLICY" ] || return 0
    ours=$POLICY
    cat >"$POLICY" <<END
#!/bin/sh
# Temporary, by dockerd-rootless' packages.sh: what is installed right now starts no daemon.
kill -0 $$ 2>/dev/null || exit 0
for word; do
    case " $idle " in *" \$word "* | *" \$word.service "*) exit 101 ;; esac
done
END
    chmod 755 "$POLICY"
}

disable() {
    if have systemctl; then
        systemctl --quiet disable "$1"
        return
    fi
    # Without systemd it was deb-systemd-helper that enabled the unit. It serves nobody but
    # maintainer scripts, hence the variable. sysvinit, if that is here, has links of its own.
    DPKG_MAINTSCRIPT_PACKAGE=docker.io deb-systemd-helper disable "$1"
    [ "$1" != docker.service ] || update-rc.d docker disable
}

# The end of every installation, also of one that failed or was interrupted half-way.
put_back() {
    trap - EXIT
    trap '' HUP INT TERM
    [ -z "$ours" ] || rm -f "$ours"
    for unit in $idle; do
        if enabled "$unit"; then disable "$unit"; fi
        # An administrator's policy-rc.d may have allowed the start.
        if active "$unit"; then systemctl stop "$unit"; fi
    done
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update || say 'apt-get update failed; going on with the lists that are here'

    wanted=
    for package; do
        if known_to_apt "$package"; then
            wanted="$wanted $package"
        elif ! among "$package" "$OPTIONAL"; then
            die 4 "apt knows no package $package; is this release too old, or are its sources incomplete (Ubuntu: universe)?"
        elif [ "$package" != docker-cli ]; then
            say "this release has no package $package: goes on without"
        fi
    done
    [ -n "$wanted" ] || return 0

    idle=$(idle_units)
    ours=
    trap put_back EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    forbid_start
    say "apt-get installs$wanted"
    status=0
    # --no-remove: a host that runs on Docker's containerd.io, say, must not lose it.
    # shellcheck disable=SC2086
    apt-get -q -y --no-install-recommends --no-remove -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 \
        -o DPkg::Options::=--force-confold install $wanted || status=$?
    put_back
    [ "$status" -eq 0 ] || die "$status" "apt-get failed; it was asked to install$wanted, and to remove nothing for it"

    if among docker.io "$wanted" && among docker.service "$idle"; then
        say 'docker.io is installed; its system-wide daemon is left disabled' \
            '(enable it with: sudo systemctl enable --now docker.service)'
    fi
}

main() {
    case "$#:${1-}" in
        1:run) packages=$RUN ;;
        1:test) packages="$RUN $TEST" ;;
        1:bench) packages="$RUN $TEST $BENCH" ;;
        *) die 2 "usage: $0 run|test|bench" ;;
    esac
    # A user's PATH lacks the directories for administrators, where dockerd and others may lie.
    PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
    have apt-get || without_apt

    # shellcheck disable=SC2086
    missing=$(missing_of $packages)
    missing=${missing% }
    if [ -z "$missing" ]; then
        say "nothing is missing for '$1'"
    elif [ "$(id -u)" -eq 0 ]; then
        # shellcheck disable=SC2086
        install_packages $missing
    elif have sudo; then
        say "missing: $missing; installs them with apt-get, through sudo"
        exec sudo -- sh "$0" "$1"
    else
        die 4 "missing: $missing; as root, run: sh $(cd "$(dirname "$0")" && pwd)/packages.sh $1"
    fi
}

main "$@"
