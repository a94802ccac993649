# Locks over processes and hosts, from the sidelockd of this host, for bash 4.2 and later: source it. Needs socat. See README.md.
# shellcheck shell=bash disable=SC2034,SC1003
#
# One connection, through a coprocess, without threads: what the daemon says is read whenever a lock is looked at, and while a
# function waits in here. Functions leave their result in REPLY, and what went wrong in SIDELOCK_…. All that begins with _sl is
# not for users.

_sl_line_bytes_max=65536
_sl_holds_told_max=64 # Of more holds a ping does not say how long they are valid.
_sl_path='' _sl_patience_ms=5000 _sl_accept=''
_sl_pid='' _sl_ended=1 _sl_from='' _sl_keep='' _sl_socat='' _sl_rest='' _sl_session='' _sl_lease_ms='' _sl_fault='' _sl_told=0
_sl_last=0 _sl_handles=0 _sl_ping='' _sl_no_ping_before=0 _sl_field='' _sl_number=''
_sl_calls=()
# By handle, a number for each lock; names and tokens by handle * 64 and which one it is.
declare -gA _sl_labels=()
_sl_state=() _sl_count=() _sl_mode=() _sl_deadline=() _sl_span=() _sl_loss=() _sl_label=() _sl_on_lost=() _sl_on_waiting=() _sl_on_contended=()
_sl_name=() _sl_token=() _sl_has=()
# By the id of a request that is not done with.
_sl_method=() _sl_of=() _sl_index=() _sl_sent=() _sl_answer=() _sl_error=() _sl_abandoned=() _sl_limit=() _sl_value=()
# By the number of a watch.
_sl_watches=()
# The members of the line that was read last: j/result/token=5.
declare -gA _sl_j=()

SIDELOCK_REASON='' SIDELOCK_TYPE='' SIDELOCK_MESSAGE='' SIDELOCK_LOST='' SIDELOCK_ACKNOWLEDGED='' SIDELOCK_TOKEN='' SIDELOCK_RESULT=''
SIDELOCK_HOLDERS=()

# Where the daemon listens: what sidelock_open was given, $SIDELOCK_SOCKET, the user's own daemon if there is one, the system's.
sidelock_socket_path() {
  local own=${XDG_RUNTIME_DIR-}/sidelock/sidelock.sock
  if [ -n "$_sl_path" ]; then
    REPLY=$_sl_path
  elif [ -n "${SIDELOCK_SOCKET-}" ]; then
    REPLY=$SIDELOCK_SOCKET
  elif [ -n "${XDG_RUNTIME_DIR-}" ] && [ -e "$own" ]; then
    REPLY=$own
  else
    REPLY=/run/sidelock/sidelock.sock
  fi
}

# sidelock_open [PATH [PATIENCE_MS]]: for another socket, and for a daemon that may leave a request unanswered for so long
# beyond what was to be waited (5000). Gives back what is held.
sidelock_open() {
  sidelock_close
  _sl_path=${1-} _sl_patience_ms=${2:-5000}
}

# sidelock_acquire [OPTIONS] [--] NAME...: takes a lock, or several, all or none. Its label, by which the other functions know it,
# is the first name unless told. SIDELOCK_TOKEN is the fencing token of the first name: pass it along with every write.
#   -w, --wait SECONDS    how long to wait; without it no limit
#   -n                    a try, as -w 0
#   -s, --shared          shares the lock
#   --permits N           one permit of a semaphore of so many
#   --max-hold SECONDS    the hold ends after this time
#   --as LABEL            its label
#   --owner NAME          gets at once what it holds
#   --meta NOTE           a note that others see
#   --replicas N          how many replicas of Redis have to have the lease
#   --durability PLACE    where they and the primary have to have it: memory or disk
#   --on-lost COMMAND     called with the label, name, token, reason and grace_ms, when the loss is read
#   --on-waiting COMMAND  called with the label and the place in the queue
#   --on-contended COMMAND  called with the label and how many wait
# Fails with 1 where the lock is in use, 3 where it is lost, and 2 for all else: see SIDELOCK_REASON and SIDELOCK_MESSAGE.
sidelock_acquire() {
  sidelock_begin "$@" || return
  sidelock_finish "$REPLY"
}

