#!/bin/sh
# A task that copies a folder's packages to another, and goes on where the last attempt was. See docs/exec.md.
#
#   [exec.mirror]
#   command = ["./mirror.sh", "{from}", "{to}"]
#   on_drain = "terminate"                # what is copied is copied: another worker goes on
set -eu
from=$1 to=$2
export LC_ALL=C # one order everywhere

last=$(cat "$LONGSHORE_CHECKPOINT" 2>/dev/null || true)
for path in "$from"/*.deb; do
  [ -e "$path" ] || continue
  name=$(basename -- "$path")
  # The glob is in order: what comes before the checkpoint is there.
  case $(printf '%s\n' "$last" "$name" | sort | tail -n 1) in "$last") continue ;; esac
  echo "copying $name" # the last line is what `longshore task show` shows as progress
  cp -- "$path" "$to/.$name.new" || exit 75 # a full disk may be empty later
  mv -- "$to/.$name.new" "$to/$name"
  printf %s "$name" >"$LONGSHORE_CHECKPOINT_OUT.new"
  mv -- "$LONGSHORE_CHECKPOINT_OUT.new" "$LONGSHORE_CHECKPOINT_OUT"
done
printf '"everything up to %s"' "${name:-nothing}" >"$LONGSHORE_RESULT"
