#!/usr/bin/env bash
# The daemon as a service of a real systemd: READY, STATUS, the watchdog, the journal, the stop.
# Usage: systemd-test.sh SIDELOCKD
set -euo pipefail
host=$(dirname "$(readlink -f "$0")")/systemd-host.sh
binary=$(readlink -f "$1")
directory=$(mktemp -d /tmp/sidelock-systemd.XXXXXX)
mkdir "$directory/files" "$directory/state"

cleanup() {
  local status=$?
  trap - EXIT
  if [ "$status" != 0 ] && [ -e "$directory/state/init" ]; then
    inside journalctl -u sidelockd --no-pager 2>/dev/null | tail -n 40 >&2 || true
  fi
  if [ -e "$directory/state/cgroup" ]; then "$host" down "$directory/state" || status=1; fi
  rm -rf "$directory"
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

inside() { "$host" exec "$directory/state" "$@"; }
property() { inside systemctl show -P "$1" sidelockd; }
ok() { echo "ok: $*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }

# wait_until WHAT COMMAND... tries a command until it succeeds, for two minutes: a busy machine may need one of them.
wait_until() {
  local end=$((SECONDS + 120)) what=$1
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || fail "$what: did not happen"
    sleep 0.05
  done
  ok "$what"
}

cat >"$directory/files/sidelockd.service" <<'EOF'
[Service]
Type=notify
NotifyAccess=main
ExecStart=/srv/sidelock/sidelockd --local
RuntimeDirectory=sidelock
StateDirectory=sidelock
WatchdogSec=2s
Restart=on-failure
RestartSec=100ms
TimeoutStartSec=20s
TimeoutStopSec=10s
LimitCORE=0
EOF

"$host" up "$directory/state" "$directory/files:/srv/units" "$binary:/srv/sidelock/sidelockd"
inside cp /srv/units/sidelockd.service /etc/systemd/system/
inside systemctl daemon-reload

# Type=notify: this returns when READY=1 has come.
inside systemctl start sidelockd || fail "systemctl start"
[ "$(property ActiveState)" = active ] || fail "the service is $(property ActiveState)"
ping() { echo '{"id":1,"method":"ping"}' | inside socat -t60 - UNIX-CONNECT:/run/sidelock/sidelock.sock; }
ping | grep '"result"' >/dev/null || fail "no answer right after READY=1"
ok "ready means that it serves"

status=$(property StatusText)
[ -n "$status" ] || fail "there is no status"
ok "status: $status"
mkfifo "$directory/client"
inside socat -t60 - UNIX-CONNECT:/run/sidelock/sidelock.sock <"$directory/client" >/dev/null &
exec {client}>"$directory/client"
echo '{"id":1,"method":"acquire","params":{"name":"x"}}' >&"$client"
status_changed() { [ "$(property StatusText)" != "$status" ]; }
wait_until "the status follows a client" status_changed
ok "status: $(property StatusText)"
exec {client}>&-

# The daemon writes to the journal beside its work.
has_priority() {
  journal=$(inside journalctl -u sidelockd _COMM=sidelockd -o json --output-fields=PRIORITY,MESSAGE --no-pager)
  grep '"PRIORITY":"6"' <<<"$journal" >/dev/null
}
wait_until "a message of priority 6 in the journal" has_priority
if grep -q '"MESSAGE":"<' <<<"$journal"; then fail "a prefix is part of a message: $journal"; fi
ok "log messages have their priority in the journal"

# Three watchdog periods without anything to do: the loop pings all the same.
sleep 6
[ "$(property NRestarts)" = 0 ] || fail "the watchdog ended an idle daemon"
ok "an idle daemon feeds the watchdog"

pid=$(property MainPID)
inside kill -STOP "$pid"
restarted() { [ "$(property NRestarts)" -ge 1 ] && [ "$(property ActiveState)" = active ]; }
wait_until "a stopped daemon is replaced" restarted
[ "$(property MainPID)" != "$pid" ] || fail "the process is the same"
by_watchdog() { inside journalctl -u sidelockd --no-pager | grep -i "watchdog timeout" >/dev/null; }
wait_until "it was the watchdog" by_watchdog
ping | grep '"result"' >/dev/null || fail "the new daemon does not answer"
ok "the new daemon serves"

# Nothing keeps clients here, and nothing announces a stop.
mkfifo "$directory/holder"
inside socat -t60 - UNIX-CONNECT:/run/sidelock/sidelock.sock <"$directory/holder" >"$directory/told" &
exec {holder}>"$directory/holder"
echo '{"id":1,"method":"acquire","params":{"name":"y"}}' >&"$holder"
wait_until "a client holds a lock" grep -q '"token"' "$directory/told"
inside systemctl stop sidelockd
wait_until "a stop tells who loses a lock" grep -q '"lost".*"shutdown"' "$directory/told"
exec {holder}>&-
[ "$(property Result)" = success ] || fail "it stopped with $(property Result)"
[ "$(property ExecMainStatus)" = 0 ] || fail "it stopped with status $(property ExecMainStatus)"
ok "it stops in peace"