# The same in two steps, for loops of the program's own: begins to wait, and gives the wait's number.
sidelock_begin() {
  local handle params='' label='' has_label='' limit='' progress='' on_lost='' on_waiting='' on_contended='' names=() name
  _sl_clear
  while [ $# -gt 0 ]; do
    case $1 in
      -n) limit=0 params+=',"wait_ms":0'; shift; continue ;;
      -s | --shared) params+=',"mode":"shared"'; shift; continue ;;
      --) shift; break ;;
      -*) if [ $# -lt 2 ]; then _sl_fail invalid_params "$1 needs a value"; return 2; fi ;;
      *) break ;;
    esac
    case $1 in
      -w | --wait) _sl_milliseconds "$2" || return; limit=$REPLY params+=",\"wait_ms\":$REPLY" ;;
      --max-hold) _sl_milliseconds "$2" || return; params+=",\"max_hold_ms\":$REPLY" ;;
      --permits | --replicas) _sl_whole "$2" || return; params+=",\"${1#--}\":$REPLY" ;;
      --owner | --meta | --durability) _sl_quote "$2" || return; params+=",\"${1#--}\":$REPLY" ;;
      --as) label=$2 has_label=1 ;;
      --on-lost) on_lost=$2 ;;
      --on-waiting) on_waiting=$2 progress=1 ;;
      --on-contended) on_contended=$2 progress=1 ;;
      *) _sl_fail invalid_params "there is no option $1"; return 2 ;;
    esac
    shift 2
  done
  if [ $# -eq 0 ] || [ $# -gt 64 ]; then _sl_fail invalid_params "name 1 to 64 locks"; return 2; fi
  for name in "$@"; do
    _sl_quote "$name" || return
    names+=("$REPLY")
  done
  if [ $# -eq 1 ]; then
    params="\"name\":${names[0]}$params"
  else
    printf -v name '%s,' "${names[@]}"
    params="\"names\":[${name%,}]$params"
  fi
  [ -z "$progress" ] || params+=',"progress":true'
  [ -n "$has_label" ] || label=$1
  _sl_connected || return
  _sl_tell
  handle=${_sl_labels[_$label]-}
  if [ -n "$handle" ] && [[ ${_sl_state[handle]} = waiting || ${_sl_state[handle]} = held ]]; then
    _sl_fail invalid_params "there is a lock with the label $label already"
    return 2
  fi
  if [ -n "$handle" ]; then _sl_give_back "$handle"; else handle=$((_sl_handles += 1)); fi
  _sl_labels[_$label]=$handle
  _sl_new "$handle" "$label" "$@"
  _sl_on_lost[handle]=$on_lost _sl_on_waiting[handle]=$on_waiting _sl_on_contended[handle]=$on_contended
  _sl_start acquire "{$params}" "$handle"
  _sl_limit[REPLY]=$limit
}

# Whether a wait is decided; sidelock_finish does not wait then.
sidelock_done() { [ -z "${_sl_method[$1]-}" ] || [ -n "${_sl_answer[$1]-}" ]; }

# Waits for the end of a wait that was begun: fails as sidelock_acquire does.
sidelock_finish() {
  local id=$1 handle=${_sl_of[$1]-} status=0
  if [ -z "$handle" ]; then _sl_fail invalid_params "there is no wait $id"; return 2; fi
  _sl_finish "$id" "${_sl_limit[id]}" || status=$?
  if [ "$status" -eq 0 ]; then
    SIDELOCK_TOKEN=${_sl_token[handle * 64]}
  elif [ "${_sl_state[handle]}" = waiting ]; then
    # A lock that is granted late is given back by what is kept of the request.
    _sl_state[handle]=released
  fi
  _sl_tell
  return "$status"
}

# Withdraws a wait, which ends as cancelled. A lock that is granted meanwhile is given back.
sidelock_cancel() {
  local id=$1
  [ -n "${_sl_method[id]-}" ] && [ -z "${_sl_answer[id]-}" ] || return 0
  _sl_abandon "$id"
  _sl_abandoned[id]=kept # for who has yet to hear of it
  printf -v '_sl_error[id]' '%q ' cancelled "the wait was withdrawn" '' ''
  _sl_answer[id]=error
}

# sidelock_with [OPTIONS] NAME... -- COMMAND...: runs a command or a function while the lock is held. Its status is that of the
# command, or as of sidelock_acquire; 3 where the lock was lost meanwhile and the command did not fail.
sidelock_with() {
  local options=() status=0 label
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  if [ $# -lt 2 ]; then _sl_clear; _sl_fail invalid_params "name a command, behind --"; return 2; fi
  shift
  sidelock_begin "${options[@]}" || return
  label=${_sl_label[${_sl_of[REPLY]}]}
  sidelock_finish "$REPLY" || return
  "$@" || status=$?
  local handle=${_sl_labels[_$label]-}
  if [ -n "$handle" ] && [[ ${_sl_state[handle]} = held || ${_sl_state[handle]} = lost ]]; then
    sidelock_release "$label" || [ "$status" -ne 0 ] || status=$?
  fi
  return "$status"
}

# sidelock_release LABEL: gives the lock back. Fails with 3 if it was lost before.
sidelock_release() {
  local handle index id ids=() failed='' status=0
  _sl_look "$1" || return
  handle=$REPLY
  if [[ ${_sl_state[handle]} != held && ${_sl_state[handle]} != lost ]]; then _sl_not_held "$1"; return 2; fi
  if [ -z "$_sl_ended" ]; then
    for ((index = handle * 64; index < handle * 64 + _sl_count[handle]; index++)); do
      [ -n "${_sl_has[index]}" ] || continue
      _sl_start_release "$handle" "$index"
      ids+=("$REPLY")
    done
    for id in ${ids[@]+"${ids[@]}"}; do
      if ! _sl_finish "$id" 0 && [ -z "$failed" ]; then failed=$REPLY; fi
    done
    for ((index = handle * 64; index < handle * 64 + _sl_count[handle]; index++)); do _sl_has[index]=''; done
  fi
  _sl_state[handle]=released
  if [ -n "${_sl_loss[handle]-}" ]; then
    _sl_raise_loss "$handle" || status=$?
  elif [ -n "$failed" ]; then
    eval "_sl_raise $failed" || status=$?
  else
    _sl_clear
  fi
  _sl_tell
  return "$status"
}

# sidelock_held LABEL: whether it is held, by all that the daemon has said.
sidelock_held() { _sl_look "$1" && [ "${_sl_state[REPLY]}" = held ]; }

# sidelock_check LABEL: fails with 3 if the lock was lost, and 2 if it is not held.
sidelock_check() {
  local handle
  _sl_look "$1" || return
  handle=$REPLY
  if [ -n "${_sl_loss[handle]-}" ]; then
    _sl_raise_loss "$handle"
  elif [ "${_sl_state[handle]}" != held ]; then
    _sl_not_held "$1"
  fi
}

# sidelock_token LABEL [NAME]: the fencing token, of the first or of another name. Fails as sidelock_check does.
sidelock_token() {
  local handle index
  sidelock_check "$1" || return
  handle=${_sl_labels[_$1]}
  REPLY=${_sl_token[handle * 64]}
  for ((index = handle * 64; index < handle * 64 + _sl_count[handle]; index++)); do
    if [ "${_sl_name[index]}" = "${2-}" ]; then REPLY=${_sl_token[index]}; fi
  done
}

# sidelock_loss LABEL: the reason of its loss; fails where it was not lost.
sidelock_loss() {
  _sl_look "$1" || return
  REPLY=${_sl_loss[REPLY]-}
  [ -n "$REPLY" ] || return 1
  eval "set -- $REPLY"
  REPLY=$3
}

# sidelock_valid LABEL: for how many milliseconds from now the hold is good for certain; "none": it does not end by itself.
sidelock_valid() {
  local handle
  _sl_look "$1" || return
  handle=$REPLY
  if [ "${_sl_state[handle]}" != held ]; then REPLY=0; return; fi
  if [ -z "${_sl_deadline[handle]}" ]; then REPLY=none; return; fi
  _sl_now
  # The clock tells hundredths, rounded down.
  REPLY=$((_sl_deadline[handle] - REPLY - 10))
  if [ "$REPLY" -lt 0 ]; then REPLY=0; fi
}

# sidelock_downgrade LABEL: shares from now on what was held alone.
sidelock_downgrade() {
  _sl_of_one downgrade "$1" '' || return
  _sl_mode[${_sl_labels[_$1]}]=shared
}

# sidelock_extend LABEL SECONDS: sets anew after what time from now the hold ends; "none": it does not.
sidelock_extend() {
  REPLY=null
  if [ "$2" != none ]; then _sl_milliseconds "$2" || return; fi
  _sl_of_one extend "$1" ",\"max_hold_ms\":$REPLY"
}

# sidelock_transfer LABEL SESSION: hands the lock to another session of this host, which must have asked for it.
sidelock_transfer() {
  local handle
  _sl_quote "$2" || return
  _sl_of_one transfer "$1" ",\"session\":$REPLY" || return
  handle=${_sl_labels[_$1]}
  _sl_has[handle * 64]='' _sl_state[handle]=released
}

# sidelock_watch COMMAND name|prefix TEXT: events of a lock, or of all whose name begins alike. The command gets the kind and the
# event's members, KEY=VALUE each; the last one is of the kind "ended". Gives the number of the watch.
sidelock_watch() {
  local id
  if [[ $2 != name && $2 != prefix ]]; then _sl_clear; _sl_fail invalid_params "watch a name or a prefix"; return 2; fi
  _sl_quote "$3" || return
  local quoted=$REPLY
  _sl_connected || return
  _sl_start watch "{\"$2\":$quoted}"
  id=$REPLY
  _sl_value[id]=$1
  _sl_finish "$id" 0 || return
  _sl_tell
  REPLY=$_sl_number
}

# sidelock_unwatch NUMBER: no more events come.
sidelock_unwatch() {
  [ -n "${_sl_watches[$1]-}" ] || return 0
  unset "_sl_watches[$(($1))]"
  sidelock_call unwatch "{\"watch\":$1}"
}

# The daemon's name for this shell; others transfer locks to it.
sidelock_session() {
  _sl_connected || return
  REPLY=$_sl_session
}

# sidelock_accept COMMAND: from now on others may hand over locks. The command gets the label that each has here, and its name.
sidelock_accept() {
  _sl_accept=$1
  _sl_connected || return
  sidelock_call initialize '{"accept_transfers":true}'
}

# sidelock_call METHOD [PARAMS]: any method of the protocol. The parameters are a JSON object on one line; SIDELOCK_RESULT is the
# whole line that answers.
sidelock_call() {
  _sl_connected || return
  _sl_start "$1" "${2:-"{}"}"
  _sl_value[REPLY]=keep
  _sl_finish "$REPLY" 0 || return
  _sl_tell
}

# sidelock_pump [SECONDS]: reads what has come, and waits so long for something to come; for loops of the program's own.
sidelock_pump() {
  _sl_milliseconds "${1:-0}" || return
  _sl_mine
  if [ -z "$_sl_ended" ]; then _sl_pump "$REPLY"; fi
  _sl_tell
}

# Gives everything back.
sidelock_close() {
  _sl_mine
  if [ -z "$_sl_ended" ]; then _sl_end; fi
  _sl_tell
}

# Text and time

# Milliseconds on a clock that nobody sets, and that goes on while the machine is suspended.
_sl_now() {
  local up _
  read -r up _ </proc/uptime
  REPLY=${up/./}0
}

# Seconds, with a fraction or without, as milliseconds; rounded up, so that a short wait is no try.
_sl_milliseconds() {
  local whole fraction padded
  if ! [[ $1 =~ ^[0-9]{1,9}(\.[0-9]*)?$|^\.[0-9]+$ ]]; then _sl_clear; _sl_fail invalid_params "no time in seconds: $1"; return 2; fi
  whole=${1%%.*} fraction=''
  if [[ $1 == *.* ]]; then fraction=${1#*.}; fi
  padded=${fraction}000
  REPLY=$((10#${whole:-0} * 1000 + 10#${padded:0:3}))
  if [[ ${fraction:3} == *[1-9]* ]]; then REPLY=$((REPLY + 1)); fi
}

_sl_whole() {
  if ! [[ $1 =~ ^[0-9]{1,15}$ ]]; then _sl_clear; _sl_fail invalid_params "no number: $1"; return 2; fi
  REPLY=$((10#$1))
}

# Text as JSON. The daemon takes nothing but UTF-8, and could not say which request it was.
_sl_quote() {
  local LC_ALL=C text=$1
  if [ "${#text}" -gt "$_sl_line_bytes_max" ]; then
    _sl_clear
    _sl_fail limit "the request is longer than a line of the daemon"
    return 2
  fi
  local code byte escape backslash='\' quote='"' more=$'[\x80-\xbf]' valid
  if [[ $text == *[$'\x80'-$'\xff']* ]]; then
    valid=$'[\x01-\x7f]|[\xc2-\xdf]'$more$'|\xe0[\xa0-\xbf]'$more$'|[\xe1-\xec\xee\xef]'$more$more$'|\xed[\x80-\x9f]'$more
    valid+=$'|\xf0[\x90-\xbf]'$more$more$'|[\xf1-\xf3]'$more$more$more$'|\xf4[\x80-\x8f]'$more$more
    if ! [[ $text =~ ^($valid)*$ ]]; then
      _sl_clear
      _sl_fail invalid_params "text for the daemon is UTF-8"
      return 2
    fi
  fi
  text=${text//"$backslash"/"$backslash$backslash"}
  text=${text//"$quote"/"$backslash$quote"}
  if [[ $text == *[$'\x01'-$'\x1f']* ]]; then
    for ((code = 1; code < 32; code++)); do
      printf -v byte '\\x%02x' "$code"
      printf -v byte '%b' "$byte"
      printf -v escape '%su%04x' "$backslash" "$code"
      text=${text//"$byte"/"$escape"}
    done
  fi
  REPLY="\"$text\""
}

# Takes a text out of `rest`, behind its first quote, into `text`.
_sl_text() {
  local piece code low
  text=''
  while true; do
    piece=${rest%%[\"\\]*}
    text+=$piece
    rest=${rest:${#piece}}
    case $rest in
      '"'*) rest=${rest:1}; return 0 ;;
      '\u'[0-9a-fA-F][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F]*)
        code=$((16#${rest:2:4}))
        rest=${rest:6}
        if ((code >= 0xD800 && code < 0xDC00)) && [[ $rest == '\u'[dD][c-fC-F][0-9a-fA-F][0-9a-fA-F]* ]]; then
          low=$((16#${rest:2:4}))
          rest=${rest:6}
          code=$((0x10000 + (code - 0xD800) * 0x400 + low - 0xDC00))
        fi
        # No text of bash has a zero in it, and the daemon sends none that matters.
        if ((code == 0)); then code=65533; fi
        if ((code < 0x80)); then
          printf -v piece '\\x%x' "$code"
        elif ((code < 0x800)); then
          printf -v piece '\\x%x\\x%x' $((0xC0 | code >> 6)) $((0x80 | code & 63))
        elif ((code < 0x10000)); then
          printf -v piece '\\x%x\\x%x\\x%x' $((0xE0 | code >> 12)) $((0x80 | code >> 6 & 63)) $((0x80 | code & 63))
        else
          printf -v piece '\\x%x\\x%x\\x%x\\x%x' $((0xF0 | code >> 18)) $((0x80 | code >> 12 & 63)) $((0x80 | code >> 6 & 63)) \
            $((0x80 | code & 63))
        fi
        printf -v piece '%b' "$piece"
        text+=$piece
        ;;
      '\'[bfnrt]*) printf -v piece '%b' "${rest:0:2}"; text+=$piece rest=${rest:2} ;;
      '\'[\"\\/]*) text+=${rest:1:1} rest=${rest:2} ;;
      *) return 1 ;;
    esac
  done
}

# Reads a JSON object into _sl_j. Fails where it is none.
_sl_parse() {
  local LC_ALL=C rest=$1 path=j text depth=0 paths=() kinds=() counts=()
  _sl_j=()
  while true; do
    # A value
    [[ $rest != [$' \t\r']* ]] || rest=${rest#"${rest%%[! $'\t\r']*}"}
    case $rest in
      '{'* | '['*)
        if ((depth > 64)); then return 1; fi
        depth=$((depth + 1))
        paths[depth]=$path kinds[depth]=${rest:0:1} counts[depth]=0
        _sl_j[$path]=${rest:0:1}
        rest=${rest:1}
        [[ $rest != [$' \t\r']* ]] || rest=${rest#"${rest%%[! $'\t\r']*}"}
        case ${kinds[depth]}$rest in
          '{}'* | '[]'*) _sl_j[$path/count]=0 ;;
          *) _sl_member || return 1; continue ;;
        esac
        ;;
      '"'*)
        rest=${rest:1}
        _sl_text || return 1
        _sl_j[$path]=$text
        ;;
      *)
        text=${rest%%[],\} $'\t\r']*}
        case $text in
          -[0-9]* | [0-9]* | true | false | null) _sl_j[$path]=$text ;;
          *) return 1 ;;
        esac
        rest=${rest:${#text}}
        ;;
    esac
    # What comes behind it
    while true; do
      [[ $rest != [$' \t\r']* ]] || rest=${rest#"${rest%%[! $'\t\r']*}"}
      if ((depth == 0)); then [ -z "$rest" ] && [ "${_sl_j[j]}" = '{' ]; return; fi
      case ${kinds[depth]}$rest in
        '{,'* | '[,'*) rest=${rest:1}; _sl_member || return 1; break ;;
        '{}'* | '[]'*)
          _sl_j[${paths[depth]}/count]=${counts[depth]}
          depth=$((depth - 1))
          rest=${rest:1}
          ;;
        *) return 1 ;;
      esac
    done
  done
}

# Sets `path` to that of the next member or item.
_sl_member() {
  if [ "${kinds[depth]}" = '{' ]; then
    [[ $rest != [$' \t\r']* ]] || rest=${rest#"${rest%%[! $'\t\r']*}"}
    [[ $rest == '"'* ]] || return 1
    rest=${rest:1}
    _sl_text || return 1
    [[ $rest != [$' \t\r']* ]] || rest=${rest#"${rest%%[! $'\t\r']*}"}
    [[ $rest == ':'* ]] || return 1
    rest=${rest:1}
    # No member that means anything has a slash in its name.
    path=${paths[depth]}/${text//\//?}
  else
    path=${paths[depth]}/${counts[depth]}
    counts[depth]=$((counts[depth] + 1))
  fi
}

# Errors

_sl_clear() { SIDELOCK_REASON='' SIDELOCK_TYPE='' SIDELOCK_MESSAGE='' SIDELOCK_LOST='' SIDELOCK_ACKNOWLEDGED='' SIDELOCK_HOLDERS=(); }

# _sl_raise REASON MESSAGE LOST ACKNOWLEDGED HOLDER...: fails with the status for it.
_sl_raise() {
  SIDELOCK_REASON=${1:-unknown} SIDELOCK_MESSAGE=$2 SIDELOCK_LOST=$3 SIDELOCK_ACKNOWLEDGED=$4
  SIDELOCK_HOLDERS=("${@:5}")
  case $1 in
    busy | timeout | cancelled | deadlock | under_replicated | not_held | lost | denied) SIDELOCK_TYPE=$1 ;;
    permission) SIDELOCK_TYPE=denied ;;
    unavailable | shutting_down | no_daemon | no_answer | connection_lost) SIDELOCK_TYPE=unavailable ;;
    *) SIDELOCK_TYPE=error ;;
  esac
  case $1 in
    busy | timeout) return 1 ;;
    lost) return 3 ;;
    *) return 2 ;;
  esac
}

_sl_fail() { _sl_raise "$1" "$2" '' '' || true; }

_sl_not_held() { _sl_raise not_held "lock $1 is not held here" '' ''; }

_sl_raise_loss() {
  eval "set -- ${_sl_loss[$1]}"
  _sl_raise lost "lock $1 is lost: ${5:-$3}" "$3" ''
}

# The error of the line that was read, as arguments of _sl_raise.
_sl_refusal() {
  local data=j/error/data message reason lost='' acknowledged='' index key value holder holders=()
  message=${_sl_j[j/error/message]:-the daemon gave no message}
  reason=${_sl_j[$data/reason]-}
  if [ -n "${_sl_j[$data/detail]-}" ]; then message+=": ${_sl_j[$data/detail]}"; fi
  if [ "$reason" = lost ]; then lost=${_sl_j[$data/lost]-}; fi
  if [ "$reason" = under_replicated ]; then
    acknowledged=${_sl_j[$data/acknowledged]-0}
    [[ $acknowledged =~ ^[0-9]+$ ]] || acknowledged=0
  fi
  for ((index = 0; index < ${_sl_j[$data/holders/count]:-0}; index++)); do
    holder=''
    for key in host session pid uid command unit mode owner meta token held_ms foreign dead; do
      value=${_sl_j[$data/holders/$index/$key]-}
      if [ -n "$value" ]; then holder+="${holder:+$'\t'}$key=${value//[[:cntrl:]]/?}"; fi
    done
    holders+=("$holder")
  done
  printf -v REPLY '%q ' "$reason" "$message" "$lost" "$acknowledged" ${holders[@]+"${holders[@]}"}
}

# Locks

# _sl_new HANDLE LABEL NAME...
_sl_new() {
  local handle=$1 index=0
  _sl_label[handle]=$2 _sl_state[handle]=waiting _sl_mode[handle]='' _sl_deadline[handle]='' _sl_span[handle]=0 _sl_loss[handle]=''
  _sl_on_lost[handle]='' _sl_on_waiting[handle]='' _sl_on_contended[handle]=''
  shift 2
  _sl_count[handle]=$#
  for ((index = handle * 64; $# > 0; index++)); do
    _sl_name[index]=$1 _sl_token[index]='' _sl_has[index]=''
    shift
  done
}

# The lock of that label, when what has come was read.
_sl_look() {
  _sl_clear
  _sl_mine
  if [ -z "$_sl_ended" ]; then _sl_pump 0; fi
  _sl_tell
  REPLY=${_sl_labels[_$1]-}
  if [ -z "$REPLY" ]; then _sl_not_held "$1"; return 2; fi
}

# _sl_of_one METHOD LABEL MEMBERS
_sl_of_one() {
  local handle status=0
  sidelock_check "$2" || return
  handle=${_sl_labels[_$2]}
  if [ "${_sl_count[handle]}" -ne 1 ]; then _sl_fail invalid_params "$1 is for one lock at a time"; return 2; fi
  _sl_quote "${_sl_name[handle * 64]}"
  _sl_start "$1" "{\"name\":$REPLY,\"token\":${_sl_token[handle * 64]}$3}"
  _sl_finish "$REPLY" 0 || status=$?
  if [ "$status" -ne 0 ] && [ -n "${_sl_loss[handle]}" ]; then _sl_raise_loss "$handle" || status=$?; fi
  _sl_tell
  return "$status"
}

_sl_start_release() {
  _sl_quote "${_sl_name[$2]}"
  _sl_start release "{\"name\":$REPLY,\"token\":${_sl_token[$2]}}" "$1"
  _sl_index[REPLY]=$2
}

# Releases what is held, and waits for no answer.
_sl_give_back() {
  local handle=$1 index
  for ((index = handle * 64; index < handle * 64 + _sl_count[handle]; index++)); do
    [ -n "${_sl_has[index]}" ] || continue
    _sl_start_release "$handle" "$index"
    _sl_abandoned[REPLY]=1 _sl_of[REPLY]=''
    _sl_has[index]=''
  done
  if [ "${_sl_state[handle]}" = held ]; then _sl_state[handle]=released; fi
}

# _sl_lose HANDLE NAME TOKEN REASON GRACE_MS DETAIL
_sl_lose() {
  local handle=$1
  [ "${_sl_state[handle]}" = held ] || return 0
  _sl_state[handle]=lost
  printf -v '_sl_loss[handle]' '%q ' "${@:2}"
  _sl_call _sl_tell_loss "$handle" "${@:2:4}"
}

# Looked up when it is called: of a lock that was transferred it may be set only then.
_sl_tell_loss() { [ -z "${_sl_on_lost[$1]}" ] || "${_sl_on_lost[$1]}" "${_sl_label[$1]}" "${@:2}"; }

# The user's commands are called when nothing here is in the middle of anything.
_sl_call() {
  local text
  printf -v text '%q ' "$@"
  _sl_calls+=("$text")
}

_sl_tell() {
  local call kept=${REPLY-}
  while [ "${#_sl_calls[@]}" -gt 0 ]; do
    call=${_sl_calls[0]}
    _sl_calls=("${_sl_calls[@]:1}")
    eval "$call" || true
  done
  REPLY=$kept
}

# The connection

# In a subshell the connection is its parent's, which goes on using it, and so are the locks.
_sl_mine() {
  local handle
  [ "$_sl_pid" != "$BASHPID" ] || return 0
  if [ -n "$_sl_from" ]; then exec {_sl_from}<&- {_sl_keep}<&-; fi
  _sl_pid=$BASHPID _sl_ended=1 _sl_from='' _sl_keep='' _sl_rest='' _sl_ping='' _sl_calls=() _sl_watches=()
  _sl_method=() _sl_of=() _sl_answer=() _sl_error=() _sl_abandoned=()
  for handle in ${_sl_state[@]+"${!_sl_state[@]}"}; do _sl_state[handle]=released; done
}

_sl_connected() {
  local path params name
  _sl_clear
  _sl_mine
  if [ -z "$_sl_ended" ]; then _sl_pump 0; fi
  if [ -z "$_sl_ended" ]; then return; fi
  sidelock_socket_path
  path=$REPLY
  _sl_connect "$path"
  _sl_quote "${0##*/}" || REPLY='"bash"'
  name=$REPLY
  if [ "${#name}" -gt 100 ] || [ "$name" = '""' ]; then name='"bash"'; fi
  params="\"client\":{\"name\":$name},\"protocol\":1"
  if [ -n "$_sl_accept" ]; then params+=',"accept_transfers":true'; fi
  _sl_start initialize "{$params,\"lifetime\":\"process\"}"
  _sl_finish "$REPLY" 0 && return
  # The daemon may not see the process, as from a container.
  if [ "$SIDELOCK_REASON" = invalid_params ] && [ "$_sl_field" = lifetime ]; then
    _sl_start initialize "{$params}"
    _sl_finish "$REPLY" 0 && return
  fi
  _sl_escape "$path"
  if [ "$SIDELOCK_REASON" = connection_lost ] && [ "$_sl_told" -eq 0 ] && ! socat -u /dev/null "UNIX-CONNECT:$REPLY" 2>/dev/null; then
    _sl_fail no_daemon "no daemon at $path"
    if [ -e "$path" ] && [ ! -w "$path" ]; then _sl_fail permission "the permissions of $path keep this user out"; fi
    if ! command -v socat >/dev/null; then _sl_fail no_daemon "sidelock.bash needs socat"; fi
  fi
  if [ -z "$_sl_ended" ]; then _sl_end; fi
  return 2
}

# A path as socat takes it.
_sl_escape() {
  local path=$1 index LC_ALL=C
  REPLY=''
  for ((index = 0; index < ${#path}; index++)); do
    case ${path:index:1} in
      [a-zA-Z0-9/._-]) ;;
      *) REPLY+='\' ;;
    esac
    REPLY+=${path:index:1}
  done
}

# What the coprocess does: _sl_carry ADDRESS. It keeps nothing open that this shell has open, and gets no signals of the terminal.
_sl_carry() {
  local fd run=(socat)
  IFS= read -r _ || exit
  for fd in /proc/self/fd/*; do
    fd=${fd##*/}
    if [ "$fd" -gt 2 ]; then eval "exec $fd>&-" || true; fi
  done
  # With job control it has a process group of its own already.
  case $- in *m*) ;; *) run=(setsid socat) ;; esac
  exec "${run[@]}" -t0 - "UNIX-CONNECT:$1"
}

_sl_connect() {
  _sl_escape "$1"
  # socat waits until all is prepared here: bash forgets a coprocess that has ended, with what it had said. When this shell ends,
  # in whatever way, so does socat's input, and -t0 makes it close the connection at once.
  { coproc SIDELOCK_SOCAT { _sl_carry "$REPLY"; }; } 2>/dev/null
  _sl_socat=$SIDELOCK_SOCAT_PID
  # Programs that this shell starts inherit what it reads from, but not what it writes to, which bash closes for them; so that
  # they keep no connection open. And with a reader here a socat that has gone costs no SIGPIPE.
  exec {_sl_from}<&"${SIDELOCK_SOCAT[0]}" {_sl_keep}<"/proc/self/fd/${SIDELOCK_SOCAT[1]}"
  # Whoever waits for all his children does not mean this one.
  disown "$_sl_socat" 2>/dev/null || true
  echo >&"${SIDELOCK_SOCAT[1]}"
  _sl_ended='' _sl_rest='' _sl_session='' _sl_lease_ms='' _sl_fault='' _sl_told=0 _sl_ping='' _sl_no_ping_before=0
}

# The connection has ended: whoever waits is told, and what was held is lost.
_sl_end() {
  local id handle index fault number
  kill "$_sl_socat" 2>/dev/null || true
  exec {_sl_from}<&- {_sl_keep}<&-
  _sl_ended=1 _sl_from='' _sl_keep='' _sl_ping=''
  for handle in ${_sl_state[@]+"${!_sl_state[@]}"}; do
    for ((index = handle * 64; index < handle * 64 + _sl_count[handle]; index++)); do
      [ -n "${_sl_has[index]}" ] || continue
      _sl_has[index]=''
      _sl_lose "$handle" "${_sl_name[index]}" "${_sl_token[index]}" connection_ended 0 ''
    done
  done
  for number in ${_sl_watches[@]+"${!_sl_watches[@]}"}; do _sl_call "${_sl_watches[number]}" ended; done
  _sl_watches=()
  fault=$_sl_fault
  [ -n "$fault" ] || printf -v fault '%q ' connection_lost "the connection to the daemon has ended" '' ''
  for id in ${_sl_method[@]+"${!_sl_method[@]}"}; do
    if [ "${_sl_abandoned[id]-}" = 1 ]; then
      _sl_drop "$id"
    elif [ -z "${_sl_answer[id]-}" ]; then
      _sl_error[id]=$fault _sl_answer[id]=error
    fi
  done
}

# _sl_start METHOD PARAMS [HANDLE]: sends a request, and gives its id.
_sl_start() {
  local id=$((_sl_last += 1)) LC_ALL=C line
  line="{\"id\":$id,\"method\":\"$1\",\"params\":$2}"
  _sl_method[id]=$1 _sl_of[id]=${3-} _sl_limit[id]=0 _sl_value[id]=''
  _sl_now
  _sl_sent[id]=$REPLY
  if [ "${#line}" -gt "$_sl_line_bytes_max" ]; then
    printf -v '_sl_error[id]' '%q ' limit "the request is longer than a line of the daemon" '' ''
    _sl_answer[id]=error
  else
    _sl_send "$line"
  fi
  REPLY=$id
}

_sl_send() {
  # When socat has ended, bash has closed this, and what was said is read to its end.
  if [ -n "${SIDELOCK_SOCAT[1]-}" ]; then { printf '%s\n' "$1" >&"${SIDELOCK_SOCAT[1]}"; } 2>/dev/null || true; fi
}

_sl_drop() { unset "_sl_method[$1]" "_sl_of[$1]" "_sl_index[$1]" "_sl_sent[$1]" "_sl_answer[$1]" "_sl_error[$1]" "_sl_abandoned[$1]" "_sl_limit[$1]" "_sl_value[$1]"; }

# Nobody waits for the answer any more: a wait is withdrawn, and a lock that is granted all the same given back.
_sl_abandon() {
  if [ -z "${_sl_answer[$1]-}" ] && [ -z "${_sl_abandoned[$1]-}" ]; then
    _sl_abandoned[$1]=1
    if [ "${_sl_method[$1]}" = release ]; then _sl_of[$1]=''; fi
    if [ "${_sl_method[$1]}" = acquire ]; then _sl_send "{\"method\":\"cancel\",\"params\":{\"id\":$1}}"; fi
  fi
}

# Waits for the answer to a request that may take so many ms ("": without limit) and what the daemon needs to answer. Where it
# fails, REPLY is what _sl_raise is to be given.
_sl_finish() {
  local id=$1 limit=$2 ping status=0
  [ -z "$limit" ] || limit=$((limit + _sl_patience_ms))
  until _sl_wait "$id" "$limit"; do
    # The time has long passed; a daemon that waits for Redis is waited for, one that hangs is not.
    _sl_start ping '{}'
    ping=$REPLY
    _sl_abandoned[ping]=1
    if ! _sl_wait "$ping" "$_sl_patience_ms" && [ -z "${_sl_answer[id]-}" ]; then
      _sl_abandon "$id"
      printf -v REPLY '%q ' no_answer "the daemon does not answer; it may hang" '' ''
      _sl_fail no_answer "the daemon does not answer; it may hang"
      return 2
    fi
    limit=$_sl_patience_ms
  done
  if [ "${_sl_answer[id]}" = error ]; then
    REPLY=${_sl_error[id]}
    eval "_sl_raise $REPLY" || status=$?
  elif [ "${_sl_value[id]}" = keep ]; then
    SIDELOCK_RESULT=${_sl_error[id]}
  fi
  # What is kept of an acquire that was cancelled gives the lock back when it is granted.
  if [ -z "${_sl_abandoned[id]-}" ]; then _sl_drop "$id"; else _sl_abandoned[id]=1; fi
  return "$status"
}

# Whether the request is answered within so many ms.
_sl_wait() {
  local id=$1 end='' left=3600000
  if [ -n "$2" ]; then
    _sl_now
    end=$((REPLY + $2))
  fi
  while [ -n "${_sl_method[id]-}" ] && [ -z "${_sl_answer[id]-}" ]; do
    if [ -n "$end" ]; then
      _sl_now
      left=$((end - REPLY))
      [ "$left" -gt 0 ] || return 1
    fi
    _sl_pump "$left"
  done
  return 0
}

# Reads what has come, and waits up to so many ms for something to come.
_sl_pump() {
  local limit=$1 status line
  [ -z "$_sl_ended" ] || return 0
  _sl_tick
  if [ -n "$REPLY" ] && [ "$REPLY" -lt "$limit" ]; then limit=$REPLY; fi
  while true; do
    if [ "$limit" -eq 0 ] && ! read -r -t 0 -u "$_sl_from"; then break; fi
    status=0
    _sl_read $((limit > 1 ? limit : 1)) || status=$?
    if [ "$status" -eq 2 ]; then _sl_end; return; fi
    if [ "$status" -eq 0 ] && _sl_parse "$line"; then _sl_heard "$line"; fi
    [ -z "$_sl_ended" ] || return 0
    limit=0
  done
  _sl_tick
}

# One line into `line`. Fails with 1 where there is no whole one yet, and with 2 at the end.
_sl_read() {
  local LC_ALL=C status=0 time
  printf -v time '%d.%03d' $(($1 / 1000)) $(($1 % 1000))
  IFS= read -r -t "$time" -u "$_sl_from" line || status=$?
  if [ "$status" -gt 128 ]; then
    _sl_rest+=$line
    # bash may say that the time is over also when it has just read the end of a line.
    if [[ $_sl_rest != '{'*'}' ]] || ! _sl_parse "$_sl_rest"; then return 1; fi
    line=$_sl_rest _sl_rest=''
    return
  fi
  [ "$status" -eq 0 ] || return 2
  line=$_sl_rest$line _sl_rest=''
}

# What the daemon says

_sl_heard() {
  local id=${_sl_j[j/id]-} method
  _sl_told=1
  if [ -n "${_sl_j[j/method]-}" ] && [ -z "$id" ]; then
    if [ "${_sl_j[j/params]-}" = '{' ]; then _sl_notified "${_sl_j[j/method]}"; fi
    return
  fi
  if [ -n "${_sl_j[j/error]-}" ]; then
    _sl_field=${_sl_j[j/error/data/field]-}
    _sl_refusal
    # Without an id it is about the connection, or about a line that the daemon could not read.
    if [ -z "$id" ] || [ "$id" = null ]; then _sl_fault=$REPLY; return; fi
  fi
  [[ $id =~ ^[0-9]{1,15}$ ]] || return 0
  method=${_sl_method[id]-}
  [ -n "$method" ] || return 0
  if [ -n "${_sl_j[j/error]-}" ]; then
    if [ -z "${_sl_answer[id]-}" ]; then _sl_error[id]=$REPLY _sl_answer[id]=error; fi
  else
    _sl_answered "$id" "$method" "$1"
  fi
  if [ "$_sl_ping" = "$id" ]; then
    _sl_ping=''
    if [ -z "${_sl_j[j/error]-}" ]; then _sl_ping_answered "$id"; fi
  fi
  case ${_sl_abandoned[id]-} in
    kept) _sl_abandoned[id]='' ;;
    ?*) _sl_drop "$id" ;;
  esac
}

# _sl_answered ID METHOD LINE
_sl_answered() {
  local id=$1 number
  if [[ $2 =~ ^(acquire|initialize|watch)$ && ${_sl_j[j/result]-} != '{' ]]; then
    printf -v '_sl_error[id]' '%q ' protocol_violation "the daemon gave an answer that is none" '' ''
    _sl_answer[id]=error
    return
  fi
  case $2 in
    acquire) _sl_granted "$id" "${_sl_of[id]}" ;;
    release) if [ -n "${_sl_of[id]}" ]; then _sl_has[_sl_index[id]]=''; fi ;;
    initialize)
      _sl_session=${_sl_j[j/result/session]-} _sl_lease_ms=${_sl_j[j/result/lease_ms]-}
      [[ $_sl_lease_ms =~ ^[0-9]{1,15}$ ]] || _sl_lease_ms=''
      ;;
    watch)
      number=${_sl_j[j/result/watch]-}
      # Events may stand right behind this answer.
      if [[ $number =~ ^[0-9]{1,15}$ ]] && [ -z "${_sl_abandoned[id]-}" ]; then _sl_watches[number]=${_sl_value[id]} _sl_number=$number; fi
      ;;
  esac
  [ "${_sl_value[id]-}" != keep ] || _sl_error[id]=$3
  [ -n "${_sl_answer[id]-}" ] || _sl_answer[id]=result
}

