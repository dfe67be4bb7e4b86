#!/bin/sh
# The probe of include.sh: 0 the package is there, 10 it is not, 11 only reprepro's database has it.
set -eu
suite=$1 deb=$2
package=$(dpkg-deb -f "$deb" Package)
version=$(dpkg-deb -f "$deb" Version)

exec 9>longshore.lock
flock -w 60 9 || exit 75
rm -f db/lockfile
known=$(reprepro --list-format '${version}\n' list "$suite" "$package")
printf '%s\n' "$known" | grep -qxF -- "$version" || exit 10

# What a reader of the index finds.
cat dists/"$suite"/*/binary-*/Packages | awk -v package="$package" -v version="$version" '
    $1 == "Package:" { name = $2 }
    $1 == "Version:" && name == package && $2 == version { found = 1 }
    END { exit !found }' || exit 11
