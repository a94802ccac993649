# bash opens no Unix sockets: by the same program as the client.
coproc REDIS { exec socat - "UNIX-CONNECT:$CYCLES_REDIS"; }
script='if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) else return 0 end'

ask() {
  local expected=$1 line word answer
  shift
  printf -v line '*%d\r\n' $#
  for word in "$@"; do printf -v word '$%d\r\n%s\r\n' "${#word}" "$word"; line+=$word; done
  printf '%s' "$line" >&"${REDIS[1]}"
  read -r answer <&"${REDIS[0]}"
  [ "$answer" = "$expected"$'\r' ]
}

read -r up _ </proc/uptime
end=$((${up/./} + CYCLES_SECONDS * 100)) count=0
while read -r up _ </proc/uptime && [ "${up/./}" -lt "$end" ]; do
  ask +OK SET raw mine NX PX 30000 || exit
  ask :1 EVAL "$script" 1 raw mine || exit
  count=$((count + 1))
done
echo "$count"
