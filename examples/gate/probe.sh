#!/bin/sh
# What a publisher that did not say so has done: whether the index names these very bytes. A file in the pool that no index
# names is seen by nobody, so that nothing here is ever published in part.
set -eu
. ./apt.sh
update sources.list
sha256=$(jq -er '.kwargs.gate.results.build.sha256' "$LONGSHORE_ARGS")
if with_apt sources.list apt-cache dumpavail | grep -qxF "SHA256: $sha256"; then
  echo '"done"' >"$LONGSHORE_RESULT"
else
  echo '"absent"' >"$LONGSHORE_RESULT"
fi
