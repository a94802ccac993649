#!/usr/bin/env bash
# Runs every scenario of `sidelock bench` against two daemons and a Redis of its own. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=packaging/lib/release.sh
. packaging/lib/release.sh # release_flags

usage() {
  cat <<'TEXT'
usage: Tests/bench.sh [--no-build] [--keep-awake] [--stores STORE[,STORE…]] [--daemon-args "ARG …"] [BENCH ARGUMENT…]

Builds sidelockd and sidelock (release), starts a redis-server and daemons on Unix sockets in a directory of their own,
and runs every scenario of `sidelock bench` with the arguments given: many-clients and many-locks against fresh daemons,
so that memory which one scenario leaves behind is not counted for the next. Where there is a redis-benchmark it then
runs the script of a cold acquire, 64 at a time on one connection. Everything is stopped and removed at the end.

  --no-build         take the release build that is there
  --keep-awake       let no processor fall asleep: a loop that runs only where nothing else wants to. On a virtual
                     machine the first message to a sleeping processor costs tens of microseconds, so that a figure
                     depends on where the scheduler happens to put a process
  --stores           one after the other, each with daemons of its own; the figures of redis, raw and python are told for
                     plain alone:
                       plain     a Redis at a Unix socket; this one unless told
                       tcp       one at 127.0.0.1
                       tls       the same over TLS
                       cluster   three primaries of a Redis Cluster at 127.0.0.1
  --daemon-args      what the daemons are given besides, such as "--linger-ms 1000"

$SIDELOCKD and $SIDELOCK name other binaries. The figures mean something only on a machine with nothing else to do.

EXAMPLES
  Tests/bench.sh
  Tests/bench.sh --no-build --scenario distinct cold redis --seconds 10
  Tests/bench.sh --stores tcp,tls,cluster --scenario distinct cold
  Tests/bench.sh --json > figures.jsonl
TEXT
}

build=yes
keep_awake=no
stores=(plain)
daemon_arguments=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --no-build) build=no; shift ;;
    --keep-awake) keep_awake=yes; shift ;;
    --stores) IFS=, read -r -a stores <<<"${2?--stores takes a value}"; shift 2 ;;
    --daemon-args) read -r -a daemon_arguments <<<"${2?--daemon-args takes a value}"; shift 2 ;;
    *) break ;;
  esac
done
for store in "${stores[@]}"; do
  case "$store" in
    plain | tcp | tls | cluster) ;;
    *) echo "there is no store $store: choose among plain, tcp, tls and cluster" >&2; exit 64 ;;
  esac
done

if [ "$build" = yes ]; then
  for product in sidelockd sidelock; do swift build "${release_flags[@]}" --product "$product" >&2; done
fi
bin=.build/release
sidelockd=${SIDELOCKD:-$bin/sidelockd}
sidelock=${SIDELOCK:-$bin/sidelock}