# _sl_granted ID HANDLE
_sl_granted() {
  local handle=$2 index first number valid=${_sl_j[j/result/valid_ms]-} waited=${_sl_j[j/result/waited_ms]-0}
  if [ -n "${_sl_abandoned[$1]-}" ]; then
    # Nobody waits for it any more.
    handle=0
    _sl_new_from_answer 0
  fi
  first=$((handle * 64))
  for ((index = first; index < first + _sl_count[handle]; index++)); do
    _sl_token[index]=${_sl_j[j/result/token]-}
    for ((number = 0; number < ${_sl_j[j/result/locks/count]:-0}; number++)); do
      if [ "${_sl_j[j/result/locks/$number/name]-}" = "${_sl_name[index]}" ]; then _sl_token[index]=${_sl_j[j/result/locks/$number/token]-}; fi
    done
    _sl_has[index]=1
  done
  _sl_mode[handle]=${_sl_j[j/result/mode]-} _sl_state[handle]=held
  if [[ $valid =~ ^[0-9]{1,15}$ ]]; then
    [[ $waited =~ ^[0-9]{1,15}$ ]] || waited=0
    # From the grant on, however late this is read: the wait began at the daemon after the sending.
    _sl_span[handle]=$valid _sl_deadline[handle]=$((_sl_sent[$1] + waited + valid))
  fi
  if [ -n "${_sl_abandoned[$1]-}" ]; then _sl_give_back "$handle"; fi
}

