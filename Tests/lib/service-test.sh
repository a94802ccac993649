#!/usr/bin/env bash
# The Debian package as an operator meets it, under a real systemd: installed, started by its socket, configured, looked
# at, hung, upgraded, removed. Usage: service-test.sh PACKAGE.deb
set -euo pipefail
library=$(dirname "$(readlink -f "$0")")
host=$library/systemd-host.sh
package=$(readlink -f "$1")
directory=$(mktemp -d /tmp/sidelock-service.XXXXXX)
mkdir "$directory/files" "$directory/state"
socket=/run/sidelock/sidelock.sock
settings=/etc/sidelock/sidelockd.yaml
secret=correct-horse-battery-staple
background=()

cleanup() {
  local status=$? pid
  trap - EXIT
  if [ "$status" != 0 ] && [ -e "$directory/state/init" ]; then
    inside journalctl -u sidelockd.service -u sidelockd.socket --no-pager 2>/dev/null | tail -n 60 >&2 || true
    inside systemctl status sidelockd.service sidelockd.socket --no-pager -l 2>/dev/null >&2 || true
  fi
  for pid in "${background[@]}"; do kill "$pid" 2>/dev/null || true; done
  if [ -e "$directory/state/cgroup" ]; then "$host" down "$directory/state" || status=1; fi
  rm -rf "$directory"
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

inside() { "$host" exec "$directory/state" "$@"; }
property() { inside systemctl show -P "$1" "${2-sidelockd.service}"; }
ok() { echo "ok: $*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }

# wait_until WHAT COMMAND... tries a command until it succeeds, for two minutes: a busy machine may need one of them. What
# the journal tells is waited for, too: the daemon writes to it beside its work.
wait_until() {
  local end=$((SECONDS + 120)) what=$1
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || fail "$what: did not happen"
    sleep 0.05
  done
  ok "$what"
}

# same WHAT EXPECTED FOUND
same() {
  [ "$2" = "$3" ] || fail "$1: expected \"$2\", found \"$3\""
  ok "$1"
}

# shows PATTERN tells whether its input has such a line. Unlike grep -q it reads all of it: with pipefail, whoever is still
# writing would fail.
shows() { grep -a -- "$1" >/dev/null; }

# ask REQUEST prints the answer.
ask() { echo "$1" | inside socat -t60 - "UNIX-CONNECT:$socket"; }
answers() { ask '{"id":1,"method":"ping"}' | shows '"result"'; }
serves() { [ "$(property ActiveState)" = active ]; }

# connect NAME opens a connection that stays; send NAME REQUEST writes a line, receive NAME reads the next one.
connect() {
  mkfifo "$directory/$1.in" "$directory/$1.out"
  inside socat - "UNIX-CONNECT:$socket" <"$directory/$1.in" >"$directory/$1.out" &
  background+=($!)
  eval "exec {to_$1}>'$directory/$1.in' {from_$1}<'$directory/$1.out'"
}
send() { local to="to_$1"; echo "$2" >&"${!to}"; }
receive() {
  local from="from_$1"
  IFS= read -r -t 120 line <&"${!from}" || fail "client $1 heard nothing"
}
hang_up() {
  local to="to_$1" from="from_$1"
  eval "exec ${!to}>&- ${!from}<&-"
  rm -f "$directory/$1.in" "$directory/$1.out"
}

# journal FIELD=VALUE... prints the daemon's entries as JSON.
journal() { inside journalctl _COMM=sidelockd -o json --no-pager "$@"; }
status_has() { [[ "$(property StatusText)" == *"$1"* ]]; }

# set_settings LINE... replaces the settings file.
set_settings() { printf '%s\n' "$@" | inside tee "$settings" >/dev/null; }

# The first time as the README says, where a dependency that is missing is installed, too.
apt_install() { inside sh -c 'cd /srv/files/release && APT_CONFIG=/srv/files/apt.conf apt install ./sidelock_*.deb' >"$directory/apt.log" 2>&1 ||
  { cat "$directory/apt.log" >&2; fail "apt install"; }; }

install_package() { inside env DEBIAN_FRONTEND=noninteractive dpkg --force-confold --path-include='/usr/share/*' -i "$1" >"$directory/dpkg.log" 2>&1 ||
  { cat "$directory/dpkg.log" >&2; fail "dpkg -i $1"; }; }

boot() {
  cp "$package" "$directory/files/first.deb"
  mkdir "$directory/files/release"
  cp "$package" "$directory/files/release/"
  # Nobody is there to be asked; and this image leaves out documents unless told otherwise.
  printf '%s\n' 'APT::Get::Assume-Yes "true";' 'DPkg::Options { "--force-confold"; "--path-include=/usr/share/*"; };' \
    >"$directory/files/apt.conf"
  # The next version has the same programs: what counts is what dpkg and the maintainer scripts do.
  dpkg-deb -R "$package" "$directory/next"
  sed -i 's/^Version: .*/&+next/' "$directory/next/DEBIAN/control"
  dpkg-deb --root-owner-group -Zgzip -z1 --build "$directory/next" "$directory/files/next.deb" >/dev/null
  rm -rf "$directory/next"
  cp "$library/freeze_thread.py" "$library/restart_clients.py" "$directory/files/"
  "$host" up "$directory/state" "$directory/files:/srv/files"
  # Images for building forbid dpkg to start services.
  inside rm -f /usr/sbin/policy-rc.d
  inside ip address add 192.0.2.10/32 dev lo
  inside systemd-run -q --unit=redis-for-test redis-server --bind 127.0.0.1 192.0.2.10 --port 6379 --requirepass "$secret" \
    --save '' --appendonly no --dir /tmp --unixsocket /run/redis-for-test.sock --unixsocketperm 777
}

test_install() {
  if ! inside test -e /var/lib/dpkg/info/sidelock.list; then ok "nothing is installed"; else fail "it is installed"; fi
  apt_install
  brings_its_libraries
  same "it runs after the installation" "active active" \
    "$(inside systemctl is-active sidelockd.socket sidelockd.service | xargs)"
  same "it is enabled" "enabled enabled" "$(inside systemctl is-enabled sidelockd.socket sidelockd.service | xargs)"
  same "the exporter is off unless somebody enables it" "disabled inactive" \
    "$(inside systemctl is-enabled sidelock-exporter.service) $(inside systemctl is-active sidelock-exporter.service)"
  same "the socket is for its group" "srw-rw---- root sidelock" "$(inside stat -c '%A %U %G' "$socket")"
  same "its directory is root's" "drwxr-xr-x root root" "$(inside stat -c '%A %U %G' "${socket%/*}")"
  same "the daemon is nobody else's" sidelock "$(inside ps -o user= -p "$(property MainPID)")"
  inside runuser -u nobody -- socat -u "UNIX-CONNECT:$socket" - 2>/dev/null && fail "everybody may connect"
  inside runuser -u nobody -g sidelock -- sh -c "echo '{\"id\":1,\"method\":\"ping\"}' | socat -t60 - UNIX-CONNECT:$socket" |
    shows '"result"' || fail "the group may not connect"
  ok "the group may connect, and others may not"
  inside sidelockd --config "$settings" --check >/dev/null || fail "the sample settings are not good"
  inside systemd-analyze verify sidelockd.service sidelockd.socket sidelock-exporter.service || fail "systemd-analyze verify"
  ok "systemd finds nothing wrong with the installed units"
  for page in sidelockd.8 sidelock.1 sidelock-run.1 sidelockd.yaml.5 sidelock-protocol.7; do
    inside test -s "/usr/share/man/man${page##*.}/$page.gz" || fail "no man page $page"
  done
  ok "the man pages are there"
  inside bash -n /usr/share/bash-completion/completions/sidelock || fail "the completion for bash is wrong"
}

# Each library that the programs are linked with comes with a package that this one depends on.
brings_its_libraries() {
  local depends library owner
  # shellcheck disable=SC2016
  depends=$(inside dpkg-query -W -f '${Depends}' sidelock)
  for library in $(inside ldd /usr/sbin/sidelockd /usr/bin/sidelock | awk '$2 == "=>" { print $3 }' | sort -u); do
    owner=$(inside dpkg-query -S "$(inside readlink -f "$library")" 2>/dev/null | cut -d: -f1) || continue
    # Those that only another library needs are that one's business.
    inside readelf -d /usr/sbin/sidelockd /usr/bin/sidelock | shows "NEEDED.*\[${library##*/}\]" || continue
    [[ ", $depends," == *", $owner,"* || ", $depends" == *", $owner ("* ]] || fail "the package does not depend on $owner, which has ${library##*/}: $depends"
  done
  [[ $depends == *libyaml-0-2* && $depends == *libsystemd0* ]] || fail "the package depends on $depends"
  ok "the package depends on what it is linked with"
}

exporter_serves() { inside curl -s http://127.0.0.1:9797/metrics | shows '^sidelock_up 1$'; }

# The other lines that the README has typed as root.
test_readme() {
  inside useradd alice
  inside usermod -aG sidelock alice
  inside runuser -u alice -- sidelock run -w 120 via-group -- true || fail "a member of the group gets no lock"
  inside systemctl reload-or-restart sidelockd
  inside systemctl status sidelockd --no-pager | shows 'Status: "' || fail "no status"
  inside systemctl enable --now sidelock-exporter 2>/dev/null
  wait_until "the exporter serves what the daemon says" exporter_serves
  if [ "$(inside ps -o user= -p "$(property MainPID sidelock-exporter.service)")" = root ]; then fail "the exporter is root"; fi
  inside systemctl disable --now sidelock-exporter 2>/dev/null
  ok "the README's lines work"
  python3 "$library/recording.py" "$library/../../README.md" "# sidelock run nightly -- sleep 600 &" "$host" exec "$directory/state" ||
    fail "the README's recording is another"
  ok "the README's recording is as it was"
}

test_credentials() {
  # Without a credential it runs, and says what it lacks.
  wait_until "without a password the status says that Redis wants one" status_has "Redis unreachable"
  inside sh -c "umask 077; mkdir -p /etc/credstore; printf %s '$secret' >/etc/credstore/sidelock.redis-password"
  inside systemctl restart sidelockd.service
  wait_until "with the credential it is connected" status_has "Redis connected"
  local pid
  pid=$(property MainPID)
  if inside grep -qa "$secret" "/proc/$pid/environ" "/proc/$pid/cmdline"; then fail "the password shows in /proc"; fi
  if inside journalctl --no-pager -o export -u sidelockd.service | shows "$secret"; then fail "it is in the log"; fi
  if inside systemctl show sidelockd.service | shows "$secret"; then fail "it is in the unit's properties"; fi
  if inside runuser -u nobody -- sh -c "cat /run/credentials/sidelockd.service/* 2>/dev/null"; then
    fail "others may read the credential"
  fi
  ok "nobody else sees the password"
  inside /usr/bin/sidelock run -w 120 via-redis -- true || fail "no lock through Redis"
  ok "a lock through Redis"
}

test_activation() {
  inside systemctl stop sidelockd.service 2>/dev/null
  same "stopped, the socket still listens" "active inactive" \
    "$(inside systemctl is-active sidelockd.socket sidelockd.service | xargs)"
  answers || fail "the first connection is not answered"
  wait_until "the first connection starts it" serves
  ok "the first connection starts the daemon"
  inside systemctl stop sidelockd.service 2>/dev/null
  inside test -S "$socket" || fail "the daemon removed systemd's socket"
  # A daemon that takes its time: the start must take as long.
  inside mkdir -p /run/systemd/system/sidelockd.service.d
  printf '[Service]\nExecStart=\nExecStart=/bin/sh -c "sleep 1; exec /usr/sbin/sidelockd --config %s"\n' "$settings" |
    inside tee /run/systemd/system/sidelockd.service.d/slow.conf >/dev/null
  inside systemctl daemon-reload
  local before=${EPOCHREALTIME/./}
  inside systemctl start sidelockd.service
  local took=$((${EPOCHREALTIME/./} - before))
  [ "$took" -ge 1000000 ] || fail "the start did not wait for the daemon: $took µs"
  status_has clients || fail "started without a status"
  ok "systemctl start returns when it serves"
  inside rm /run/systemd/system/sidelockd.service.d/slow.conf
  inside systemctl daemon-reload
}

# 200 clients that hold and 200 that wait, over ten restarts, crashes and an upgrade. The lease is longer than usual: how long a
# restart may take on a busy machine is not what is tried here.
test_continuity() {
  inside sh -c "echo 'lease_ms: 60000' >>$settings"
  inside systemctl restart sidelockd.service
  wait_until "it is connected" status_has "Redis connected"
  inside python3 /srv/files/restart_clients.py "$secret" restart kill upgrade count drain stop || fail "clients lost something"
  # Its last restart is one at which nobody comes or goes, so that the numbers are known: 200 clients that hold a lock, two more
  # with one, and 200 that wait.
  local fields=(MESSAGE_ID=f06e49eb6a4a4f57904cb6175a9a5dc0 SIDELOCK_CLIENTS=402 SIDELOCK_HELD=202 SIDELOCK_WAITING=200
    SIDELOCK_GONE=0 PRIORITY=5)
  taken_over() { journal "${fields[@]}" | shows '"MESSAGE":"took over clients and locks'; }
  wait_until "the journal tells what was taken over" taken_over
  explained() { inside journalctl -x "${fields[@]}" --no-pager | shows '402 clients are still connected'; }
  wait_until "journalctl -x explains it" explained
  install_package /srv/files/first.deb
}

# drop_in LINE... adds lines to the service until the next call; without any it is as it was.
drop_in() {
  local file=/run/systemd/system/sidelockd.service.d/test.conf
  inside mkdir -p "${file%/*}"
  if [ $# -gt 0 ]; then
    printf '%s\n' '[Service]' "$@" | inside tee "$file" >/dev/null
  else
    inside rm -f "$file"
  fi
  inside systemctl daemon-reload
}

# take NAME [LOCK] has a client of that name hold a lock; keeps NAME tells whether it still does; loses_at_restart NAME
# expects what a client is told whose connection ends in order.
take() {
  connect "$1"
  send "$1" "{\"id\":1,\"method\":\"acquire\",\"params\":{\"name\":\"${2-lock-$1}\"}}"
  receive "$1"
  [[ $line == *'"token"'* ]] || fail "no lock for $1: $line"
  token=${line#*'"token":'}
  token=${token%%,*}
}
keeps() {
  send "$1" '{"id":2,"method":"release","params":{"name":"'"${2-lock-$1}"'"}}'
  receive "$1"
  [[ $line == *'"id":2,"result"'* ]] || fail "$1 lost its lock: $line"
  hang_up "$1"
}
loses_at_restart() {
  receive "$1"
  [[ $line == *'"draining"'* ]] || fail "$1 was told $line"
  receive "$1"
  [[ $line == *'"lost"'*'"shutdown"'* ]] || fail "$1 was told $line"
  is_closed "$1"
}
# is_closed NAME expects the end of the connection.
is_closed() {
  local from="from_$1"
  if IFS= read -r -t 120 line <&"${!from}"; then fail "$1 was told $line"; elif [ $? -gt 128 ]; then fail "$1 is connected"; fi
  hang_up "$1"
}
restarts_by_itself() {
  local pid
  pid=$(property MainPID)
  inside kill -KILL "$pid"
  again() { [ "$(property MainPID)" != "$pid" ] && serves; }
  wait_until "after SIGKILL it runs again" again
}
leftovers_refused() { journal MESSAGE_ID=c508ca7396574e85b24d89b3c11f98d3 -n 1 | shows "$1"; }

# What is left to the next daemon, and what not. Without Redis.
test_leaving() {
  set_settings "local: true"
  inside systemctl restart sidelockd.service
  take first counted
  local before=$token
  inside systemctl restart sidelockd.service
  restarts_by_itself
  keeps first counted
  take second counted
  [ "$token" -gt "$before" ] || fail "token $token after $before"
  keeps second counted
  ok "locks of this host alone are kept, and their tokens go on increasing"

  # A client that has nothing stays connected over a restart, and not over a crash.
  connect idle
  send idle '{"id":1,"method":"ping"}'
  receive idle
  inside systemctl restart sidelockd.service
  send idle '{"id":2,"method":"ping"}'
  receive idle
  [[ $line == *'"id":2,"result"'* ]] || fail "an idle client was told $line"
  hang_up idle
  ok "a client without locks stays connected over a restart"

  local restarts
  take told
  set_settings "local: true" "host: another-host"
  inside systemctl restart sidelockd.service
  loses_at_restart told
  ok "a restart with another host name takes locks as a stop does"
  take cut
  set_settings "local: true" "host: yet-another-host"
  restarts_by_itself
  is_closed cut
  wait_until "after a crash and a change of the host name nothing is taken over" leftovers_refused "host has changed"
  take lucky
  set_settings "lease_ms: 1"
  inside systemctl restart sidelockd.service || fail "a restart with a mistake in the settings"
  restarts_by_itself
  wait_until "a mistake in the settings is in the status line" status_has "settings are wrong"
  restarts=$(property NRestarts)
  keeps lucky
  set_settings "local: true" "host: yet-another-host"
  inside systemctl reload sidelockd.service
  mended() { ! status_has "settings"; }
  wait_until "it is gone when they are mended" mended
  same "with a mistake in the settings it is not restarted again and again" "$restarts" "$(property NRestarts)"
  ok "a restart with a mistake in the settings costs nobody a lock"

  # Room for two clients, and for the sixteen descriptors that are not theirs.
  drop_in FileDescriptorStoreMax=18 Environment=FDSTORE=18
  inside systemctl restart sidelockd.service
  take one
  take two
  take three
  no_room() { [ -n "$(journal MESSAGE_ID=846b8130f67145dab0034b7292390e2c)" ]; }
  wait_until "that there is no room for more is said" no_room
  inside systemctl restart sidelockd.service
  loses_at_restart three
  restarts_by_itself
  keeps one
  keeps two
  ok "as many as there is room for are kept, and the others are told"
  drop_in FileDescriptorStoreMax=0 Environment=FDSTORE=
  inside systemctl restart sidelockd.service
  take none
  inside systemctl restart sidelockd.service
  loses_at_restart none
  ok "without a store a restart takes locks as a stop does"
  drop_in
  inside systemctl restart sidelockd.service
}

# queue NAME LOCK has a client of that name wait for the lock; gets NAME LOCK expects that it has got it,
# and has it give it back.
queue() {
  connect "$1"
  send "$1" "{\"id\":1,\"method\":\"acquire\",\"params\":{\"name\":\"$2\"}}"
}
gets() {
  receive "$1"
  [[ $line == *'"id":1,"result"'*'"token"'* ]] || fail "$1 did not get $2: $line"
  keeps "$1" "$2"
}

# A restart with a mistake in a drop-in: neither the daemon starts nor the command that announces the restart. Without Redis: how
# soon it is mended is not what is tried here.
test_mistakes() {
  set_settings "local: true"
  inside systemctl restart sidelockd.service
  local mistake lines
  tried_again() { [ "$(property NRestarts)" -ge 2 ]; }
  for mistake in SupplementaryGroups=no-such-group Group=no-such-group User=no-such-user EnvironmentFile=/no/such/file \
    ReadWritePaths=/no/such/path LoadCredential=x:/no/such/file ExecStart=/no/such/program LimitNOFILE=16 LimitNOFILE=24 \
    "ExecStart=/usr/sbin/sidelockd --lease-ms"; do
    take holder mistake
    queue waiter mistake
    lines=("$mistake")
    if [[ $mistake == ExecStart=* ]]; then lines=(ExecStart= "$mistake"); fi
    drop_in "${lines[@]}"
    if inside systemctl restart sidelockd.service 2>/dev/null; then fail "it starts with $mistake"; fi
    wait_until "with $mistake it is tried again" tried_again
    drop_in
    inside systemctl restart sidelockd.service
    keeps holder mistake
    gets waiter mistake
    ok "a restart with $mistake costs nobody a lock when it is mended"
  done

  # Whoever does not say what a signal is for means a restart.
  local pid
  another_serves() { [ "$(property MainPID)" != "$pid" ] && serves; }
  for mistake in "systemctl kill sidelockd.service" "systemctl kill -s INT sidelockd.service"; do
    take holder kill
    pid=$(property MainPID)
    inside sh -c "$mistake"
    wait_until "after \"$mistake\" another daemon serves" another_serves
    keeps holder kill
  done
  # A reload that has not ended, in which nothing announces a restart or a stop.
  take holder reload
  inside sh -c "systemctl --no-block reload sidelockd.service; systemctl restart sidelockd.service"
  keeps holder reload
  ok "a restart right after a reload costs nobody a lock"
  take holder reexec
  inside sh -c "systemctl daemon-reexec; systemctl daemon-reload; systemctl restart sidelockd.service"
  keeps holder reexec
  ok "nor does one after systemd has executed itself anew"

  take holder stopped
  inside systemctl stop sidelockd.service 2>/dev/null
  loses_at_restart holder
  inside systemctl start sidelockd.service
  take holder stopped
  # Another unit is what is stopped, as when the host shuts down.
  inside systemctl stop sidelockd.socket 2>/dev/null
  loses_at_restart holder
  inside systemctl start sidelockd.socket sidelockd.service
  ok "a stop tells who loses a lock"
  take holder stopped
  drop_in SupplementaryGroups=no-such-group
  inside systemctl stop sidelockd.service 2>/dev/null
  is_closed holder
  ok "a stop that cannot be announced ends connections"
  drop_in
  inside systemctl start sidelockd.service

  # The environment says that there is room, and there is none.
  take holder unkept
  drop_in FileDescriptorStoreMax=0
  inside systemctl restart sidelockd.service
  loses_at_restart holder
  unkept() { inside journalctl -u sidelockd.service -o cat --no-pager | shows 'the service manager keeps nothing'; }
  wait_until "the journal says that nothing is kept" unkept
  take holder unkept
  inside systemctl restart sidelockd.service
  loses_at_restart holder
  ok "where systemd keeps nothing a restart takes locks as a stop does"
  drop_in
  inside systemctl restart sidelockd.service
}

# From here on without Redis: faster, and what is tested has nothing to do with it.
test_reload() {
  set_settings "local: true" "connections_max: 100" "log_level: info"
  inside systemctl restart sidelockd.service
  connect holder
  send holder '{"id":1,"method":"acquire","params":{"name":"kept"}}'
  receive holder
  set_settings "local: true" "connections_max: 1" "log_level: debug"
  inside systemctl reload sidelockd.service
  reloaded() { [ -n "$(journal SIDELOCK_SETTING=connections_max SIDELOCK_TO=1)" ]; }
  wait_until "a reload says what changed" reloaded
  limited() { ask '{"id":1,"method":"ping"}' | shows '"limit":"connections"'; }
  wait_until "connections_max changed" limited
  send holder '{"id":2,"method":"initialize","params":{"client":{"name":"test"}}}'
  receive holder
  debugging() { journal PRIORITY=7 | shows '"SIDELOCK_CLIENT":"test"'; }
  wait_until "log_level changed" debugging

  set_settings "local: true" "connections_max: 0" "no_such_setting: 1"
  inside systemctl reload sidelockd.service
  wait_until "a bad file is said in the status" status_has "settings not reloaded"
  status_has "connections_max" || fail "the status does not say what is wrong: $(property StatusText)"
  both_told() { [ "$(journal MESSAGE_ID=b1618c29c772411e9cebaec5dd1f7809 | wc -l)" = 2 ]; }
  wait_until "each mistake is in the journal" both_told
  wait_until "the old settings are in force" limited
  same "the service is still active" "active running" "$(property ActiveState) $(property SubState)"

  set_settings "local: true" "connections_max: 100" "key_prefix: x"
  inside systemctl reload sidelockd.service
  wait_until "what needs a restart is said" status_has "restart to change key_prefix"
  wait_until "a good file heals" answers
  send holder '{"id":3,"method":"release","params":{"name":"kept"}}'
  receive holder
  [[ $line == *'"result"'* ]] || fail "the reloads cost the lock: $line"
  ok "a client keeps its lock over reloads"
  hang_up holder
}

test_journal() {
  set_settings "local: true"
  inside systemctl restart sidelockd.service
  connect loser
  send loser '{"id":1,"method":"acquire","params":{"name":"orders","max_hold_ms":1}}'
  lost() { [ -n "$(inside journalctl SIDELOCK_LOCK=orders -o json --no-pager)" ]; }
  wait_until "a lost lock is found by its name" lost
  local entry
  entry=$(inside journalctl SIDELOCK_LOCK=orders -o json --no-pager)
  for part in '"MESSAGE":"lock lost' '"MESSAGE_ID":"144505c4199e459b96609fdc0c50649f"' '"SIDELOCK_REASON":"max_hold"' \
    '"SIDELOCK_TOKEN":"' '"SIDELOCK_SESSION":"' '"PRIORITY":"5"' '"_SYSTEMD_UNIT":"sidelockd.service"'; do
    [[ $entry == *"$part"* ]] || fail "the entry has no $part: $entry"
  done
  ok "the entry has its fields"
  inside journalctl -x SIDELOCK_LOCK=orders --no-pager | shows 'The lock orders (token [0-9]*) was taken' ||
    fail "journalctl -x does not explain it"
  ok "journalctl -x explains it"
  hang_up loser
  inside sidelock log orders | shows '"kind":"lost"' || fail "sidelock log shows no loss"
  inside sidelock log orders 2>&1 >/dev/null | shows 'record all orders' || fail "sidelock log does not say what more could be logged"
  set_settings "local: true" 'audit: ["record all orders"]'
  inside systemctl reload sidelockd.service
  inside sidelock run orders -- true || fail "sidelock run"
  released() { inside sidelock log orders | shows '"kind":"released"'; }
  wait_until "the journal tells of a release" released
  inside sidelock log orders --since 10m | shows '"user":"root"[^}]*"client":"sidelock run true ' || fail "sidelock log does not say who it was"
  inside journalctl -x SIDELOCK_LOCK=orders --no-pager | shows 'had it for' || fail "journalctl -x does not explain a release"
  said=$(inside runuser -u nobody -- sidelock log orders 2>&1 || true)
  shows 'usermod -aG systemd-journal nobody' <<<"$said" || fail "sidelock log does not say who may read the journal: $said"
  ok "sidelock log shows what the journal has"
}

test_watchdog() {
  local pid before took restarts
  # What bounds the time: a lease lasts 10 s. How long it takes is for the machine to decide.
  same "it is replaced within a third of a lease" "3s 500ms" "$(property WatchdogUSec) $(property RestartUSec)"
  pid=$(property MainPID)
  restarts=$(property NRestarts)
  inside python3 /srv/files/freeze_thread.py "$pid" NIO-ELT- >"$directory/frozen" &
  background+=($!)
  wait_until "the loop is wedged" grep -q frozen "$directory/frozen"
  before=${EPOCHREALTIME/./}
  replaced() { [ "$(property NRestarts)" -gt "$restarts" ] && serves; }
  wait_until "a wedged loop is replaced" replaced
  took=$(((${EPOCHREALTIME/./} - before) / 1000))
  by_watchdog() { inside journalctl -u sidelockd.service --no-pager | shows '[Ww]atchdog timeout'; }
  wait_until "it was the watchdog" by_watchdog
  answers || fail "the new daemon does not answer"
  ok "it took $took ms, of the 10,000 that a lease lasts"
}

# use_example [NAME] has the service run with this drop-in alone.
use_example() {
  local dropins=/etc/systemd/system/sidelockd.service.d
  inside rm -rf "$dropins"
  if [ $# -gt 0 ]; then
    inside mkdir -p "$dropins"
    inside cp "/usr/share/doc/sidelock/examples/$1.conf" "$dropins/"
  fi
  inside systemctl daemon-reload
  inside systemctl restart sidelockd.service
}

# holder_is MEMBER tells whether a lock held by the user nobody is shown with it.
holder_is() {
  inside runuser -u nobody -g sidelock -- bash -c "coproc s { exec socat - UNIX-CONNECT:$socket; }
    echo '{\"id\":1,\"method\":\"acquire\",\"params\":{\"name\":\"n\"}}' >&\${s[1]}; read -r -u \${s[0]} line
    echo '{\"id\":2,\"method\":\"inspect\",\"params\":{\"name\":\"n\"}}' >&\${s[1]}; read -r -u \${s[0]} line
    echo \"\$line\"" | shows "$1"
}

# acquire_as_nobody MEMBERS prints the answer to an acquire of the lock "n" by the user nobody.
acquire_as_nobody() {
  echo "{\"id\":1,\"method\":\"acquire\",\"params\":{\"name\":\"n\",\"max_hold_ms\":200$1}}" |
    inside runuser -u nobody -g sidelock -- socat -t60 - "UNIX-CONNECT:$socket" || true
}

# acquire_in_a_unit does so in a unit of its own; where no unit is known, rules that deny one hold.
acquire_in_a_unit() {
  echo '{"id":1,"method":"acquire","params":{"name":"n","max_hold_ms":200}}' |
    inside systemd-run -q --pipe --wait --collect -p User=nobody -p Group=sidelock \
      socat -t60 - "UNIX-CONNECT:$socket" || true
}

# killed_as_nobody prints the answer to an acquire by the user nobody that ends its process, and returns when that has ended. It
# keeps its half of the connection open, and has the lock for long enough to read the answer.
killed_as_nobody() {
  inside runuser -u nobody -g sidelock -- bash -c "coproc s { exec socat - UNIX-CONNECT:$socket; }
    echo '{\"id\":1,\"method\":\"acquire\",\"params\":{\"name\":\"n\",\"max_hold_ms\":5000,\"on_lost\":\"kill\"}}' >&\${s[1]}
    read -r -u \${s[0]} line; echo \"\$line\"; wait" || true
}

# expect WHAT PART COMMAND... fails if what the command prints has no such part, and shows it.
expect() {
  local what=$1 part=$2 found
  shift 2
  found=$("$@")
  [[ $found == *"$part"* ]] || fail "$what: $found"
}

killed_in_journal() { [ -n "$(journal SIDELOCK_SIGNAL=SIGKILL SIDELOCK_OUTCOME=sent)" ]; }

test_examples() {
  set_settings "redis: unix:///run/redis-for-test.sock"
  use_example redis-unix-socket
  wait_until "Redis behind a Unix socket, without any network" status_has "Redis connected"
  set_settings "redis: redis://192.0.2.10:6379"
  use_example
  wait_until "another address than the host's own is out of reach" status_has "Redis unreachable"
  use_example remote-redis
  wait_until "with the drop-in for a remote Redis it is in reach" status_has "Redis connected"
  set_settings "local: true"
  use_example
  holder_is '"uid":65534' || fail "the sandbox hides the users of clients"
  if holder_is '"command":"'; then fail "the sandbox shows what others run"; fi
  use_example show-programs
  holder_is '"command":".*socat' || fail "the programs do not show"
  ok "users of clients show, and their programs if that is wanted"
  set_settings "local: true" "rules: [deny use n to unit:no-such.service]"
  use_example
  expect "a unit that cannot be read does not count against its client" '"right":"use"' acquire_as_nobody ""
  use_example show-programs
  expect "a client of no unit that is known is not refused" '"right":"use"' acquire_as_nobody ""
  expect "a client of another unit is refused" '"token"' acquire_in_a_unit
  ok "rules that name units hold, and need to see the programs"
  set_settings "local: true"
  use_example
  expect "on_lost is not refused" '"right":"CAP_KILL"' acquire_as_nobody ',"on_lost":"kill"'
  use_example enforce-loss
  expect "enforce-loss does not give the right" '"token"' killed_as_nobody
  wait_until "the client that lost its lock to be killed" killed_in_journal
  ok "processes of other users are ended if that is wanted"
  use_example
}

test_user() {
  inside useradd -m tester
  local uid
  uid=$(inside id -u tester)
  as_tester() { inside runuser -u tester -- env "XDG_RUNTIME_DIR=/run/user/$uid" "$@"; }
  inside install -d -o tester /home/tester/.config /home/tester/.config/systemd /home/tester/.config/systemd/user
  for kind in socket service; do
    inside install -o tester "/usr/share/doc/sidelock/examples/user.$kind" \
      "/home/tester/.config/systemd/user/sidelockd.$kind"
  done
  inside systemctl start "user@$uid.service"
  as_tester systemctl --user enable --now sidelockd.socket 2>/dev/null
  as_tester sidelock run -w 120 mine -- true || fail "no lock from the user's own daemon"
  same "a user has a daemon of their own" "active srw------- tester" \
    "$(as_tester systemctl --user is-active sidelockd.service) $(
      inside stat -c '%A %U' "/run/user/$uid/sidelock/sidelock.sock")"
  inside systemctl stop "user@$uid.service"
}

# What goes wrong for long must heal by itself.
test_restarts() {
  local pid
  pid=$(property MainPID)
  inside kill -KILL "$pid"
  answers || fail "after SIGKILL, who connects is not answered"
  [ "$(property MainPID)" != "$pid" ] || fail "the process is the same"
  ok "after SIGKILL it is back, and who connects meanwhile waits"
  inside systemctl stop sidelockd.service
  set_settings "lease_ms: 1"
  if inside systemctl start sidelockd.service 2>/dev/null; then fail "it starts with bad settings"; fi
  same "with bad settings it is not started again and again" "failed exit-code 78 0" \
    "$(property ActiveState) $(property Result) $(property ExecMainStatus) $(property NRestarts)"
  ask '{"id":1,"method":"ping"}' | shows 'its settings are wrong' || fail "who connects is not told"
  ok "who connects is told"
  named() { inside journalctl -u sidelockd.service -p crit -o cat --no-pager | shows 'settings are wrong.*setting=lease_ms'; }
  wait_until "the journal names the bad setting" named
  set_settings "local: true"
  answers || fail "it does not answer"
  wait_until "with good settings it runs again when a client connects" serves
}

test_upgrade() {
  set_settings "local: true" "connections_max: 123"
  inside systemctl restart sidelockd.service
  connect before
  send before '{"id":1,"method":"acquire","params":{"name":"upgrade"}}'
  receive before
  local pid
  pid=$(property MainPID)
  # Clients come all the time, and none is refused.
  inside bash -c "
    while [ ! -e /run/enough ]; do
      echo '{\"id\":1,\"method\":\"ping\"}' | socat -t60 - UNIX-CONNECT:$socket 2>&1 || echo refused
    done" >"$directory/load" &
  local load=$!
  install_package /srv/files/next.deb
  inside touch /run/enough
  wait "$load"
  [ "$(property MainPID)" != "$pid" ] || fail "the old daemon still runs"
  serves || fail "it does not run after the upgrade"
  [[ "$(inside dpkg -s sidelock | grep '^Version:')" == *+next ]] || fail "the version is the old one"
  same "the settings were left alone" "connections_max: 123" "$(inside tail -n 1 "$settings")"
  if grep -vq '"result"' "$directory/load"; then fail "an upgrade refused clients: $(grep -v result "$directory/load")"; fi
  ok "$(wc -l <"$directory/load") clients connected during the upgrade, and all were answered"
  keeps before upgrade
  ok "a client kept its lock over the upgrade"

  inside systemctl disable --now sidelockd.socket sidelockd.service 2>/dev/null
  install_package /srv/files/first.deb
  same "a service that was disabled stays so" "disabled inactive" \
    "$(inside systemctl is-enabled sidelockd.service) $(inside systemctl is-active sidelockd.service)"
  inside systemctl enable --now sidelockd.socket sidelockd.service 2>/dev/null
  answers || fail "it does not run"
}

test_remove() {
  inside dpkg -r sidelock >/dev/null 2>&1 || fail "dpkg -r"
  if inside test -e "$socket"; then fail "the socket is left"; fi
  same "removed, nothing runs" "inactive" "$(inside systemctl is-active sidelockd.service)"
  inside test -e "$settings" || fail "the settings are gone before the purge"
  install_package /srv/files/next.deb
  answers || fail "installed again, it does not run"
  ok "installed again, it runs"
  inside dpkg -P sidelock >/dev/null 2>&1 || fail "dpkg -P"
  local left
  left=$(inside find /etc/sidelock /etc/systemd /var/lib/systemd/deb-systemd-helper-enabled /usr/lib/systemd /run/sidelock /var/lib/sidelock \
    -name '*sidelock*' ! -name sidelock-test.conf 2>/dev/null || true)
  same "purged, nothing is left" "" "$left"
  same "no unit failed" "" "$(inside systemctl --failed --plain --no-legend | grep sidelock || true)"
}

boot
for part in install credentials readme activation continuity leaving mistakes reload journal watchdog restarts examples user upgrade remove; do
  echo "# $part"
  "test_$part"
done
