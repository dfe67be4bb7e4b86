#!/bin/sh
# Publishes an entry's package: the file first, then, in one write, the index that names it.
set -eu
file=$(jq -er '.kwargs.files[0]' "$LONGSHORE_ARGS")
incoming=$(realpath "incoming/$file")
cd repository

# The kernel lets go of this lock when its holder dies.
exec 9>.lock
flock 9

# Who slept past its lease finds that a later publisher was here.
last=$(cat .token 2>/dev/null || echo 0)
if [ "$LONGSHORE_TOKEN" -lt "$last" ]; then
  echo "the token $LONGSHORE_TOKEN is older than $last"
  exit 1
fi
echo "$LONGSHORE_TOKEN" >.token.new
mv .token.new .token

folder=pool/${file%.deb}
if [ -e "$folder/$file" ]; then
  cmp "$incoming" "$folder/$file"
else
  mkdir -p "$folder"
  cp "$incoming" "$folder/.new"
  mv "$folder/.new" "$folder/$file"
fi
if ! grep -qxF "Filename: $folder/$file" Packages; then
  dpkg-scanpackages -m "$folder" >.stanza
  cat Packages .stanza >.Packages.new
  mv .Packages.new Packages
fi
sync "$folder/$file" Packages "$folder" .
