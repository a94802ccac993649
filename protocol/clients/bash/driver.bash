#!/usr/bin/env bash
# The conformance suite's driver. See protocol/conformance/README.md. Its workers are owners on one connection: a wait is begun,
# and the program goes on reading commands.
set -u
# shellcheck source=protocol/clients/bash/sidelock.bash
. "$(dirname "${BASH_SOURCE[0]}")/sidelock.bash"

declare -A arguments=() leaves=() watches=() waits=() wait_labels=()
names=()

# say HEAD KEY VALUE…
say() {
  local LC_ALL=C line=$1 value encoded piece
  shift
  while [ $# -gt 1 ]; do
    value=$2 encoded=''
    while [ -n "$value" ]; do
      piece=${value%%[!a-zA-Z0-9/:,._-]*}
      encoded+=$piece
      value=${value:${#piece}}
      [ -n "$value" ] || break
      printf -v piece '%d' "'${value:0:1}"
      printf -v piece '%%%02X' $((piece & 255))
      encoded+=$piece
      value=${value:1}
    done
    line+=" $1=$encoded"
    shift 2
  done
  printf '%s\n' "$line"
}

# Reads "TAG VERB KEY=VALUE…" into tag, verb, arguments and names.
parse() {
  local LC_ALL=C word key value
  local -a words
  read -r -a words <<<"$1"
  tag=${words[0]} verb=${words[1]-} arguments=() names=()
  for word in "${words[@]:2}"; do
    key=${word%%=*} value=${word#*=}
    printf -v value '%b' "${value//%/\\x}"
    arguments[$key]=$value
    if [ "$key" = name ]; then names+=("$value"); fi
  done
}

on_lost() { say "event lost" lock "$1" name "$2" token "$3" reason "$4" grace_ms "$5"; }
on_waiting() { say "event waiting" lock "$1" position "$2"; }
on_contended() { say "event contended" lock "$1" waiters "$2"; }

# The command of each watch is this, with the suite's name for it.
on_event() {
  local watch=$1 fields=(kind "$2") member
  for member in "${@:3}"; do fields+=("${member%%=*}" "${member#*=}"); done
  say "event watch" watch "$watch" "${fields[@]}"
}

failed() {
  local fields=(type "${SIDELOCK_TYPE/not_held/error}" message "$SIDELOCK_MESSAGE")
  case $SIDELOCK_TYPE in
    busy | timeout) fields+=(holders "${#SIDELOCK_HOLDERS[@]}") ;;
    lost) fields+=(lost "$SIDELOCK_LOST") ;;
    under_replicated) fields+=(acknowledged "$SIDELOCK_ACKNOWLEDGED") ;;
  esac
  say "$1 error $SIDELOCK_REASON" "${fields[@]}"
}

seconds() { printf -v REPLY '%d.%03d' $(($1 / 1000)) $(($1 % 1000)); }

# The options of an acquire, in `options`.
collect() {
  options=(--as "${arguments[lock]}" --owner "worker-${arguments[worker]-0}" --on-lost on_lost)
  if [ -n "${arguments[wait]-}" ]; then seconds "${arguments[wait]}"; options+=(-w "$REPLY"); fi
  if [ -n "${arguments[max_hold]-}" ]; then seconds "${arguments[max_hold]}"; options+=(--max-hold "$REPLY"); fi
  if [ "${arguments[mode]-}" = shared ]; then options+=(-s); fi
  if [ -n "${arguments[permits]-}" ]; then options+=(--permits "${arguments[permits]}"); fi
  if [ -n "${arguments[replicas]-}" ]; then options+=(--replicas "${arguments[replicas]}"); fi
  if [ -n "${arguments[durability]-}" ]; then options+=(--durability "${arguments[durability]}"); fi
  if [ -n "${arguments[meta]-}" ]; then options+=(--meta "${arguments[meta]}"); fi
  if [ -n "${arguments[meta_bytes]-}" ]; then
    options+=(--meta "$(head -c "${arguments[meta_bytes]}" /dev/zero | tr '\0' x)")
  fi
  if [ -n "${arguments[progress]-}" ]; then options+=(--on-waiting on_waiting --on-contended on_contended); fi
}

# finished TAG: says how its wait ended.
finished() {
  local tag=$1 label=${wait_labels[$1]} id=${waits[$1]} first tokens='' index handle
  unset "wait_labels[$tag]"
  if sidelock_finish "$id"; then
    handle=${_sl_labels[_$label]}
    first=$((handle * 64))
    for ((index = first; index < first + _sl_count[handle]; index++)); do tokens+=",${_sl_token[index]}"; done
    sidelock_valid "$label"
    say "$tag ok" token "${tokens#,}" mode "${_sl_mode[handle]}" valid_ms "$REPLY"
  else
    failed "$tag"
  fi
}

body() {
  local label=$1
  if sidelock_token "$label"; then say "event entered" lock "$label" token "$REPLY"; fi
  while [ -z "${leaves[$label]-}" ]; do turn; done
  [ "${leaves[$label]}" = leave ] || return 77
}

write_number() { printf '%s' "$2" >"$1"; }

# So many workers, each an owner on the one connection.
cycles() {
  local file=${arguments[file]} name=${names[0]} cycles=${arguments[cycles]} count=${arguments[workers]} worker done_all=0 last=0 rising=1 number
  local -a turns=() ids=()
  write_number "$file" 0
  for ((worker = 1; worker <= count; worker++)); do
    sidelock_begin --as "cycle-$worker" --owner "cycle-$worker" "$name" || return
    turns[worker]=0 ids[worker]=$REPLY
  done
  while [ "$done_all" -lt "$count" ]; do
    for ((worker = 1; worker <= count; worker++)); do
      if [ -z "${ids[worker]-}" ] || ! sidelock_done "${ids[worker]}"; then continue; fi
      sidelock_finish "${ids[worker]}" || return
      read -r number <"$file" || true
      write_number "$file" $((number + 1))
      if [ "$SIDELOCK_TOKEN" -le "$last" ]; then rising=0; fi
      last=$SIDELOCK_TOKEN
      sidelock_release "cycle-$worker" || return
      turns[worker]=$((turns[worker] + 1)) ids[worker]=''
      if [ "${turns[worker]}" -eq "$cycles" ]; then done_all=$((done_all + 1)); continue; fi
      sidelock_begin --as "cycle-$worker" --owner "cycle-$worker" "$name" || return
      ids[worker]=$REPLY
    done
    [ "$done_all" -eq "$count" ] || turn
  done
  fields=(rising "$rising")
}

fork_child() {
  local lock=${arguments[lock]} name=${names[0]} held=0 release='' acquired=0 again=0 exits=${arguments[exit]-}
  local theirs=${_sl_name[${_sl_labels[_$lock]} * 64]}
  (
    if sidelock_held "$lock"; then held=1; fi
    sidelock_release "$lock" || release=$SIDELOCK_REASON
    if sidelock_acquire -n --as mine "$name"; then acquired=1; fi
    if sidelock_acquire -n --as theirs "$theirs"; then again=1; fi
    say "event child" held "$held" release "$release" acquired "$acquired" again "$again"
    if [ -n "$exits" ]; then exit 0; fi
    while true; do read -r -t 3600 -u "$never" || true; done
  ) </dev/null &
  fields=(pid "$!")
}

# Does what is to be answered at once; leaves what to say in `fields`.
act() {
  local label=${arguments[lock]-} options=()
  fields=()
  case $verb in
    noop) ;;
    path) sidelock_socket_path; fields=(path "$REPLY") ;;
    open) sidelock_open "${arguments[path]-}" "${arguments[answer_ms]-5000}" ;;
    close) sidelock_close ;;
    session) sidelock_session || return; fields=(session "$REPLY") ;;
    leave) leaves[$label]=leave; if [ -n "${arguments[fail]-}" ]; then leaves[$label]=fail; fi ;;
    release) sidelock_release "$label" || return ;;
    held)
      fields=(held 0)
      if sidelock_held "$label"; then fields=(held 1); fi
      if sidelock_valid "$label"; then fields+=(valid_ms "$REPLY"); fi
      if sidelock_loss "$label"; then fields+=(lost "$REPLY"); fi
      ;;
    scope)
      collect
      local tag_of_scope=$tag status=0
      sidelock_with "${options[@]}" "${names[@]}" -- body "$label" || status=$?
      tag=$tag_of_scope fields=()
      return "$status"
      ;;
    cancel) sidelock_cancel "${waits[${arguments[target]}]}" ;;
    downgrade) sidelock_downgrade "$label" || return ;;
    extend)
      REPLY=none
      if [ "${arguments[max_hold]}" != none ]; then seconds "${arguments[max_hold]}"; fi
      sidelock_extend "$label" "$REPLY" || return
      ;;
    transfer) sidelock_transfer "$label" "${arguments[session]}" || return ;;
    accept) accepted_as=$label; sidelock_accept on_transferred || return ;;
    watch)
      local kind=prefix text=${arguments[prefix]-} watch=${arguments[watch]}
      if [ "${#names[@]}" -gt 0 ]; then kind=name text=${names[0]}; fi
      # The command is a word: this one has the suite's name for the watch in its own.
      eval "event_of_$watch() { on_event $watch \"\$@\"; }"
      sidelock_watch "event_of_$watch" "$kind" "$text" || return
      watches[$watch]=$REPLY
      ;;
    unwatch) sidelock_unwatch "${watches[${arguments[watch]}]}" || return ;;
    spawn) sleep 60 >/dev/null & fields=(pid "$!") ;;
    fork) fork_child ;;
    cycles) local tag_of_cycles=$tag; cycles || { tag=$tag_of_cycles; return 2; }; tag=$tag_of_cycles ;;
  esac
}

