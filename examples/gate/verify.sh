#!/bin/sh
# Looks at what is published as a reader does: downloads the package, and compares it with what was tested.
set -eu
. ./apt.sh
[ -e reader.list ] || exit 75
update reader.list
package=$(jq -er '.kwargs.files[0] | split("_") | "\(.[0])=\(.[1])"' "$LONGSHORE_ARGS")
sha256=$(jq -er '.kwargs.gate.results.build.sha256' "$LONGSHORE_ARGS")
list=$(realpath reader.list)
cd "$LONGSHORE_WORK"
with_apt "$list" apt-get download "$package"
echo "$sha256  $(echo ./*.deb)" | sha256sum -c
