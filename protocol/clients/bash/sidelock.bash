# Locks over processes and hosts, from the sidelockd of this host, for bash 4.2 and later: source it. Needs socat. See README.md.
# shellcheck shell=bash disable=SC2034,SC1003
#
# One connection, through a coprocess, without threads: what the daemon says is read whenever a lock is looked at, and while a
# function waits in here. Functions leave their result in REPLY, and what went wrong in SIDELOCK_…. All that begins with _sl is
# not for users, and neither are variables that begin with two underscores: those of these functions are seen by the commands that
# they call, and must not be in the way of a script's own, some of which it may have made readonly.

# Each return says what it returns: in what a trap calls, a bare one gives the status of before the trap.
_sl_line_bytes_max=65536
_sl_unended_bytes_max=1048576 # Of a line that has not ended; what is longer comes from no daemon.
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
  local __own=${XDG_RUNTIME_DIR-}/sidelock/sidelock.sock
  if [ -n "$_sl_path" ]; then
    REPLY=$_sl_path
  elif [ -n "${SIDELOCK_SOCKET-}" ]; then
    REPLY=$SIDELOCK_SOCKET
  elif [ -n "${XDG_RUNTIME_DIR-}" ] && [ -e "$__own" ]; then
    REPLY=$__own
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
  sidelock_begin "$@" || return "$?"
  sidelock_finish "$REPLY"
}

