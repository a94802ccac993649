# shellcheck shell=bash
# Installs Debian packages that are missing. Sourced by packaging/quickstart.sh and Tests/run.sh.

# missing_packages NAME... prints those that are not installed.
missing_packages() {
  local name
  for name in "$@"; do
    dpkg-query -W -f '${db:Status-Status}\n' "$name" 2>/dev/null | grep -qx installed || printf '%s\n' "$name"
  done
}

# install_packages NAME... installs what is missing of them, as root or through sudo, without starting any service.
# Output goes to standard error, and only when something fails.
install_packages() {
  local missing log policy=/usr/sbin/policy-rc.d status=0
  mapfile -t missing < <(missing_packages "$@")
  [ "${#missing[@]}" -gt 0 ] || return 0
  if ! command -v apt-get >/dev/null; then
    echo "These are missing, and there is no apt-get to install them with: ${missing[*]}" >&2
    return 1
  fi
  local root=()
  if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
      echo "These are missing; install them as root: apt-get install ${missing[*]}" >&2
      return 1
    fi
    root=(sudo)
  fi
  log=$(mktemp)
  # A redis-server that dpkg starts would take the machine's Redis port; nobody here needs that one.
  local own_policy=no
  if [ ! -e "$policy" ]; then
    own_policy=yes
    printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
    "${root[@]}" chmod 755 "$policy"
  fi
  local apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120)
  { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null ||
    status=$?
  if [ "$own_policy" = yes ]; then "${root[@]}" rm -f "$policy"; fi
  if [ "$status" != 0 ]; then
    tail -n 20 "$log" >&2
    echo "Could not install: ${missing[*]}" >&2
  fi
  rm -f "$log"
  return "$status"
}
