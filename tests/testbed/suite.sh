# shellcheck shell=bash
# The Debian suite from which the test bed takes what the host's own release lacks. Its address is that of the
# mirror that the host already uses. Sourced, after progress.sh.

readonly SUITE=trixie
# The name that scripts/install-test-servers uses, so that one host lists the suite once.
readonly SOURCE_NAME=arqonbus-test-servers-$SUITE

host_codename() {
  # shellcheck source=/dev/null
  (. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
}

# Address of a suite of the host's own release: `repository_of bookworm-security`.
repository_of() {
  # shellcheck disable=SC2016 # the variables of the format are apt's
  apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
    awk -v codename="$1" '$1 == "Debian" && $2 == codename { print $3; exit }'
}

mirror() {
  local uri
  uri=$(repository_of "$(host_codename)")
  if [[ -z $uri ]]; then
    apt-get update -qq
    uri=$(repository_of "$(host_codename)")
  fi
  [[ -n $uri ]] || die "no Debian mirror for '$(host_codename)' in this host's apt sources; only Debian is supported."
  printf '%s' "$uri"
}

# At pin priority 100 nothing is upgraded to the suite behind the host's back.
add_suite() {
  local uri
  [[ $(host_codename) == "$SUITE" || -e /etc/apt/sources.list.d/$SOURCE_NAME.sources ]] && return 0
  uri=$(mirror)
  say "adding the suite $SUITE of this host's own mirror, at pin priority 100"
  cat >"/etc/apt/preferences.d/$SOURCE_NAME" <<END
Package: *
Pin: release n=$SUITE
Pin-Priority: 100
END
  cat >"/etc/apt/sources.list.d/$SOURCE_NAME.sources" <<END
Types: deb
URIs: $uri
Suites: $SUITE
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
}

is_installed() {
  [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null || true) == installed ]]
}

# Installs the packages that are missing; `name/trixie` is one that must come from the suite. What need not does
# not, because the host's own libraries would have to follow it. No service of theirs is started.
install_packages() {
  local package missing=() policy=/usr/sbin/policy-rc.d own_policy=no done=0 log
  for package in "$@"; do
    is_installed "${package%/*}" || missing+=("$package")
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  add_suite
  say "installing ${missing[*]}"
  apt-get update -qq
  if [[ ! -e $policy ]]; then
    own_policy=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 0755 "$policy"
  fi
  log=$(mktemp)
  DEBIAN_FRONTEND=noninteractive apt-get install --yes -qq --no-install-recommends \
    -o Dpkg::Options::=--force-confold -o Dpkg::Options::=--force-unsafe-io -o Dpkg::Use-Pty=0 \
    "${missing[@]}" >"$log" 2>&1 9>&- || done=$?
  [[ $done -eq 0 ]] || tail -n 30 "$log" >&2
  rm -f "$log"
  [[ $own_policy == no ]] || rm -f "$policy"
  return "$done"
}
