#!/bin/sh
# Makes a release in a directory: binaries, their checksums, and an installer that knows both.
#
#   dist.sh BASE_URL DIRECTORY BINARY [ARCH]    ARCH as `uname -m` says it; that of this machine
#
# Run once for each architecture, with the same directory. Exit codes: 2 usage.
set -eu

die() { echo "dist.sh: $2" >&2; exit "$1"; }

main() {
    [ $# -ge 3 ] || die 2 "usage: $0 BASE_URL DIRECTORY BINARY [ARCH]"
    case $1 in
        '') die 2 'where will the release be? make dist BASE_URL=https://…' ;;
        *[!A-Za-z0-9:/._~%@+-]*) die 2 "$1: not an address that can stand in a script" ;;
        https://?* | http://127.0.0.1[:/]* | http://localhost[:/]*) ;;
        *) die 2 "$1: only https is trusted" ;;
    esac
    url=${1%/} directory=$2
    installer=$(cd "$(dirname "$0")" && pwd)/install.sh

    mkdir -p "$directory"
    install -m 0755 "$3" "$directory/dockerd-rootless-${4:-$(uname -m)}"
    cd "$directory"
    for file in dockerd-rootless-*; do
        case $file in *.sha256) continue ;; esac
        sha256sum "$file" >"$file.sha256"
    done
    sums=$(cat ./*.sha256)
    SUMS=$sums URL=$url awk '
        /^BASE_URL=/ { print "BASE_URL=\047" ENVIRON["URL"] "\047"; next }
        /^SUMS=/ { print "SUMS=\047" ENVIRON["SUMS"] "\047"; next }
        { print }' "$installer" >install.sh
    chmod 0755 install.sh
}

main "$@"