# The same in two steps, for loops of the program's own: begins to wait, and gives the wait's number.
sidelock_begin() {
  local __handle __params='' __label='' __has_label='' __limit='' __progress='' __on_lost='' __on_waiting='' __on_contended='' __names=() __name
  _sl_clear
  while [ $# -gt 0 ]; do
    case $1 in
      -n) __limit=0 __params+=',"wait_ms":0'; shift; continue ;;
      -s | --shared) __params+=',"mode":"shared"'; shift; continue ;;
      --) shift; break ;;
      -*) if [ $# -lt 2 ]; then _sl_fail invalid_params "$1 needs a value"; return 2; fi ;;
      *) break ;;
    esac
    case $1 in
      -w | --wait) _sl_milliseconds "$2" || return "$?"; __limit=$REPLY __params+=",\"wait_ms\":$REPLY" ;;
      --max-hold) _sl_milliseconds "$2" || return "$?"; __params+=",\"max_hold_ms\":$REPLY" ;;
      --permits | --replicas) _sl_whole "$2" || return "$?"; __params+=",\"${1#--}\":$REPLY" ;;
      --owner | --meta | --durability) _sl_quote "$2" || return "$?"; __params+=",\"${1#--}\":$REPLY" ;;
      --as) __label=$2 __has_label=1 ;;
      --on-lost) __on_lost=$2 ;;
      --on-waiting) __on_waiting=$2 __progress=1 ;;
      --on-contended) __on_contended=$2 __progress=1 ;;
      *) _sl_fail invalid_params "there is no option $1"; return 2 ;;
    esac
    shift 2
  done
  if [ $# -eq 0 ] || [ $# -gt 64 ]; then _sl_fail invalid_params "name 1 to 64 locks"; return 2; fi
  for __name in "$@"; do
    _sl_quote "$__name" || return "$?"
    __names+=("$REPLY")
  done
  if [ $# -eq 1 ]; then
    __params="\"name\":${__names[0]}$__params"
  else
    printf -v __name '%s,' "${__names[@]}"
    __params="\"names\":[${__name%,}]$__params"
  fi
  [ -z "$__progress" ] || __params+=',"progress":true'
  [ -n "$__has_label" ] || __label=$1
  _sl_connected || return "$?"
  _sl_tell
  __handle=${_sl_labels[_$__label]-}
  if [ -n "$__handle" ] && [[ ${_sl_state[__handle]} = waiting || ${_sl_state[__handle]} = held ]]; then
    _sl_fail invalid_params "there is a lock with the label $__label already"
    return 2
  fi
  if [ -n "$__handle" ]; then _sl_give_back "$__handle"; else __handle=$((_sl_handles += 1)); fi
  _sl_labels[_$__label]=$__handle
  _sl_new "$__handle" "$__label" "$@"
  _sl_on_lost[__handle]=$__on_lost _sl_on_waiting[__handle]=$__on_waiting _sl_on_contended[__handle]=$__on_contended
  _sl_start acquire "{$__params}" "$__handle"
  _sl_limit[REPLY]=$__limit
}

# Whether a wait is decided; sidelock_finish does not wait then.
sidelock_done() { [ -z "${_sl_method[$1]-}" ] || [ -n "${_sl_answer[$1]-}" ]; }

# Waits for the end of a wait that was begun: fails as sidelock_acquire does.
sidelock_finish() {
  local __id=$1 __handle=${_sl_of[$1]-} __status=0
  if [ -z "$__handle" ]; then _sl_fail invalid_params "there is no wait $__id"; return 2; fi
  _sl_finish "$__id" "${_sl_limit[__id]}" || __status=$?
  if [ "$__status" -eq 0 ]; then
    SIDELOCK_TOKEN=${_sl_token[__handle * 64]}
  elif [ "${_sl_state[__handle]}" = waiting ]; then
    # A lock that is granted late is given back by what is kept of the request.
    _sl_state[__handle]=released
  fi
  _sl_tell
  return "$__status"
}

# Withdraws a wait, which ends as cancelled. A lock that is granted meanwhile is given back.
sidelock_cancel() {
  local __id=$1
  [ -n "${_sl_method[__id]-}" ] && [ -z "${_sl_answer[__id]-}" ] || return 0
  _sl_abandon "$__id"
  _sl_abandoned[__id]=kept # for who has yet to hear of it
  printf -v '_sl_error[__id]' '%q ' cancelled "the wait was withdrawn" '' ''
  _sl_answer[__id]=error
}

# sidelock_with [OPTIONS] NAME... -- COMMAND...: runs a command or a function while the lock is held. Its status is that of the
# command, or as of sidelock_acquire; 3 where the lock was lost meanwhile and the command did not fail. As everywhere in bash, a
# function goes on after a command that fails, also with set -e, where sidelock_with is part of a condition (if, &&, ||).
sidelock_with() {
  local __options=() __status=0 __label
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    __options+=("$1")
    shift
  done
  if [ $# -lt 2 ]; then _sl_clear; _sl_fail invalid_params "name a command, behind --"; return 2; fi
  shift
  sidelock_begin "${__options[@]}" || return "$?"
  __label=${_sl_label[${_sl_of[REPLY]}]}
  sidelock_finish "$REPLY" || return "$?"
  # Not as part of a condition: where the script has errexit, it holds in a function, too. The lock ends with the script then.
  "$@"
  __status=$?
  local __handle=${_sl_labels[_$__label]-}
  if [ -n "$__handle" ] && [[ ${_sl_state[__handle]} = held || ${_sl_state[__handle]} = lost ]]; then
    sidelock_release "$__label" || [ "$__status" -ne 0 ] || __status=$?
  fi
  return "$__status"
}

# sidelock_release LABEL: gives the lock back. Fails with 3 if it was lost before.
sidelock_release() {
  local __handle __index __id __ids=() __failed='' __status=0
  _sl_look "$1" || return "$?"
  __handle=$REPLY
  if [[ ${_sl_state[__handle]} != held && ${_sl_state[__handle]} != lost ]]; then _sl_not_held "$1"; return 2; fi
  if [ -z "$_sl_ended" ]; then
    for ((__index = __handle * 64; __index < __handle * 64 + _sl_count[__handle]; __index++)); do
      [ -n "${_sl_has[__index]}" ] || continue
      _sl_start_release "$__handle" "$__index"
      __ids+=("$REPLY")
    done
    for __id in ${__ids[@]+"${__ids[@]}"}; do
      if ! _sl_finish "$__id" 0 && [ -z "$__failed" ]; then __failed=$REPLY; fi
    done
    for ((__index = __handle * 64; __index < __handle * 64 + _sl_count[__handle]; __index++)); do _sl_has[__index]=''; done
  fi
  _sl_state[__handle]=released
  if [ -n "${_sl_loss[__handle]-}" ]; then
    _sl_raise_loss "$__handle" || __status=$?
  elif [ -n "$__failed" ]; then
    eval "_sl_raise $__failed" || __status=$?
  else
    _sl_clear
  fi
  _sl_tell
  return "$__status"
}

# sidelock_held LABEL: whether it is held, by all that the daemon has said; no longer than it is good without an answer of the daemon.
sidelock_held() { _sl_look "$1" && [ "${_sl_state[REPLY]}" = held ] && ! _sl_is_over "$REPLY"; }

# sidelock_check LABEL: fails with 3 if the lock was lost, and 2 if it is not held, or its time is over and the daemon does not say
# that it is still held.
sidelock_check() {
  local __handle
  _sl_look "$1" || return "$?"
  __handle=$REPLY
  if [ -n "${_sl_loss[__handle]-}" ]; then
    _sl_raise_loss "$__handle"
  elif [ "${_sl_state[__handle]}" != held ]; then
    _sl_not_held "$1"
  elif _sl_is_over "$__handle"; then
    _sl_raise no_answer "the time of lock $1 is over, and the daemon does not say that it is still held" '' ''
  fi
}

# sidelock_token LABEL [NAME]: the fencing token, of the first or of another name. Fails as sidelock_check does.
sidelock_token() {
  local __handle __index
  sidelock_check "$1" || return "$?"
  __handle=${_sl_labels[_$1]}
  REPLY=${_sl_token[__handle * 64]}
  for ((__index = __handle * 64; __index < __handle * 64 + _sl_count[__handle]; __index++)); do
    if [ "${_sl_name[__index]}" = "${2-}" ]; then REPLY=${_sl_token[__index]}; fi
  done
}

# sidelock_loss LABEL: the reason of its loss; fails where it was not lost.
sidelock_loss() {
  _sl_look "$1" || return "$?"
  REPLY=${_sl_loss[REPLY]-}
  [ -n "$REPLY" ] || return 1
  eval "set -- $REPLY"
  REPLY=$3
}

# sidelock_valid LABEL: for how many milliseconds from now the hold is good for certain; "none": it does not end by itself.
sidelock_valid() {
  local __handle
  _sl_look "$1" || return "$?"
  __handle=$REPLY
  if [ "${_sl_state[__handle]}" != held ]; then REPLY=0; return 0; fi
  if [ -z "${_sl_deadline[__handle]}" ]; then REPLY=none; return 0; fi
  _sl_now
  # The clock tells hundredths, rounded down.
  REPLY=$((_sl_deadline[__handle] - REPLY - 10))
  if [ "$REPLY" -lt 0 ]; then REPLY=0; fi
}

# sidelock_downgrade LABEL: shares from now on what was held alone.
sidelock_downgrade() {
  _sl_of_one downgrade "$1" '' || return "$?"
  _sl_mode[${_sl_labels[_$1]}]=shared
}

# sidelock_extend LABEL SECONDS: sets anew after what time from now the hold ends; "none": it does not.
sidelock_extend() {
  REPLY=null
  if [ "$2" != none ]; then _sl_milliseconds "$2" || return "$?"; fi
  _sl_of_one extend "$1" ",\"max_hold_ms\":$REPLY"
}

# sidelock_transfer LABEL SESSION: hands the lock to another session of this host, which must have asked for it.
sidelock_transfer() {
  local __handle
  _sl_quote "$2" || return "$?"
  _sl_of_one transfer "$1" ",\"session\":$REPLY" || return "$?"
  __handle=${_sl_labels[_$1]}
  _sl_has[__handle * 64]='' _sl_state[__handle]=released
}

# sidelock_watch COMMAND name|prefix TEXT: events of a lock, or of all whose name begins alike. The command gets the kind and the
# event's members, KEY=VALUE each; the last one is of the kind "ended". Gives the number of the watch.
sidelock_watch() {
  local __id
  if [[ $2 != name && $2 != prefix ]]; then _sl_clear; _sl_fail invalid_params "watch a name or a prefix"; return 2; fi
  _sl_quote "$3" || return "$?"
  local __quoted=$REPLY
  _sl_connected || return "$?"
  _sl_start watch "{\"$2\":$__quoted}"
  __id=$REPLY
  _sl_value[__id]=$1
  _sl_finish "$__id" 0 || return "$?"
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
  _sl_connected || return "$?"
  REPLY=$_sl_session
}

# sidelock_accept COMMAND: from now on others may hand over locks. The command gets the label that each has here, and its name.
sidelock_accept() {
  _sl_accept=$1
  _sl_connected || return "$?"
  sidelock_call initialize '{"accept_transfers":true}'
}

# sidelock_call METHOD [PARAMS]: any method of the protocol. The parameters are a JSON object on one line; SIDELOCK_RESULT is the
# whole line that answers.
sidelock_call() {
  _sl_connected || return "$?"
  _sl_start "$1" "${2:-"{}"}"
  _sl_value[REPLY]=keep
  _sl_finish "$REPLY" 0 || return "$?"
  _sl_tell
}

# sidelock_pump [SECONDS]: reads what has come, and waits so long for something to come; for loops of the program's own.
sidelock_pump() {
  _sl_milliseconds "${1:-0}" || return "$?"
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
  local __up _
  IFS=' ' read -r __up _ </proc/uptime
  REPLY=${__up/./}0
}

# Seconds, with a fraction or without, as milliseconds; rounded up, so that a short wait is no try.
_sl_milliseconds() {
  local __whole __fraction __padded
  if ! [[ $1 =~ ^[0-9]{1,9}(\.[0-9]*)?$|^\.[0-9]+$ ]]; then _sl_clear; _sl_fail invalid_params "no time in seconds: $1"; return 2; fi
  __whole=${1%%.*} __fraction=''
  if [[ $1 == *.* ]]; then __fraction=${1#*.}; fi
  __padded=${__fraction}000
  REPLY=$((10#${__whole:-0} * 1000 + 10#${__padded:0:3}))
  if [[ ${__fraction:3} == *[1-9]* ]]; then REPLY=$((REPLY + 1)); fi
}

_sl_whole() {
  if ! [[ $1 =~ ^[0-9]{1,15}$ ]]; then _sl_clear; _sl_fail invalid_params "no number: $1"; return 2; fi
  REPLY=$((10#$1))
}

# Text as JSON. The daemon takes nothing but UTF-8, and could not say which request it was.
_sl_quote() {
  local LC_ALL=C __text=$1
  if [ "${#__text}" -gt "$_sl_line_bytes_max" ]; then
    _sl_clear
    _sl_fail limit "the request is longer than a line of the daemon"
    return 2
  fi
  local __code __byte __escape __backslash='\' __quote='"' __more=$'[\x80-\xbf]' __valid
  if [[ $__text == *[$'\x80'-$'\xff']* ]]; then
    __valid=$'[\x01-\x7f]|[\xc2-\xdf]'$__more$'|\xe0[\xa0-\xbf]'$__more$'|[\xe1-\xec\xee\xef]'$__more$__more$'|\xed[\x80-\x9f]'$__more
    __valid+=$'|\xf0[\x90-\xbf]'$__more$__more$'|[\xf1-\xf3]'$__more$__more$__more$'|\xf4[\x80-\x8f]'$__more$__more
    if ! [[ $__text =~ ^($__valid)*$ ]]; then
      _sl_clear
      _sl_fail invalid_params "text for the daemon is UTF-8"
      return 2
    fi
  fi
  __text=${__text//"$__backslash"/"$__backslash$__backslash"}
  __text=${__text//"$__quote"/"$__backslash$__quote"}
  if [[ $__text == *[$'\x01'-$'\x1f']* ]]; then
    for ((__code = 1; __code < 32; __code++)); do
      printf -v __byte '\\x%02x' "$__code"
      printf -v __byte '%b' "$__byte"
      printf -v __escape '%su%04x' "$__backslash" "$__code"
      __text=${__text//"$__byte"/"$__escape"}
    done
  fi
  REPLY="\"$__text\""
}

# Takes a text out of `rest`, behind its first quote, into `text`.
_sl_text() {
  local __piece __code __low
  __text=''
  while true; do
    __piece=${__rest%%[\"\\]*}
    __text+=$__piece
    __rest=${__rest:${#__piece}}
    case $__rest in
      '"'*) __rest=${__rest:1}; return 0 ;;
      '\u'[0-9a-fA-F][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F]*)
        __code=$((16#${__rest:2:4}))
        __rest=${__rest:6}
        if ((__code >= 0xD800 && __code < 0xDC00)) && [[ $__rest == '\u'[dD][c-fC-F][0-9a-fA-F][0-9a-fA-F]* ]]; then
          __low=$((16#${__rest:2:4}))
          __rest=${__rest:6}
          __code=$((0x10000 + (__code - 0xD800) * 0x400 + __low - 0xDC00))
        fi
        # No text of bash has a zero in it, and the daemon sends none that matters.
        if ((__code == 0)); then __code=65533; fi
        if ((__code < 0x80)); then
          printf -v __piece '\\x%x' "$__code"
        elif ((__code < 0x800)); then
          printf -v __piece '\\x%x\\x%x' $((0xC0 | __code >> 6)) $((0x80 | __code & 63))
        elif ((__code < 0x10000)); then
          printf -v __piece '\\x%x\\x%x\\x%x' $((0xE0 | __code >> 12)) $((0x80 | __code >> 6 & 63)) $((0x80 | __code & 63))
        else
          printf -v __piece '\\x%x\\x%x\\x%x\\x%x' $((0xF0 | __code >> 18)) $((0x80 | __code >> 12 & 63)) $((0x80 | __code >> 6 & 63)) \
            $((0x80 | __code & 63))
        fi
        printf -v __piece '%b' "$__piece"
        __text+=$__piece
        ;;
      '\'[bfnrt]*) printf -v __piece '%b' "${__rest:0:2}"; __text+=$__piece __rest=${__rest:2} ;;
      '\'[\"\\/]*) __text+=${__rest:1:1} __rest=${__rest:2} ;;
      *) return 1 ;;
    esac
  done
}

# Reads a JSON object into _sl_j. Fails where it is none.
_sl_parse() {
  local LC_ALL=C __rest=$1 __path=j __text __depth=0 __paths=() __kinds=() __counts=()
  _sl_j=()
  while true; do
    # A value
    [[ $__rest != [$' \t\r']* ]] || __rest=${__rest#"${__rest%%[! $'\t\r']*}"}
    case $__rest in
      '{'* | '['*)
        if ((__depth > 64)); then return 1; fi
        __depth=$((__depth + 1))
        __paths[__depth]=$__path __kinds[__depth]=${__rest:0:1} __counts[__depth]=0
        _sl_j[$__path]=${__rest:0:1}
        __rest=${__rest:1}
        [[ $__rest != [$' \t\r']* ]] || __rest=${__rest#"${__rest%%[! $'\t\r']*}"}
        case ${__kinds[__depth]}$__rest in
          '{}'* | '[]'*) _sl_j[$__path/count]=0 ;;
          *) _sl_member || return 1; continue ;;
        esac
        ;;
      '"'*)
        __rest=${__rest:1}
        _sl_text || return 1
        _sl_j[$__path]=$__text
        ;;
      *)
        __text=${__rest%%[],\} $'\t\r']*}
        case $__text in
          -[0-9]* | [0-9]* | true | false | null) _sl_j[$__path]=$__text ;;
          *) return 1 ;;
        esac
        __rest=${__rest:${#__text}}
        ;;
    esac
    # What comes behind it
    while true; do
      [[ $__rest != [$' \t\r']* ]] || __rest=${__rest#"${__rest%%[! $'\t\r']*}"}
      if ((__depth == 0)); then [ -z "$__rest" ] && [ "${_sl_j[j]}" = '{' ]; return "$?"; fi
      case ${__kinds[__depth]}$__rest in
        '{,'* | '[,'*) __rest=${__rest:1}; _sl_member || return 1; break ;;
        '{}'* | '[]'*)
          _sl_j[${__paths[__depth]}/count]=${__counts[__depth]}
          __depth=$((__depth - 1))
          __rest=${__rest:1}
          ;;
        *) return 1 ;;
      esac
    done
  done
}

# Sets `path` to that of the next member or item.
_sl_member() {
  if [ "${__kinds[__depth]}" = '{' ]; then
    [[ $__rest != [$' \t\r']* ]] || __rest=${__rest#"${__rest%%[! $'\t\r']*}"}
    [[ $__rest == '"'* ]] || return 1
    __rest=${__rest:1}
    _sl_text || return 1
    [[ $__rest != [$' \t\r']* ]] || __rest=${__rest#"${__rest%%[! $'\t\r']*}"}
    [[ $__rest == ':'* ]] || return 1
    __rest=${__rest:1}
    # No member that means anything has a slash in its name.
    __path=${__paths[__depth]}/${__text//\//?}
  else
    __path=${__paths[__depth]}/${__counts[__depth]}
    __counts[__depth]=$((__counts[__depth] + 1))
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
  local __data=j/error/data __message __reason __lost='' __acknowledged='' __index __key __value __holder __holders=()
  __message=${_sl_j[j/error/message]:-the daemon gave no message}
  __reason=${_sl_j[$__data/reason]-}
  if [ -n "${_sl_j[$__data/detail]-}" ]; then __message+=": ${_sl_j[$__data/detail]}"; fi
  if [ "$__reason" = lost ]; then __lost=${_sl_j[$__data/lost]-}; fi
  if [ "$__reason" = under_replicated ]; then
    __acknowledged=${_sl_j[$__data/acknowledged]-0}
    [[ $__acknowledged =~ ^[0-9]+$ ]] || __acknowledged=0
  fi
  for ((__index = 0; __index < ${_sl_j[$__data/holders/count]:-0}; __index++)); do
    __holder=''
    for __key in host session pid uid command unit mode owner meta token held_ms foreign dead; do
      __value=${_sl_j[$__data/holders/$__index/$__key]-}
      if [ -n "$__value" ]; then __holder+="${__holder:+$'\t'}$__key=${__value//[[:cntrl:]]/?}"; fi
    done
    __holders+=("$__holder")
  done
  printf -v REPLY '%q ' "$__reason" "$__message" "$__lost" "$__acknowledged" ${__holders[@]+"${__holders[@]}"}
}

# Locks

# _sl_new HANDLE LABEL NAME...
_sl_new() {
  local __handle=$1 __index=0
  _sl_label[__handle]=$2 _sl_state[__handle]=waiting _sl_mode[__handle]='' _sl_deadline[__handle]='' _sl_span[__handle]=0 _sl_loss[__handle]=''
  _sl_on_lost[__handle]='' _sl_on_waiting[__handle]='' _sl_on_contended[__handle]=''
  shift 2
  _sl_count[__handle]=$#
  for ((__index = __handle * 64; $# > 0; __index++)); do
    _sl_name[__index]=$1 _sl_token[__index]='' _sl_has[__index]=''
    shift
  done
}

# Whether the time of a hold is over.
_sl_is_over() {
  local REPLY
  [ "${_sl_state[$1]}" = held ] && [ -n "${_sl_deadline[$1]}" ] || return 1
  _sl_now
  [ "${_sl_deadline[$1]}" -le "$REPLY" ]
}

# The lock of that label, when what has come was read.
_sl_look() {
  local __handle=${_sl_labels[_$1]-} __end=''
  _sl_clear
  _sl_mine
  if [ -z "$_sl_ended" ]; then _sl_pump 0; fi
  # Where the time is over somebody else may hold it: it is held if the daemon says so again, and lost if it says nothing.
  while [ -n "$__handle" ] && [ -z "$_sl_ended" ] && _sl_is_over "$__handle"; do
    _sl_now
    [ -n "$__end" ] || __end=$((REPLY + 2000))
    if [ "$REPLY" -gt "$__end" ]; then break; fi
    _sl_pump 100
  done
  _sl_tell
  REPLY=${_sl_labels[_$1]-}
  if [ -z "$REPLY" ]; then _sl_not_held "$1"; return 2; fi
}

# _sl_of_one METHOD LABEL MEMBERS
_sl_of_one() {
  local __handle __status=0
  sidelock_check "$2" || return "$?"
  __handle=${_sl_labels[_$2]}
  if [ "${_sl_count[__handle]}" -ne 1 ]; then _sl_fail invalid_params "$1 is for one lock at a time"; return 2; fi
  _sl_quote "${_sl_name[__handle * 64]}"
  _sl_start "$1" "{\"name\":$REPLY,\"token\":${_sl_token[__handle * 64]}$3}"
  _sl_finish "$REPLY" 0 || __status=$?
  if [ "$__status" -ne 0 ] && [ -n "${_sl_loss[__handle]}" ]; then _sl_raise_loss "$__handle" || __status=$?; fi
  _sl_tell
  return "$__status"
}

_sl_start_release() {
  _sl_quote "${_sl_name[$2]}"
  _sl_start release "{\"name\":$REPLY,\"token\":${_sl_token[$2]}}" "$1"
  _sl_index[REPLY]=$2
}

# Releases what is held, and waits for no answer.
_sl_give_back() {
  local __handle=$1 __index
  for ((__index = __handle * 64; __index < __handle * 64 + _sl_count[__handle]; __index++)); do
    [ -n "${_sl_has[__index]}" ] || continue
    _sl_start_release "$__handle" "$__index"
    _sl_abandoned[REPLY]=1 _sl_of[REPLY]=''
    _sl_has[__index]=''
  done
  if [ "${_sl_state[__handle]}" = held ]; then _sl_state[__handle]=released; fi
}

# _sl_lose HANDLE NAME TOKEN REASON GRACE_MS DETAIL
_sl_lose() {
  local __handle=$1
  [ "${_sl_state[__handle]}" = held ] || return 0
  _sl_state[__handle]=lost
  printf -v '_sl_loss[__handle]' '%q ' "${@:2}"
  _sl_call _sl_tell_loss "$__handle" "${@:2:4}"
}

# Looked up when it is called: of a lock that was transferred it may be set only then.
_sl_tell_loss() { [ -z "${_sl_on_lost[$1]}" ] || "${_sl_on_lost[$1]}" "${_sl_label[$1]}" "${@:2}"; }

# The user's commands are called when nothing here is in the middle of anything.
_sl_call() {
  local __text
  printf -v __text '%q ' "$@"
  _sl_calls+=("$__text")
}

_sl_tell() {
  local __call __kept=${REPLY-}
  while [ "${#_sl_calls[@]}" -gt 0 ]; do
    __call=${_sl_calls[0]}
    _sl_calls=("${_sl_calls[@]:1}")
    eval "$__call" || true
  done
  REPLY=$__kept
}

# The connection

# In a subshell the connection is its parent's, which goes on using it, and so are the locks.
_sl_mine() {
  local __handle
  [ "$_sl_pid" != "$BASHPID" ] || return 0
  if [ -n "$_sl_from" ]; then exec {_sl_from}<&- {_sl_keep}<&-; fi
  _sl_pid=$BASHPID _sl_ended=1 _sl_from='' _sl_keep='' _sl_rest='' _sl_ping='' _sl_calls=() _sl_watches=()
  _sl_method=() _sl_of=() _sl_answer=() _sl_error=() _sl_abandoned=()
  for __handle in ${_sl_state[@]+"${!_sl_state[@]}"}; do _sl_state[__handle]=released; done
}

_sl_connected() {
  local __path __params __name
  _sl_clear
  _sl_mine
  if [ -z "$_sl_ended" ]; then _sl_pump 0; fi
  if [ -z "$_sl_ended" ]; then return 0; fi
  sidelock_socket_path
  __path=$REPLY
  _sl_connect "$__path"
  _sl_quote "${0##*/}" || REPLY='"bash"'
  __name=$REPLY
  if [ "${#__name}" -gt 100 ] || [ "$__name" = '""' ]; then __name='"bash"'; fi
  __params="\"client\":{\"name\":$__name},\"protocol\":1"
  if [ -n "$_sl_accept" ]; then __params+=',"accept_transfers":true'; fi
  _sl_start initialize "{$__params,\"lifetime\":\"process\"}"
  _sl_finish "$REPLY" 0 && return 0
  # The daemon may not see the process, as from a container.
  if [ "$SIDELOCK_REASON" = invalid_params ] && [ "$_sl_field" = lifetime ]; then
    _sl_start initialize "{$__params}"
    _sl_finish "$REPLY" 0 && return 0
  fi
  _sl_escape "$__path"
  if [ "$SIDELOCK_REASON" = connection_lost ] && [ "$_sl_told" -eq 0 ] && ! socat -u /dev/null "UNIX-CONNECT:$REPLY" 2>/dev/null; then
    _sl_fail no_daemon "no daemon at $__path"
    if [ -e "$__path" ] && [ ! -w "$__path" ]; then _sl_fail permission "the permissions of $__path keep this user out"; fi
    if ! command -v socat >/dev/null; then _sl_fail no_daemon "sidelock.bash needs socat"; fi
  fi
  if [ -z "$_sl_ended" ]; then _sl_end; fi
  return 2
}

# A path as socat takes it.
_sl_escape() {
  local __path=$1 __index LC_ALL=C
  REPLY=''
  for ((__index = 0; __index < ${#__path}; __index++)); do
    case ${__path:__index:1} in
      [a-zA-Z0-9/._-]) ;;
      *) REPLY+='\' ;;
    esac
    REPLY+=${__path:__index:1}
  done
}

# What the coprocess does: _sl_carry ADDRESS. It keeps nothing open that this shell has open, and gets no signals of the terminal.
_sl_carry() {
  local __fd __run=(socat)
  set +f
  IFS= read -r _ || exit
  for __fd in /proc/self/fd/*; do
    __fd=${__fd##*/}
    if [ "$__fd" -gt 2 ]; then eval "exec $__fd>&-" || true; fi
  done
  # With job control it has a process group of its own already.
  case $- in *m*) ;; *) __run=(setsid socat) ;; esac
  # bash closes a coprocess' descriptors in subshells, but knows only the one that was started last.
  if command -v setpriv >/dev/null; then __run=(setpriv --pdeathsig KILL "${__run[@]}"); fi
  exec "${__run[@]}" -t0 - "UNIX-CONNECT:$1"
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
  local __id __handle __index __fault __number
  kill "$_sl_socat" 2>/dev/null || true
  exec {_sl_from}<&- {_sl_keep}<&-
  # socat ignores the signal where the script does, and ends with its input.
  if [ "${SIDELOCK_SOCAT_PID-}" = "$_sl_socat" ]; then
    for __number in "${SIDELOCK_SOCAT[@]}"; do eval "exec $__number>&-"; done
    unset SIDELOCK_SOCAT
  fi
  _sl_ended=1 _sl_from='' _sl_keep='' _sl_ping=''
  for __handle in ${_sl_state[@]+"${!_sl_state[@]}"}; do
    for ((__index = __handle * 64; __index < __handle * 64 + _sl_count[__handle]; __index++)); do
      [ -n "${_sl_has[__index]}" ] || continue
      _sl_has[__index]=''
      _sl_lose "$__handle" "${_sl_name[__index]}" "${_sl_token[__index]}" connection_ended 0 ''
    done
  done
  for __number in ${_sl_watches[@]+"${!_sl_watches[@]}"}; do _sl_call "${_sl_watches[__number]}" ended; done
  _sl_watches=()
  __fault=$_sl_fault
  [ -n "$__fault" ] || printf -v __fault '%q ' connection_lost "the connection to the daemon has ended" '' ''
  for __id in ${_sl_method[@]+"${!_sl_method[@]}"}; do
    if [ "${_sl_abandoned[__id]-}" = 1 ]; then
      _sl_drop "$__id"
    elif [ -z "${_sl_answer[__id]-}" ]; then
      _sl_error[__id]=$__fault _sl_answer[__id]=error
    fi
  done
}

# _sl_start METHOD PARAMS [HANDLE]: sends a request, and gives its id.
_sl_start() {
  local __id=$((_sl_last += 1)) LC_ALL=C __line
  __line="{\"id\":$__id,\"method\":\"$1\",\"params\":$2}"
  _sl_method[__id]=$1 _sl_of[__id]=${3-} _sl_limit[__id]=0 _sl_value[__id]=''
  _sl_now
  _sl_sent[__id]=$REPLY
  if [ "${#__line}" -gt "$_sl_line_bytes_max" ]; then
    printf -v '_sl_error[__id]' '%q ' limit "the request is longer than a line of the daemon" '' ''
    _sl_answer[__id]=error
  else
    _sl_send "$__line"
  fi
  REPLY=$__id
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
  local __id=$1 __limit=$2 __ping __status=0
  [ -z "$__limit" ] || __limit=$((__limit + _sl_patience_ms))
  until _sl_wait "$__id" "$__limit"; do
    # The time has long passed; a daemon that waits for Redis is waited for, one that hangs is not.
    _sl_start ping '{}'
    __ping=$REPLY
    _sl_abandoned[__ping]=1
    if ! _sl_wait "$__ping" "$_sl_patience_ms" && [ -z "${_sl_answer[__id]-}" ]; then
      _sl_abandon "$__id"
      printf -v REPLY '%q ' no_answer "the daemon does not answer; it may hang" '' ''
      _sl_fail no_answer "the daemon does not answer; it may hang"
      return 2
    fi
    __limit=$_sl_patience_ms
  done
  if [ "${_sl_answer[__id]}" = error ]; then
    REPLY=${_sl_error[__id]}
    eval "_sl_raise $REPLY" || __status=$?
  elif [ "${_sl_value[__id]}" = keep ]; then
    SIDELOCK_RESULT=${_sl_error[__id]}
  fi
  # What is kept of an acquire that was cancelled gives the lock back when it is granted.
  if [ -z "${_sl_abandoned[__id]-}" ]; then _sl_drop "$__id"; else _sl_abandoned[__id]=1; fi
  return "$__status"
}

# Whether the request is answered within so many ms.
_sl_wait() {
  local __id=$1 __end='' __left=3600000
  if [ -n "$2" ]; then
    _sl_now
    __end=$((REPLY + $2))
  fi
  while [ -n "${_sl_method[__id]-}" ] && [ -z "${_sl_answer[__id]-}" ]; do
    if [ -n "$__end" ]; then
      _sl_now
      __left=$((__end - REPLY))
      [ "$__left" -gt 0 ] || return 1
    fi
    _sl_pump "$__left"
  done
  return 0
}

# Reads what has come, and waits up to so many ms for something to come.
_sl_pump() {
  local __limit=$1 __status __line
  [ -z "$_sl_ended" ] || return 0
  _sl_tick
  if [ -n "$REPLY" ] && [ "$REPLY" -lt "$__limit" ]; then __limit=$REPLY; fi
  while true; do
    if [ "$__limit" -eq 0 ] && ! read -r -t 0 -u "$_sl_from"; then break; fi
    __status=0
    _sl_read "$((__limit > 1 ? __limit : 1))" || __status=$?
    if [ "$__status" -eq 2 ]; then _sl_end; return 0; fi
    if [ "$__status" -eq 0 ] && _sl_parse "$__line"; then _sl_heard "$__line"; fi
    [ -z "$_sl_ended" ] || return 0
    __limit=0
  done
  _sl_tick
}

# One line into `line`. Fails with 1 where there is no whole one yet, and with 2 at the end.
_sl_read() {
  local LC_ALL=C __status=0 __time
  printf -v __time '%d.%03d' "$(($1 / 1000))" "$(($1 % 1000))"
  # No -n: with it bash reads ahead, and what it has is not seen by the next look at whether something has come.
  IFS= read -r -t "$__time" -u "$_sl_from" __line || __status=$?
  if [ "$((${#_sl_rest} + ${#__line}))" -gt "$_sl_unended_bytes_max" ]; then return 2; fi
  if [ "$__status" -gt 128 ]; then
    _sl_rest+=$__line
    # bash may say that the time is over also when it has just read the end of a line.
    if [[ $_sl_rest != '{'*'}' ]] || ! _sl_parse "$_sl_rest"; then return 1; fi
    __line=$_sl_rest _sl_rest=''
    return 0
  fi
  [ "$__status" -eq 0 ] || return 2
  __line=$_sl_rest$__line _sl_rest=''
}

# What the daemon says

_sl_heard() {
  local __id=${_sl_j[j/id]-} __method
  _sl_told=1
  if [ -n "${_sl_j[j/method]-}" ] && [ -z "$__id" ]; then
    if [ "${_sl_j[j/params]-}" = '{' ]; then _sl_notified "${_sl_j[j/method]}"; fi
    return 0
  fi
  if [ -n "${_sl_j[j/error]-}" ]; then
    _sl_field=${_sl_j[j/error/data/field]-}
    _sl_refusal
    # Without an id it is about the connection, or about a line that the daemon could not read.
    if [ -z "$__id" ] || [ "$__id" = null ]; then _sl_fault=$REPLY; return 0; fi
  fi
  [[ $__id =~ ^[0-9]{1,15}$ ]] || return 0
  __method=${_sl_method[__id]-}
  [ -n "$__method" ] || return 0
  if [ -n "${_sl_j[j/error]-}" ]; then
    if [ -z "${_sl_answer[__id]-}" ]; then _sl_error[__id]=$REPLY _sl_answer[__id]=error; fi
  else
    _sl_answered "$__id" "$__method" "$1"
  fi
  if [ "$_sl_ping" = "$__id" ]; then
    _sl_ping=''
    if [ -z "${_sl_j[j/error]-}" ]; then _sl_ping_answered "$__id"; fi
  fi
  case ${_sl_abandoned[__id]-} in
    kept) _sl_abandoned[__id]='' ;;
    ?*) _sl_drop "$__id" ;;
  esac
}

# _sl_answered ID METHOD LINE
_sl_answered() {
  local __id=$1 __number
  if [[ $2 =~ ^(acquire|initialize|watch)$ && ${_sl_j[j/result]-} != '{' ]]; then
    printf -v '_sl_error[__id]' '%q ' protocol_violation "the daemon gave an answer that is none" '' ''
    _sl_answer[__id]=error
    return 0
  fi
  case $2 in
    acquire) _sl_granted "$__id" "${_sl_of[__id]}" ;;
    release) if [ -n "${_sl_of[__id]}" ]; then _sl_has[_sl_index[__id]]=''; fi ;;
    initialize)
      _sl_session=${_sl_j[j/result/session]-} _sl_lease_ms=${_sl_j[j/result/lease_ms]-}
      [[ $_sl_lease_ms =~ ^[0-9]{1,15}$ ]] || _sl_lease_ms=''
      ;;
    watch)
      __number=${_sl_j[j/result/watch]-}
      # Events may stand right behind this answer.
      if [[ $__number =~ ^[0-9]{1,15}$ ]] && [ -z "${_sl_abandoned[__id]-}" ]; then _sl_watches[__number]=${_sl_value[__id]} _sl_number=$__number; fi
      ;;
  esac
  [ "${_sl_value[__id]-}" != keep ] || _sl_error[__id]=$3
  [ -n "${_sl_answer[__id]-}" ] || _sl_answer[__id]=result
}

# _sl_granted ID HANDLE
_sl_granted() {
  local __handle=$2 __none='' __index __first __number __valid=${_sl_j[j/result/valid_ms]-} __waited=${_sl_j[j/result/waited_ms]-0}
  if [ -n "${_sl_abandoned[$1]-}" ]; then
    # Nobody waits for it any more.
    __handle=0
    _sl_new_from_answer 0
  fi
  __first=$((__handle * 64))
  for ((__index = __first; __index < __first + _sl_count[__handle]; __index++)); do
    _sl_token[__index]=${_sl_j[j/result/token]-}
    for ((__number = 0; __number < ${_sl_j[j/result/locks/count]:-0}; __number++)); do
      if [ "${_sl_j[j/result/locks/$__number/name]-}" = "${_sl_name[__index]}" ]; then _sl_token[__index]=${_sl_j[j/result/locks/$__number/token]-}; fi
    done
    [[ ${_sl_token[__index]} =~ ^[0-9]{1,16}$ ]] && _sl_has[__index]=1 || __none=1
  done
  if [ -n "$__none" ]; then
    _sl_give_back "$__handle"
    if [ "${_sl_state[__handle]}" = waiting ]; then _sl_state[__handle]=released; fi
    printf -v "_sl_error[$1]" '%q ' protocol_violation "the daemon gave an answer that is none" '' ''
    [ -n "${_sl_answer[$1]-}" ] || _sl_answer[$1]=error
    return 0
  fi
  _sl_mode[__handle]=${_sl_j[j/result/mode]-} _sl_state[__handle]=held
  if [[ $__valid =~ ^[0-9]{1,15}$ ]]; then
    [[ $__waited =~ ^[0-9]{1,15}$ ]] || __waited=0
    # From the grant on, however late this is read: the wait began at the daemon after the sending.
    _sl_span[__handle]=$__valid _sl_deadline[__handle]=$((_sl_sent[$1] + __waited + __valid))
  fi
  if [ -n "${_sl_abandoned[$1]-}" ]; then _sl_give_back "$__handle"; fi
}

_sl_new_from_answer() {
  local __number __names=()
  for ((__number = 0; __number < ${_sl_j[j/result/locks/count]:-0}; __number++)); do __names+=("${_sl_j[j/result/locks/$__number/name]-}"); done
  if [ "${#__names[@]}" -eq 0 ]; then __names=("${_sl_j[j/result/name]-}"); fi
  _sl_new "$1" '' "${__names[@]}"
}

# Those who hold that name under that token, as handles in `found` and places in `places`.
_sl_holding() {
  local __handle __index
  __found=() __places=()
  for __handle in ${_sl_state[@]+"${!_sl_state[@]}"}; do
    for ((__index = __handle * 64; __index < __handle * 64 + _sl_count[__handle]; __index++)); do
      if [ -n "${_sl_has[__index]}" ] && [ "${_sl_token[__index]}" = "$2" ] && [ "${_sl_name[__index]}" = "$1" ]; then
        __found+=("$__handle") __places+=("$__index")
      fi
    done
  done
}

_sl_notified() {
  local __name=${_sl_j[j/params/name]-} __token=${_sl_j[j/params/token]-} __found=() __places=() __number __handle __id __members __key
  case $1 in
    lost | contended)
      _sl_holding "$__name" "$__token"
      for __number in ${__found[@]+"${!__found[@]}"}; do
        __handle=${__found[__number]}
        if [ "$1" = lost ]; then
          _sl_has[__places[__number]]=''
          _sl_lose "$__handle" "$__name" "$__token" "${_sl_j[j/params/reason]-}" "${_sl_j[j/params/grace_ms]-0}" "${_sl_j[j/params/detail]-}"
        elif [ -n "${_sl_on_contended[__handle]}" ]; then
          _sl_call "${_sl_on_contended[__handle]}" "${_sl_label[__handle]}" "${_sl_j[j/params/waiters]-}"
        fi
      done
      ;;
    waiting)
      __id=${_sl_j[j/params/id]-}
      [[ $__id =~ ^[0-9]{1,15}$ ]] || return 0
      __handle=${_sl_of[__id]-}
      if [ -n "$__handle" ] && [ -z "${_sl_abandoned[__id]-}" ] && [ -n "${_sl_on_waiting[__handle]}" ]; then
        _sl_call "${_sl_on_waiting[__handle]}" "${_sl_label[__handle]}" "${_sl_j[j/params/position]-}"
      fi
      ;;
    transferred)
      [ -n "$_sl_accept" ] || return 0
      __handle=$((_sl_handles += 1))
      _sl_new "$__handle" "transferred-$__handle" "$__name"
      _sl_labels["_transferred-$__handle"]=$__handle
      _sl_token[__handle * 64]=$__token _sl_has[__handle * 64]=1 _sl_state[__handle]=held _sl_mode[__handle]=${_sl_j[j/params/mode]-}
      if [ -n "$_sl_lease_ms" ]; then
        # Nothing is known of how long it is good: that is asked at once.
        _sl_now
        _sl_span[__handle]=$_sl_lease_ms _sl_deadline[__handle]=$REPLY
      fi
      _sl_call "$_sl_accept" "transferred-$__handle" "$__name" "$__token"
      ;;
    event)
      __number=${_sl_j[j/params/watch]-}
      [[ $__number =~ ^[0-9]{1,15}$ ]] && [ -n "${_sl_watches[__number]-}" ] || return 0
      __members=("${_sl_watches[__number]}" "${_sl_j[j/params/kind]-}")
      for __key in name session token mode permits reason waiters host; do
        if [ -n "${_sl_j[j/params/$__key]-}" ]; then __members+=("$__key=${_sl_j[j/params/$__key]}"); fi
      done
      _sl_call "${__members[@]}"
      ;;
    backend | missed)
      for __number in ${_sl_watches[@]+"${!_sl_watches[@]}"}; do
        _sl_call "${_sl_watches[__number]}" "$1" "state=${_sl_j[j/params/state]-}" "count=${_sl_j[j/params/count]-}"
      done
      ;;
  esac
}

