#!/bin/sh
# A test of the gate: builds an entry's package and stages it. Built again, it has the same bytes.
set -eu
file=$(jq -er '.kwargs.files[0]' "$LONGSHORE_ARGS")
SOURCE_DATE_EPOCH=0 dpkg-deb -Znone --root-owner-group -b "src/${file%.deb}" "$LONGSHORE_WORK/$file"

# A link is there whole or not at all, and never replaces what is there.
new=$(mktemp incoming/.new.XXXXXX)
trap 'rm -f "$new"' EXIT
cp "$LONGSHORE_WORK/$file" "$new"
chmod 644 "$new"
ln "$new" "incoming/$file" 2>/dev/null || cmp "$new" "incoming/$file"

sha256=$(sha256sum <"$new" | cut -d' ' -f1)
jq -n --arg file "$file" --arg sha256 "$sha256" '{file: $file, sha256: $sha256}' >"$LONGSHORE_RESULT"
