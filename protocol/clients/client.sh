#!/usr/bin/env bash
# Holds a lock until the input ends: client.sh SOCKET NAME. Needs socat.
set -euo pipefail
[ $# -eq 2 ] || { echo "usage: client.sh SOCKET NAME" >&2; exit 1; }

# The name as JSON text: backslash and quote are escaped; control characters are not supported here.
name=${2//\\/\\\\}
name=${name//\"/\\\"}

# When this script ends, in whatever way, socat's input ends, and -t0 makes it close the connection at once: the locks
# are free.
coproc DAEMON { exec socat -t0 - "UNIX-CONNECT:$1"; }
exec {from}<&"${DAEMON[0]}" {to}>&"${DAEMON[1]}"
socat=$DAEMON_PID
trap 'kill "$socat" 2>/dev/null || true' EXIT
trap '' PIPE  # A daemon that has gone is noticed when its socket is read.
holds=no

lost() { echo "lost $1"; exit 3; }

# ask ID METHOD sends a request about the lock.
ask() { echo "{\"id\":$1,\"method\":\"$2\",\"params\":{\"name\":\"$name\"}}" 1>&"$to" 2>/dev/null || true; }

# Reads lines until the reply to request $1 is there; leaves it in $line.
reply() {
  while IFS= read -r -u "$from" line; do
    case $line in
      *'"method":"lost"'*) [[ $line =~ \"reason\":\"([a-z_]+)\" ]]; lost "${BASH_REMATCH[1]}" ;;
      *"\"id\":$1,"*'"reason":"lost"'*) [[ $line =~ \"lost\":\"([a-z_]+)\" ]]; lost "${BASH_REMATCH[1]}" ;;
      # A connection that the daemon refuses is told so with a null id.
      *"\"id\":$1,"*'"error":'* | *'"id":null,"error":'*) echo "$line" >&2; exit 1 ;;
      *"\"id\":$1,"*) return ;;
    esac
  done
  if [ "$holds" = yes ]; then lost connection_ended; fi  # Locks end with the connection.
  echo "the daemon closed the connection" >&2
  exit 1
}

ask 1 acquire
reply 1
[[ $line =~ \"token\":([0-9]+) ]]
holds=yes
echo "acquired ${BASH_REMATCH[1]}"

# Work, and look at the socket meanwhile: bash cannot wait for two things at once, so it looks twice a second.
while true; do
  status=0
  read -r -t 0.5 || status=$?
  [ "$status" -eq 0 ] || [ "$status" -gt 128 ] || break  # Above 128 is the time limit, else the input has ended.
  if read -r -t 0 -u "$from"; then reply none; fi
done

ask 2 release
reply 2
echo "released"