# sidelock_on_lost LABEL COMMAND: what is called when the lock is lost, of one that was transferred.
sidelock_on_lost() { _sl_on_lost[${_sl_labels[_$1]}]=$2; }

# How long holds are good

# The handles of those that end by themselves, in `timed`.
_sl_timed() {
  local __handle
  __timed=()
  for __handle in ${_sl_state[@]+"${!_sl_state[@]}"}; do
    if [ "${_sl_state[__handle]}" = held ] && [ -n "${_sl_deadline[__handle]}" ]; then __timed+=("$__handle"); fi
  done
}

_sl_ping_answered() {
  local __handle __timed=() __until __valid=${_sl_j[j/result/valid_ms]-} __index __held=0
  _sl_now
  _sl_no_ping_before=$((REPLY + 100))
  _sl_timed
  for __index in ${_sl_has[@]+"${!_sl_has[@]}"}; do if [ -n "${_sl_has[__index]}" ]; then __held=$((__held + 1)); fi; done
  for __handle in ${__timed[@]+"${__timed[@]}"}; do
    if [[ $__valid =~ ^[0-9]{1,15}$ ]]; then
      # This counts for all that was held when it was answered, from when it was asked.
      __until=$((_sl_sent[$1] + __valid)) _sl_span[__handle]=$__valid
      if [ "$__until" -gt "${_sl_deadline[__handle]}" ]; then _sl_deadline[__handle]=$__until; fi
    elif [ "$__held" -gt "$_sl_holds_told_max" ]; then
      _sl_deadline[__handle]=''
    fi
  done
}