_sl_new_from_answer() {
  local number names=()
  for ((number = 0; number < ${_sl_j[j/result/locks/count]:-0}; number++)); do names+=("${_sl_j[j/result/locks/$number/name]-}"); done
  if [ "${#names[@]}" -eq 0 ]; then names=("${_sl_j[j/result/name]-}"); fi
  _sl_new "$1" '' "${names[@]}"
}

# Those who hold that name under that token, as handles in `found` and places in `places`.
_sl_holding() {
  local handle index
  found=() places=()
  for handle in ${_sl_state[@]+"${!_sl_state[@]}"}; do
    for ((index = handle * 64; index < handle * 64 + _sl_count[handle]; index++)); do
      if [ -n "${_sl_has[index]}" ] && [ "${_sl_token[index]}" = "$2" ] && [ "${_sl_name[index]}" = "$1" ]; then
        found+=("$handle") places+=("$index")
      fi
    done
  done
}

_sl_notified() {
  local name=${_sl_j[j/params/name]-} token=${_sl_j[j/params/token]-} found=() places=() number handle id members key
  case $1 in
    lost | contended)
      _sl_holding "$name" "$token"
      for number in ${found[@]+"${!found[@]}"}; do
        handle=${found[number]}
        if [ "$1" = lost ]; then
          _sl_has[places[number]]=''
          _sl_lose "$handle" "$name" "$token" "${_sl_j[j/params/reason]-}" "${_sl_j[j/params/grace_ms]-0}" "${_sl_j[j/params/detail]-}"
        elif [ -n "${_sl_on_contended[handle]}" ]; then
          _sl_call "${_sl_on_contended[handle]}" "${_sl_label[handle]}" "${_sl_j[j/params/waiters]-}"
        fi
      done
      ;;
    waiting)
      id=${_sl_j[j/params/id]-}
      [[ $id =~ ^[0-9]{1,15}$ ]] || return 0
      handle=${_sl_of[id]-}
      if [ -n "$handle" ] && [ -z "${_sl_abandoned[id]-}" ] && [ -n "${_sl_on_waiting[handle]}" ]; then
        _sl_call "${_sl_on_waiting[handle]}" "${_sl_label[handle]}" "${_sl_j[j/params/position]-}"
      fi
      ;;
    transferred)
      [ -n "$_sl_accept" ] || return 0
      handle=$((_sl_handles += 1))
      _sl_new "$handle" "transferred-$handle" "$name"
      _sl_labels["_transferred-$handle"]=$handle
      _sl_token[handle * 64]=$token _sl_has[handle * 64]=1 _sl_state[handle]=held _sl_mode[handle]=${_sl_j[j/params/mode]-}
      if [ -n "$_sl_lease_ms" ]; then
        # Nothing is known of how long it is good: that is asked at once.
        _sl_now
        _sl_span[handle]=$_sl_lease_ms _sl_deadline[handle]=$REPLY
      fi
      _sl_call "$_sl_accept" "transferred-$handle" "$name" "$token"
      ;;
    event)
      number=${_sl_j[j/params/watch]-}
      [[ $number =~ ^[0-9]{1,15}$ ]] && [ -n "${_sl_watches[number]-}" ] || return 0
      members=("${_sl_watches[number]}" "${_sl_j[j/params/kind]-}")
      for key in name session token mode permits reason waiters host; do
        if [ -n "${_sl_j[j/params/$key]-}" ]; then members+=("$key=${_sl_j[j/params/$key]}"); fi
      done
      _sl_call "${members[@]}"
      ;;
    backend | missed)
      for number in ${_sl_watches[@]+"${!_sl_watches[@]}"}; do
        _sl_call "${_sl_watches[number]}" "$1" "state=${_sl_j[j/params/state]-}" "count=${_sl_j[j/params/count]-}"
      done
      ;;
  esac
}