directory=$(mktemp -d /tmp/sidelock-bench.XXXXXX)
# What keeps processors awake, and the servers and daemons of one store.
awake=()
children=()
end_children() {
  local pid
  # In reverse: the daemons before Redis.
  for ((i = ${#children[@]} - 1; i >= 0; i--)); do
    pid=${children[i]}
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  children=()
}
clean_up() {
  end_children
  [ "${#awake[@]}" = 0 ] || kill "${awake[@]}" 2>/dev/null || true
  rm -rf "$directory"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# wait_for WHAT COMMAND… waits until the command succeeds.
wait_for() {
  local what=$1
  shift
  for _ in $(seq 500); do
    ! "$@" >/dev/null 2>&1 || return 0
    sleep 0.02
  done
  echo "in vain waited for $what" >&2
  cat "$place"/*.log >&2
  return 1
}

ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
if [ "$keep_awake" = yes ]; then
  for _ in $(seq "$(nproc)"); do
    chrt --idle 0 sh -c 'while :; do :; done' &
    awake+=($!)
  done
fi

free_port() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# start_server NAME ARGUMENT… starts one with a socket in the store's directory, and a directory of its own.
start_server() {
  local name=$1
  shift
  mkdir "$place/$name"
  redis-server --bind 127.0.0.1 --unixsocket "$place/$name.sock" --save "" --appendonly no --dir "$place/$name" "$@" \
    >"$place/$name.log" &
  children+=($!)
  wait_for "$place/$name.sock" redis-cli -s "$place/$name.sock" ping
}

certify() {
  local own=$place/own
  openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=bench-ca -keyout "$own-ca.key" -out "$own-ca.pem"
  openssl req -newkey rsa:2048 -nodes -subj /CN=bench -keyout "$own.key" -out "$own.csr"
  openssl x509 -req -days 1 -in "$own.csr" -CA "$own-ca.pem" -CAkey "$own-ca.key" -CAcreateserial -out "$own.pem" \
    -extfile <(echo subjectAltName=IP:127.0.0.1)
}

# Whether a node takes the cluster for complete.
is_well() { redis-cli -s "$place/$1.sock" cluster info | grep -q cluster_state:ok; }

start_cluster() {
  local port bus nodes=()
  for number in 1 2 3; do
    port=$(free_port)
    bus=$(free_port)
    start_server "redis$number" --port "$port" --cluster-enabled yes --cluster-port "$bus"
    nodes+=("127.0.0.1:$port")
  done
  redis-cli --cluster create "${nodes[@]}" --cluster-yes >"$place/create.log"
  for number in 1 2 3; do wait_for "a complete cluster" is_well "redis$number"; done
  url=redis-cluster://$(IFS=,; echo "${nodes[*]}")
}

# start_store STORE starts servers; $redis is the socket of one, and $url leads daemons there.
start_store() {
  local port
  store_arguments=()
  place=$directory/$1
  mkdir "$place"
  redis=$place/redis.sock
  case "$1" in
    plain)
      start_server redis --port 0
      url=unix://$redis
      ;;
    tcp)
      port=$(free_port)
      start_server redis --port "$port"
      url=redis://127.0.0.1:$port
      ;;
    tls)
      port=$(free_port)
      certify 2>"$place/certify.log" >&2
      start_server redis --port 0 --tls-port "$port" --tls-cert-file "$place/own.pem" --tls-key-file "$place/own.key" \
        --tls-ca-cert-file "$place/own-ca.pem" --tls-auth-clients no
      url=rediss://127.0.0.1:$port
      store_arguments=(--redis-tls-ca "$place/own-ca.pem")
      ;;
    cluster) start_cluster ;;
  esac
}

# start_daemon NAME
start_daemon() {
  env -u NOTIFY_SOCKET "$sidelockd" --redis "$url" --socket "$place/$1.sock" --host "$1" \
    --connections-max 100000 "${store_arguments[@]}" "${daemon_arguments[@]}" >"$place/$1.log" 2>&1 </dev/null &
  children+=($!)
  wait_for "$place/$1.sock" "$sidelock" health --ready --socket "$place/$1.sock"
}

# The command that a daemon sends for a cold acquire, with random digits for the lock's name, one word a line.
acquire_command() {
  redis-cli -s "$redis" monitor >"$place/monitor" &
  local monitor=$!
  sleep 0.5
  "$sidelock" call --socket "$place/a.sock" acquire '{"name":"bench-script"}' >/dev/null
  sleep 0.5
  kill "$monitor"
  wait "$monitor" 2>/dev/null || true
  grep -ai '"evalsha".*bench-script' "$place/monitor" | head -n 1 | python3 -c '
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

bench() {
  local of_redis=()
  # What these measure is at a Unix socket.
  [ "$store" != plain ] || of_redis=(--redis-socket "$redis")
  "$sidelock" bench "${of_redis[@]}" "$@"
}

# run_store STORE [BENCH ARGUMENT…]
run_store() {
  local store=$1
  shift
  start_store "$store"
  start_daemon a
  start_daemon b
  [ "${#stores[@]}" = 1 ] || echo "$store" >&2
  bench --socket "$place/a.sock" --other-socket "$place/b.sock" "$@"
  if [[ " $* " != *" --scenario"[\ =]* ]]; then
    for scenario in many-clients many-locks; do
      start_daemon "$scenario"
      bench --socket "$place/$scenario.sock" --scenario "$scenario" "$@"
    done
  fi
  [ "$store" != plain ] || script_rate
  end_children
}

for store in "${stores[@]}"; do run_store "$store" "$@"; done
