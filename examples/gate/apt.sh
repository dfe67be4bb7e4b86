# Read by the other scripts: an apt of this attempt's own, which knows nothing of the machine's packages.
PATH=$PATH:/usr/sbin:/sbin # dpkg wants ldconfig and start-stop-daemon
export PATH LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive

file=$(jq -er '.kwargs.files[0]' "$LONGSHORE_ARGS")
root=$LONGSHORE_WORK/root
mkdir -p "$root/var/lib/dpkg/info" "$root/var/lib/dpkg/updates" "$LONGSHORE_WORK/state/lists/partial" "$LONGSHORE_WORK/cache/archives/partial"
: >"$root/var/lib/dpkg/status"

# with_apt LIST PROGRAM ARGUMENT…
with_apt() {
  list=$(realpath "$1") program=$2
  shift 2
  "$program" -q -oDir::Etc::sourcelist="$list" -oDir::Etc::sourceparts=- -oDir::State="$LONGSHORE_WORK/state" \
    -oDir::State::status="$root/var/lib/dpkg/status" -oDir::Cache="$LONGSHORE_WORK/cache" -oAPT::Sandbox::User=root \
    -oDPkg::Options::=--root="$root" -oDPkg::Options::=--force-not-root -oDPkg::Options::=--log=/dev/null -oDPkg::Use-Pty=0 "$@"
}

# update LIST: what is published there now. Whoever cannot read it knows nothing: the task is tried again.
update() { with_apt "$1" apt-get update -oAPT::Update::Error-Mode=any || exit 75; }