# sidelock_on_lost LABEL COMMAND: what is called when the lock is lost, of one that was transferred.
sidelock_on_lost() { _sl_on_lost[${_sl_labels[_$1]}]=$2; }

# How long holds are good

# The handles of those that end by themselves, in `timed`.
_sl_timed() {
  local handle
  timed=()
  for handle in ${_sl_state[@]+"${!_sl_state[@]}"}; do
    if [ "${_sl_state[handle]}" = held ] && [ -n "${_sl_deadline[handle]}" ]; then timed+=("$handle"); fi
  done
}

_sl_ping_answered() {
  local handle timed=() until valid=${_sl_j[j/result/valid_ms]-} index held=0
  _sl_now
  _sl_no_ping_before=$((REPLY + 100))
  _sl_timed
  for index in ${_sl_has[@]+"${!_sl_has[@]}"}; do if [ -n "${_sl_has[index]}" ]; then held=$((held + 1)); fi; done
  for handle in ${timed[@]+"${timed[@]}"}; do
    if [[ $valid =~ ^[0-9]{1,15}$ ]]; then
      # This counts for all that was held when it was answered, from when it was asked.
      until=$((_sl_sent[$1] + valid)) _sl_span[handle]=$valid
      if [ "$until" -gt "${_sl_deadline[handle]}" ]; then _sl_deadline[handle]=$until; fi
    elif [ "$held" -gt "$_sl_holds_told_max" ]; then
      _sl_deadline[handle]=''
    fi
  done
}

