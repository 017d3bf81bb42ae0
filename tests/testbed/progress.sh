# shellcheck shell=bash
# Progress lines of scripts/progress.sh, and what only the test bed needs. Sourced.

# shellcheck source=scripts/progress.sh
. "${BASH_SOURCE[0]%/*}/../../scripts/progress.sh"

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
