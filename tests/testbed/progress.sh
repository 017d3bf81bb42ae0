# shellcheck shell=bash
# Progress lines for the scripts of this directory: who speaks, seconds since its start, what happens. Sourced.

say() { printf '%s: %3d s  %s\n' "${0##*/}" "$SECONDS" "$*"; }

complain() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
  complain "$*"
  exit 1
}

need_root() {
  [[ $(id -u) -eq 0 ]] || die "$1 needs root. Run it as root, or make $2 available and run it again."
}

# Two test runs on one machine must not install, start or import the same thing at once.
# The lock goes with descriptor 9; whatever is left running must be started with 9>&-.
alone() {
  exec 9>"${TMPDIR:-/tmp}/arqonbus-testbed-$(id -u).lock"
  flock 9
}