# Asks how long holds are good before that time is over, and finds those whose time is. Gives the ms until then, or nothing.
_sl_tick() {
  local timed=() handle now ask='' at next='' sent index quarter
  REPLY=''
  [ -z "$_sl_ended" ] || return 0
  _sl_timed
  [ "${#timed[@]}" -gt 0 ] || return 0
  _sl_now
  now=$REPLY
  for handle in "${timed[@]}"; do
    at=$((_sl_deadline[handle] - _sl_span[handle] / 2))
    if [ -z "$ask" ] || [ "$at" -lt "$ask" ]; then ask=$at; fi
  done
  if [ "$ask" -lt "$_sl_no_ping_before" ]; then ask=$_sl_no_ping_before; fi
  if [ -z "$_sl_ping" ]; then
    if [ "$now" -lt "$ask" ]; then REPLY=$((ask - now)); return; fi
    _sl_start ping '{}'
    _sl_ping=$REPLY
    _sl_abandoned[REPLY]=1
  fi
  # A process that was stopped itself asks before it judges.
  sent=${_sl_sent[_sl_ping]}
  for handle in "${timed[@]}"; do
    quarter=$((_sl_span[handle] < 4000 ? _sl_span[handle] / 4 : 1000))
    at=$((sent + quarter > _sl_deadline[handle] ? sent + quarter : _sl_deadline[handle]))
    if [ "$now" -lt "$at" ]; then
      if [ -z "$next" ] || [ "$at" -lt "$next" ]; then next=$at; fi
      continue
    fi
    for ((index = handle * 64; index < handle * 64 + _sl_count[handle]; index++)); do
      [ -z "${_sl_has[index]}" ] || _sl_lose "$handle" "${_sl_name[index]}" "${_sl_token[index]}" lease_expired 0 ''
    done
    _sl_give_back "$handle"
  done
  REPLY=''
  if [ -n "$next" ]; then REPLY=$((next - now)); fi
}
