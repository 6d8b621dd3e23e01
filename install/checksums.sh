#!/bin/sh
# Adds the tarballs in a directory to the list of checksums, and dates it.
#
#   checksums.sh DIRECTORY [LIST]    DIRECTORY/CHANNEL/ARCH/FILE.tgz, as on Docker's server
#
# A file that the list has with another sum changes nothing. Exit codes: 1 that, 2 usage.
set -eu

die() { echo "checksums.sh: $2" >&2; exit "$1"; }

main() {
    [ -d "${1-}" ] || die 2 'usage: make checksums DIR=DIRECTORY (with CHANNEL/ARCH/FILE.tgz)'
    list=${2:-$(dirname "$0")/checksums.txt}
    new=$(mktemp)
    trap 'rm -f "$new"' EXIT
    (cd "$1" && for file in */*/docker-*.tgz; do [ ! -f "$file" ] || sha256sum "$file"; done) >"$new"
    [ -s "$new" ] || die 2 "$1 has no CHANNEL/ARCH/docker-*.tgz"
    changed=$(awk 'NR == FNR { sum[$2] = $1; next } $2 in sum && sum[$2] != $1 { print $2 }' "$list" "$new")
    [ -z "$changed" ] || die 1 "$changed: the list has another sum, and stays as it was"

    {
        sed -n '/^#/p' "$list" | sed "s/^\(# Brought up to date on\) .*/\1 $(date -u +%F)/"
        # In order of versions, then of paths.
        cat "$list" "$new" | sed '/^#/d' |
            sed 's|^\(.*/docker-\(rootless-extras-\)\{0,1\}\(.*\)\.tgz\)$|\3 \1|' | sort -u -k1,1V -k3,3 | cut -d' ' -f2-
    } >"$list.new"
    mv "$list.new" "$list"
}

main "$@"
