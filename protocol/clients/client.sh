#!/usr/bin/env bash
# Holds a lock until the input ends: client.sh SOCKET NAME. Needs socat.
set -euo pipefail
[ $# -eq 2 ] || { echo "usage: client.sh SOCKET NAME" >&2; exit 1; }

# The name as JSON text: backslash and quote are escaped; control characters are not supported here.
name=${2//\\/\\\\}
name=${name//\"/\\\"}

# When this script ends, in whatever way, socat's input ends, and -t0 makes it close the connection at once: the locks
# are free. A longer -t would keep the half-closed connection, and with it the locks.
coproc DAEMON { exec socat -t0 - "UNIX-CONNECT:$1"; }
exec {from}<&"${DAEMON[0]}" {to}>&"${DAEMON[1]}"
socat=$DAEMON_PID
trap 'kill "$socat" 2>/dev/null || true' EXIT

# Reads lines until the reply to request $1 is there; leaves it in $line.
reply() {
  while IFS= read -r -u "$from" line; do
    case $line in
      *'"method":"lost"'*) [[ $line =~ \"reason\":\"([a-z_]+)\" ]] && echo "lost ${BASH_REMATCH[1]}"; exit 3 ;;
      *"\"id\":$1,"*'"error":'*) echo "$line" >&2; exit 1 ;;
      *"\"id\":$1,"*) return ;;
    esac
  done
  echo "the daemon closed the connection" >&2
  exit 1
}

echo "{\"id\":1,\"method\":\"acquire\",\"params\":{\"name\":\"$name\"}}" >&"$to"
reply 1
[[ $line =~ \"token\":([0-9]+) ]]
echo "acquired ${BASH_REMATCH[1]}"

# Work, and look at the socket meanwhile: bash cannot wait for two things at once, so it looks twice a second.
while true; do
  status=0
  read -r -t 0.5 || status=$?
  [ "$status" -eq 0 ] || [ "$status" -gt 128 ] || break  # Above 128 is the time limit, else the input has ended.
  if read -r -t 0 -u "$from"; then reply none; fi
done

echo "{\"id\":2,\"method\":\"release\",\"params\":{\"name\":\"$name\"}}" >&"$to"
reply 2
echo "released"