# The suite has another label for what is transferred.
on_transferred() {
  _sl_labels[_$accepted_as]=${_sl_labels[_$1]}
  _sl_label[${_sl_labels[_$1]}]=$accepted_as
  sidelock_on_lost "$accepted_as" on_lost
  say "event transferred" lock "$accepted_as" name "$2" token "$3"
}

answer() {
  local fields=() tag verb status=0
  parse "$1"
  if [ "$verb" = acquire ]; then
    local options=()
    collect
    if sidelock_begin "${options[@]}" "${names[@]}"; then
      waits[$tag]=$REPLY wait_labels[$tag]=${arguments[lock]}
      # What limits the wait when the daemon hangs is in sidelock_finish; a limited wait is short, and is waited out.
      if [ -n "${arguments[wait]-}" ]; then finished "$tag"; fi
    else
      failed "$tag"
    fi
    return
  fi
  act || status=$?
  if [ "$status" -eq 0 ]; then
    say "$tag ok" ${fields[@]+"${fields[@]}"}
  elif [ "$status" -eq 77 ]; then
    say "$tag error body"
  else
    failed "$tag"
  fi
}

# Waits for a command, or for the daemon.
turn() {
  local tag piece
  for tag in ${wait_labels[@]+"${!wait_labels[@]}"}; do
    if sidelock_done "${waits[$tag]}"; then finished "$tag"; fi
  done
  if read -r -t 0; then
    if IFS= read -r piece; then
      answer "$piece"
    else
      sidelock_close
      exit 0
    fi
    return
  fi
  sidelock_pump 0.005
  if [ -n "$_sl_ended" ]; then IFS= read -r -t 0.005 -u "$never" || true; fi
}

trap : USR1
exec {never}<> <(:)
say "driver 1" language bash features fork,slow
while true; do turn; done
