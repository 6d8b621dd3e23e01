#!/bin/sh
# Gets dockerd-rootless, checks it, and lets it fetch and install rootless Docker for this user:
#
#   curl -fsSL URL/install.sh | sh
#   curl -fsSL URL/install.sh | sh -s -- --version 29.6.2 -- --no-start
#
# The words are those of `dockerd-rootless fetch`; those behind `--` go on to `install`. Variables:
# CHANNEL, DOCKER_BIN, FORCE_ROOTLESS_INSTALL and SKIP_IPTABLES as with Docker's script, and
# DOCKERD_ROOTLESS_URL, the address of a release: what `make dist` made.
# Exit codes: 1 failed, 4 a prerequisite is missing, 6 a checksum is wrong, else those of fetch.
set -eu

# `make dist` writes both: where the release is, and a line `SUM  FILE` for each binary.
BASE_URL=''
SUMS=''

say() { echo "install.sh: $*" >&2; }
die() { code=$1; shift; say "$*"; exit "$code"; }
have() { command -v "$1" >/dev/null 2>&1; }

refuse_root() {
    [ "$(id -u)" -ne 0 ] || die 1 'rootless Docker is installed by the user who will run it, not by root:' \
        'log in as that user, then do this again'
}

check_url() {
    case $1 in
        '') die 1 'where to get dockerd-rootless from? Set DOCKERD_ROOTLESS_URL to the address of a release' ;;
        https://*) protocol='=https' ;;
        http://127.0.0.1[:/]* | http://localhost[:/]* | http://\[::1\][:/]*) protocol='=http' ;;
        *) die 1 "$1: only https is trusted" ;;
    esac
}

# download URL FILE; no redirect leads away from https.
download() {
    if have curl; then
        curl --proto "$protocol" --tlsv1.2 --silent --show-error --fail --location --retry 3 \
            --connect-timeout 10 --speed-limit 1024 --speed-time 30 --output "$2" "$1"
    elif have wget; then
        # Not every wget can be told to stay with https, so it follows nothing if it can be told that.
        # Another one may also take any certificate: it is for a program whose sum is in here.
        case $(wget --help 2>&1) in
            *--max-redirect*) wget --quiet --timeout=30 --tries=3 --max-redirect=0 --output-document="$2" "$1" ;;
            *)
                [ -n "$SUMS" ] ||
                    die 4 'this wget may be led away from https (no --max-redirect): install curl or GNU wget'
                wget -q -T 30 -O "$2" "$1"
                ;;
        esac
    else
        die 4 'neither curl nor wget is here'
    fi || die 1 "$1 cannot be downloaded"
}

sum_of() {
    if have sha256sum; then
        found=$(sha256sum "$1")
    elif have shasum; then
        found=$(shasum -a 256 "$1")
    elif have openssl; then
        found=$(openssl dgst -sha256 -r "$1")
    else
        die 4 'nothing here computes SHA-256 sums: none of sha256sum, shasum, openssl'
    fi
    echo "${found%% *}"
}

# The sum that $2 must have: as the release said when this script was made for it. A script that was
# made for none takes what is beside it, which tells no more than damage.
expected_sum() {
    sum=$(printf '%s\n' "$SUMS" | sed -n "s/^\([0-9a-f]*\)  $2\$/\1/p")
    if [ -z "$sum" ] && [ -n "$SUMS" ]; then
        die 4 "this release has no program for this machine: it knows no sum of $2"
    elif [ -z "$sum" ]; then
        download "$1/$2.sha256" "$directory/sum"
        sum=$(cut -d' ' -f1 <"$directory/sum")
    fi
    echo "$sum"
}

main() {
    refuse_root
    url=${DOCKERD_ROOTLESS_URL:-$BASE_URL}
    url=${url%/}
    check_url "$url"
    file=dockerd-rootless-$(uname -m)

    directory=$(mktemp -d)
    trap 'rm -rf "$directory"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    program=$directory/dockerd-rootless
    expected=$(expected_sum "$url" "$file")
    download "$url/$file" "$program"
    sum=$(sum_of "$program")
    [ "$sum" = "$expected" ] || die 6 "$url/$file has the SHA-256 sum '$sum' instead of '$expected'; nothing was changed"
    chmod 0755 "$program"
    [ -x "$program" ] || die 1 "no program runs in $directory: it may be mounted noexec." \
        'Set TMPDIR to a directory in which programs run'

    # Not by exec: the directory has to go. And what is left of this script is not its input.
    "$program" fetch --install "$@" </dev/null
}

main "$@"
