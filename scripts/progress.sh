# shellcheck shell=bash
# Progress lines for the scripts of this directory: the script, seconds since its start, what happens. Sourced.

say() { printf '%s: %3d s  %s\n' "${0##*/}" "$SECONDS" "$*"; }

complain() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

as_root() { if [[ $(id -u) -eq 0 ]]; then "$@"; else sudo --non-interactive "$@"; fi; }

# Installs locked packages into an environment: `install_locked .venv requirements/run.lock`. uv does it in a tenth of
# pip's time. Where uv cannot (no wheel for this machine, an index that only pip is configured for), pip does.
install_locked() {
  local environment=$1 locked=$2 index log
  index=$(.venv/bin/python -m pip config get global.index-url 2>/dev/null || true)
  log=$(mktemp)
  if .venv/bin/uv pip install --quiet --python "$environment/bin/python" --no-deps --require-hashes \
    --native-tls ${index:+--default-index "$index"} -r "$locked" 2>"$log"; then
    rm -f "$log"
    return
  fi
  say "uv could not install them ($(tail -n 1 "$log")); pip does, which takes a minute"
  rm -f "$log"
  "$environment/bin/python" -m pip install --quiet --no-deps --no-compile --require-hashes -r "$locked"
}
