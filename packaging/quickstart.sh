#!/usr/bin/env bash
# Builds sidelock, shows what it is for, and leaves a daemon running to play with. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=packaging/lib/packages.sh
. packaging/lib/packages.sh # install_packages, missing_packages
# shellcheck source=packaging/lib/release.sh
. packaging/lib/release.sh # release_flags

usage() {
  cat <<'EOF'
usage: packaging/quickstart.sh [--once]

Installs what is missing (Debian packages, as root or with sudo), builds the release daemon and command line tool,
and starts a private Redis and the daemon in a temporary directory. Then two clients ask for one lock, the one that
has it is killed, and the time until the other one has it is shown. The daemon stays in the foreground to be tried
out; Ctrl-C ends everything that was started and removes the directory.

  --once   end after the demonstration: exit status 0 if everything was as it should be, else 1
  --help   this text

Needs a Swift toolchain (6.2 or newer) on PATH.
EOF
}

# Settings of the caller would change what is shown.
for variable in "${!SIDELOCK_@}"; do unset "$variable"; done

once=no
case "${1-}" in
  "") ;;
  --once) once=yes ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac
if [ $# -gt 1 ]; then usage >&2; exit 2; fi

say() { printf '\n\033[1m%s\033[0m\n' "$*" | if [ -t 1 ]; then cat; else sed 's/\x1b\[[0-9;]*m//g'; fi; }
fail() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }

directory="" daemon="" redis="" client_a="" client_b="" from_b=""

# Ends what was started here, by process id; the daemon first, so that it can give its locks back to Redis.
cleanup() {
  local status=$? pid
  trap - EXIT INT TERM HUP
  for pid in $client_a $client_b; do kill -KILL "$pid" 2>/dev/null || true; done
  for pid in $daemon $redis; do
    if kill -TERM "$pid" 2>/dev/null; then wait "$pid" 2>/dev/null || true; fi
  done
  if [ -n "$directory" ]; then rm -rf "$directory"; fi
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# wait_for WHAT PID COMMAND... tries a command until it succeeds, for as long as the process lives, up to 20 s.
wait_for() {
  local end=$((SECONDS + 20)) what=$1 pid=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    if [ "$SECONDS" -ge "$end" ] || ! kill -0 "$pid" 2>/dev/null; then
      tail -n 20 "$directory"/*.log >&2
      fail "$what failed"
    fi
    sleep 0.02
  done
}

command -v swift >/dev/null || fail "there is no swift on PATH; get a toolchain from swift.org"
packages=(git libc6-dev libsystemd-dev libyaml-dev pkg-config redis-server socat)
# The linker needs a C++ library of some version; a compiler brings the one that fits.
compgen -G '/usr/lib/gcc/*/*/libstdc++.so' >/dev/null || packages+=(g++)
needed=$(missing_packages "${packages[@]}" | tr '\n' ' ')
if [ -n "$needed" ]; then
  say "Installing $needed"
  install_packages "${packages[@]}" || exit 1
fi

say "Building the release (the first time takes some minutes)"
started=$SECONDS
for product in sidelockd sidelock; do
  swift build "${release_flags[@]}" --product "$product" || fail "the build failed"
done
bin=$PWD/.build/release
echo "Built in $((SECONDS - started)) s."

directory=$(mktemp -d "${TMPDIR:-/tmp}/sidelock.XXXXXX")
socket=$directory/sidelock.sock
say "Starting a private Redis and the daemon in $directory"
# In sessions of their own: Ctrl-C is for this script, which ends them in order.
setsid redis-server --port 0 --unixsocket "$directory/redis.sock" --save "" --appendonly no --dir "$directory" \
  >"$directory/redis.log" 2>&1 </dev/null &
redis=$!
wait_for "the start of Redis" "$redis" redis-cli -s "$directory/redis.sock" ping
setsid env -u NOTIFY_SOCKET "$bin/sidelockd" --redis "unix://$directory/redis.sock" --socket "$socket" \
  >"$directory/sidelockd.log" 2>&1 </dev/null &
daemon=$!
answers() { echo '{"id":1,"method":"ping"}' | socat -t5 - "UNIX-CONNECT:$socket" | grep -q result; }
wait_for "the start of the daemon" "$daemon" answers

# start_client NAME connects a client; its descriptors are in to_NAME and from_NAME, its process id in client_NAME.
start_client() {
  mkfifo "$directory/$1.in" "$directory/$1.out"
  socat - "UNIX-CONNECT:$socket" <"$directory/$1.in" >"$directory/$1.out" &
  printf -v "client_$1" %s $!
  disown # or bash reports the kill that is to come
  eval "exec {to_$1}>'$directory/$1.in' {from_$1}<'$directory/$1.out'"
}

# ask NAME REQUEST PATTERN sends a line, and reads and shows the next one, which must come soon and match.
ask() {
  local to="to_$1" from="from_$1"
  echo "$1 > $2"
  echo "$2" >&"${!to}"
  IFS= read -r -t 20 line <&"${!from}" || fail "client $1 got no answer"
  echo "$1 < $line"
  [[ $line =~ $3 ]] || fail "client $1 should have got another answer"
}

say "Client a takes the lock \"demo\""
start_client a
ask a '{"id":1,"method":"acquire","params":{"name":"demo"}}' '"token":([0-9]+)'
token_a=${BASH_REMATCH[1]}

say "Client b asks for it too, and waits"
start_client b
ask b '{"id":1,"method":"acquire","params":{"name":"demo","progress":true}}' '"method":"waiting"'

say "Client a is killed with SIGKILL; client b has the lock"
before=$EPOCHREALTIME
kill -KILL "$client_a"
IFS= read -r -t 20 line <&"$from_b" || fail "client b was not granted the lock"
after=$EPOCHREALTIME
[[ $line =~ \"token\":([0-9]+) ]] || fail "client b: unexpected answer: $line"
token_b=${BASH_REMATCH[1]}
echo "b < $line"
client_a=""
microseconds=$((${after//[!0-9]/} - ${before//[!0-9]/}))
printf 'From the kill to the grant: %d.%03d ms. The token rose from %s to %s.\n' \
  $((microseconds / 1000)) $((microseconds % 1000)) "$token_a" "$token_b"
[ "$token_b" -gt "$token_a" ] || fail "the token did not rise"

if [ "$once" = yes ]; then
  say "The daemon is told to stop, and gives the lock back to Redis"
  kill -TERM "$daemon"
  status=0
  wait "$daemon" || status=$?
  daemon=""
  [ "$status" = 0 ] || { cat "$directory/sidelockd.log" >&2; fail "the daemon ended with status $status"; }
  left=$(redis-cli -s "$directory/redis.sock" exists "sidelock:{demo}" 2>/dev/null || echo "?")
  [ "$left" = 0 ] || fail "the lock is still in Redis after the daemon has stopped"
  echo "Everything was as it should be."
  exit 0
fi

kill -KILL "$client_b"
client_b=""
cat <<EOF

The daemon runs. Try in another terminal:

  export SIDELOCK_SOCKET=$socket PYTHONPATH=$PWD/protocol/clients/python/src
  $bin/sidelock run mine -- sleep 60 &
  $bin/sidelock list
  $bin/sidelock watch
  python3 -c 'import sidelock; print(sidelock.lock("yours").acquire().token)'
  echo '{"id":1,"method":"list"}' | socat -t60 - UNIX-CONNECT:$socket

Its log follows; Ctrl-C ends everything.
EOF
tail -n +1 -f "$directory/sidelockd.log" --pid "$daemon" || true
status=0
wait "$daemon" || status=$?
daemon=""
fail "the daemon ended with status $status"
