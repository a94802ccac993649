#!/usr/bin/env bash
# Runs every scenario of `sidelock bench` against two daemons and a Redis of its own. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=packaging/lib/release.sh
. packaging/lib/release.sh # release_flags

usage() {
  cat <<'TEXT'
usage: Tests/bench.sh [--no-build] [--keep-awake] [--daemon-args "ARG …"] [BENCH ARGUMENT…]

Builds sidelockd and sidelock (release), starts a redis-server and daemons on Unix sockets in a directory of their own,
and runs every scenario of `sidelock bench` with the arguments given: many-clients and many-locks against fresh daemons,
so that memory which one scenario leaves behind is not counted for the next. Where there is a redis-benchmark it then
runs the script of a cold acquire, 64 at a time on one connection. Everything is stopped and removed at the end.

  --no-build         take the release build that is there
  --keep-awake       let no processor fall asleep: a loop that runs only where nothing else wants to. On a virtual
                     machine the first message to a sleeping processor costs tens of microseconds, so that a figure
                     depends on where the scheduler happens to put a process
  --daemon-args      what the daemons are given besides, such as "--linger-ms 1000"

$SIDELOCKD and $SIDELOCK name other binaries. The figures mean something only on a machine with nothing else to do.

EXAMPLES
  Tests/bench.sh
  Tests/bench.sh --no-build --scenario distinct cold redis --seconds 10
  Tests/bench.sh --json > figures.jsonl
TEXT
}

build=yes
keep_awake=no
daemon_arguments=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --no-build) build=no; shift ;;
    --keep-awake) keep_awake=yes; shift ;;
    --daemon-args) read -r -a daemon_arguments <<<"${2?--daemon-args takes a value}"; shift 2 ;;
    *) break ;;
  esac
done

if [ "$build" = yes ]; then
  for product in sidelockd sidelock; do swift build "${release_flags[@]}" --product "$product" >&2; done
fi
bin=.build/release
sidelockd=${SIDELOCKD:-$bin/sidelockd}
sidelock=${SIDELOCK:-$bin/sidelock}

directory=$(mktemp -d /tmp/sidelock-bench.XXXXXX)
children=()
clean_up() {
  local pid
  # In reverse: the daemons before Redis.
  for ((i = ${#children[@]} - 1; i >= 0; i--)); do
    pid=${children[i]}
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  rm -rf "$directory"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# wait_for FILE waits until the socket is there.
wait_for() {
  for _ in $(seq 500); do
    [ ! -S "$1" ] || return 0
    sleep 0.02
  done
  echo "$1 did not appear" >&2
  cat "$directory"/*.log >&2
  return 1
}

ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
if [ "$keep_awake" = yes ]; then
  for _ in $(seq "$(nproc)"); do
    chrt --idle 0 sh -c 'while :; do :; done' &
    children+=($!)
  done
fi

redis=$directory/redis.sock
redis-server --port 0 --unixsocket "$redis" --save "" --appendonly no --dir "$directory" >"$directory/redis.log" &
children+=($!)
wait_for "$redis"

# start_daemon NAME
start_daemon() {
  env -u NOTIFY_SOCKET "$sidelockd" --redis "unix://$redis" --socket "$directory/$1.sock" --host "$1" \
    --connections-max 100000 "${daemon_arguments[@]}" >"$directory/$1.log" 2>&1 </dev/null &
  children+=($!)
  wait_for "$directory/$1.sock"
}
start_daemon a
start_daemon b

# The command that a daemon sends for a cold acquire, with random digits for the lock's name, one word a line.
acquire_command() {
  redis-cli -s "$redis" monitor >"$directory/monitor" &
  local monitor=$!
  sleep 0.5
  "$sidelock" call --socket "$directory/a.sock" acquire '{"name":"bench-script"}' >/dev/null
  sleep 0.5
  kill "$monitor"
  wait "$monitor" 2>/dev/null || true
  grep -ai '"evalsha".*bench-script' "$directory/monitor" | head -n 1 | python3 -c '
import shlex, sys
line = sys.stdin.readline()
words = shlex.split(line[line.index("\""):])
print("\n".join(word.replace("bench-script", "bench-__rand_int__") for word in words))'
}

script_rate() {
  command -v redis-benchmark >/dev/null || return 0
  local words rate
  mapfile -t words < <(acquire_command)
  [ "${#words[@]}" -gt 2 ] || return 0
  rate=$(redis-benchmark -s "$redis" -c 1 -P 64 -n 200000 -r 1000000000 --csv "${words[@]}" |
    tail -n 1 | cut -d , -f 2 | tr -d '"')
  printf 'redis-benchmark -P 64, the script of a cold acquire on one connection: %.0f per second ' "$rate" >&2
  echo '(a cycle of cold is two requests)' >&2
  redis-cli -s "$redis" flushall >/dev/null
}

bench() { "$sidelock" bench --redis-socket "$redis" "$@"; }

if [[ " $* " == *" --scenario"[\ =]* ]]; then
  bench --socket "$directory/a.sock" --other-socket "$directory/b.sock" "$@"
else
  bench --socket "$directory/a.sock" --other-socket "$directory/b.sock" "$@"
  for scenario in many-clients many-locks; do
    start_daemon "$scenario"
    bench --socket "$directory/$scenario.sock" --scenario "$scenario" "$@"
  done
fi
script_rate
