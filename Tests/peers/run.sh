#!/usr/bin/env bash
# Measures sidelock and its peers side by side. See --help.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=packaging/lib/packages.sh
. packaging/lib/packages.sh
# shellcheck source=packaging/lib/release.sh
. packaging/lib/release.sh # release_flags

usage() {
  cat <<'TEXT'
usage: Tests/peers/run.sh [--keep-awake] [ARGUMENT…]

Installs what the peers need (Debian packages, as root or with sudo; Python packages in Tests/peers/.venv), builds the
release, starts a redis-server, an etcd and two sidelock daemons of its own, and runs Tests/peers/peers.py, which gets
the arguments (see its --help). The servers are stopped at the end.

  --keep-awake   let no processor fall asleep, as in Tests/bench.sh

$SIDELOCKD names another daemon binary; then nothing is built.
TEXT
}
keep_awake=no
case "${1-}" in
  -h | --help) usage; exit 0 ;;
  --keep-awake) keep_awake=yes; shift ;;
esac

install_packages etcd-server libsystemd-dev libyaml-dev pkg-config python3 python3-venv redis-server
venv=Tests/peers/.venv
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r Tests/peers/requirements.txt
if [ -z "${SIDELOCKD-}" ]; then
  swift build "${release_flags[@]}" --product sidelockd >&2
  SIDELOCKD=.build/release/sidelockd
fi

directory=$(mktemp -d /tmp/sidelock-peers.XXXXXX)
children=()
clean_up() {
  local index
  # In reverse: the daemons before Redis.
  for ((index = ${#children[@]} - 1; index >= 0; index--)); do
    kill "${children[index]}" 2>/dev/null || true
    wait "${children[index]}" 2>/dev/null || true
  done
  rm -rf "$directory"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# wait_until COMMAND… waits until it has success.
wait_until() {
  for _ in $(seq 500); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.02
  done
  echo "this had no success: $*" >&2
  cat "$directory"/*.log >&2
  return 1
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

if [ "$keep_awake" = yes ]; then
  for _ in $(seq "$(nproc)"); do
    chrt --idle 0 sh -c 'while :; do :; done' &
    children+=($!)
  done
fi

redis=$directory/redis.sock
redis-server --port 0 --unixsocket "$redis" --save "" --appendonly no --dir "$directory" >"$directory/redis.log" &
children+=($!)
wait_until test -S "$redis"

etcd_url=http://127.0.0.1:$(free_port)
peer_url=http://127.0.0.1:$(free_port)
etcd --data-dir "$directory/etcd" --name peers --listen-client-urls "$etcd_url" --advertise-client-urls "$etcd_url" \
  --listen-peer-urls "$peer_url" --initial-advertise-peer-urls "$peer_url" --initial-cluster "peers=$peer_url" \
  >"$directory/etcd.log" 2>&1 &
children+=($!)
wait_until python3 -c "import urllib.request; urllib.request.urlopen('$etcd_url/health')"

for host in a b; do
  env -u NOTIFY_SOCKET "$SIDELOCKD" --redis "unix://$redis" --socket "$directory/$host.sock" --host "$host" \
    >"$directory/$host.log" 2>&1 </dev/null &
  children+=($!)
  wait_until test -S "$directory/$host.sock"
done

"$venv/bin/python" Tests/peers/peers.py --sidelock "$directory/a.sock" --other-sidelock "$directory/b.sock" \
  --redis "unix://$redis" --etcd "$etcd_url" "$@"