# Asks how long holds are good before that time is over, and finds those whose time is. Gives the ms until then, or nothing.
_sl_tick() {
  local __timed=() __handle __now __ask='' __at __next='' __sent __index __quarter
  REPLY=''
  [ -z "$_sl_ended" ] || return 0
  _sl_timed
  [ "${#__timed[@]}" -gt 0 ] || return 0
  _sl_now
  __now=$REPLY
  for __handle in "${__timed[@]}"; do
    __at=$((_sl_deadline[__handle] - _sl_span[__handle] / 2))
    if [ -z "$__ask" ] || [ "$__at" -lt "$__ask" ]; then __ask=$__at; fi
  done
  if [ "$__ask" -lt "$_sl_no_ping_before" ]; then __ask=$_sl_no_ping_before; fi
  if [ -z "$_sl_ping" ]; then
    if [ "$__now" -lt "$__ask" ]; then REPLY=$((__ask - __now)); return 0; fi
    _sl_start ping '{}'
    _sl_ping=$REPLY
    _sl_abandoned[REPLY]=1
  fi
  # A process that was stopped itself asks before it judges.
  __sent=${_sl_sent[_sl_ping]}
  for __handle in "${__timed[@]}"; do
    __quarter=$((_sl_span[__handle] < 4000 ? _sl_span[__handle] / 4 : 1000))
    __at=$((__sent + __quarter > _sl_deadline[__handle] ? __sent + __quarter : _sl_deadline[__handle]))
    if [ "$__now" -lt "$__at" ]; then
      if [ -z "$__next" ] || [ "$__at" -lt "$__next" ]; then __next=$__at; fi
      continue
    fi
    for ((__index = __handle * 64; __index < __handle * 64 + _sl_count[__handle]; __index++)); do
      [ -z "${_sl_has[__index]}" ] || _sl_lose "$__handle" "${_sl_name[__index]}" "${_sl_token[__index]}" lease_expired 0 ''
    done
    _sl_give_back "$__handle"
  done
  REPLY=''
  if [ -n "$__next" ]; then REPLY=$((__next - __now)); fi
}
