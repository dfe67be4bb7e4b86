#!/bin/sh
# A task that puts a package into a repository of reprepro's. See docs/exec.md.
#
#   [exec."apt.include"]
#   command = ["./include.sh", "{suite}", "{deb}"]
#   probe = ["./is-included.sh", "{suite}", "{deb}"]
#   dir = "/srv/repo"                     # has conf/distributions
set -eu
suite=$1 deb=$2

# The kernel lets go of this lock when its holder dies. reprepro's own is a file that stays: under our lock it is nobody's.
exec 9>longshore.lock
flock -w 60 9 || exit 75
rm -f db/lockfile

# Killed between its database and the index: the package is known, and nobody can see it.
[ "$LONGSHORE_PROBE" != partial ] || exec reprepro export "$suite"
exec reprepro includedeb "$suite" "$deb"
