#!/bin/sh
# A test of the gate: installs what is published, what entries ahead have staged, and the entry's own package, together.
set -eu
. ./apt.sh
update sources.list
published=$(with_apt sources.list apt-cache dumpavail | sed -n 's/^Package: //p')
staged=$(jq -r '.kwargs.gate.artifacts[].result.file | "./incoming/\(.)"' "$LONGSHORE_ARGS")
# shellcheck disable=SC2086 # names of packages and files, one each
with_apt sources.list apt-get install -y --no-install-recommends $published $staged "./incoming/$file"
dpkg-query --root="$root" -W -f '${Package}=${Version}\n' |
  jq -Rn '{installed: [inputs] | sort}' >"$LONGSHORE_RESULT"
