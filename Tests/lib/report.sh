# shellcheck shell=bash
# Progress, counts and the summary of Tests/run.sh, which sources this.

passed=0
failed=0
failures=()
summary=()
log_directory=.build/test-logs

# After so many seconds a check that has not ended counts as hung: several times what the longest takes beside a load.
check_seconds_max=2400
# The process group of the check that runs; empty between two.
running_group=

# end_group ends the processes of the check that runs.
end_group() {
  [ -n "$running_group" ] || return 0
  kill -TERM -- "-$running_group" 2>/dev/null
  sleep 2
  kill -KILL -- "-$running_group" 2>/dev/null
  running_group=
}

# The process group of what is built ahead; empty where there is none.
background_group=

end_background() {
  [ -n "$background_group" ] || return 0
  kill -TERM -- "-$background_group" 2>/dev/null
  background_group=
}

# end_if_hung STARTED LOG ends the check that runs if it has not ended since STARTED ($SECONDS), and says in the log what
# there was.
end_if_hung() {
  if [ -z "$running_group" ] || [ $((SECONDS - $1)) -le "$check_seconds_max" ]; then return; fi
  {
    printf '\n--- not over after %s, so it was ended. The processes:\n' "$(elapsed "$check_seconds_max")"
    ps --ppid 2 -p 2 -N -o pgid,pid,stat,etime,args --forest | tail -n 60
  } >>"$2"
  failures+=("not over after $(elapsed "$check_seconds_max"), so it was ended: the processes are in $2")
  end_group
}

# elapsed SECONDS prints a duration such as 3:07.
elapsed() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

# note TEXT... prints a line with the time since the start.
note() { printf '[%s] %s\n' "$(elapsed "$SECONDS")" "$*"; }

# count PASSED FAILED NAME adds to the totals, and to the summary.
count() {
  passed=$((passed + $1))
  failed=$((failed + $2))
  local verdict=ok
  if [ "$2" != 0 ]; then
    verdict=FAILED
    failures+=("$3")
  fi
  local line
  line=$(printf '%-34s %6d passed %4d failed  %s' "$3" "$1" "$2" "$verdict")
  summary+=("$line")
  note "$line"
}

# quietly NAME COMMAND... runs a command with its output in a log, a sign of life every half minute, and the end of the
# log when it fails.
quietly() {
  local name=$1 log=$log_directory/${1//[^a-z0-9]/-}.log started=$SECONDS status=0
  shift
  note "$name …"
  # A process group of its own.
  set -m
  "$@" >"$log" 2>&1 </dev/null &
  set +m
  local pid=$! beat
  running_group=$pid
  while kill -0 "$pid" 2>/dev/null; do
    for ((beat = 0; beat < 300; beat++)); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    end_if_hung "$started" "$log"
    if [ "$beat" = 300 ]; then
      note "$name … $(elapsed $((SECONDS - started))) ($(tail -n 1 "$log" | tr -d '\r' | cut -c 1-80))"
    fi
  done
  wait "$pid" || status=$?
  running_group=
  if [ "$status" != 0 ]; then
    printf -- '--- the end of %s (status %d)\n' "$log" "$status"
    tail -n 80 "$log"
    printf -- '---\n'
  fi
  return "$status"
}

# check NAME COMMAND... is a test of its own: it passes if the command succeeds.
check() {
  if quietly "$@"; then count 1 0 "$1"; else count 0 1 "$1"; fi
}

# count_xunit NAME STATUS FILE counts the test cases of a runner's report. A skipped test counts as failed, and so do a
# report without any test and a runner that failed for a reason that its report does not tell.
count_xunit() {
  local name=$1 status=$2 file=$3 tests=0 bad=0 skipped=0 lines=()
  if [ -s "$file" ]; then
    mapfile -t lines < <(python3 Tests/lib/count_xunit.py "$file")
    read -r tests bad skipped <<<"${lines[0]-0 0 0}"
    failures+=("${lines[@]:1}")
  fi
  if [ "$skipped" != 0 ]; then note "$name: $skipped skipped, which is not allowed"; fi
  if [ "$tests" = 0 ]; then note "$name: no test ran"; fi
  local total_bad=$((bad + skipped))
  if { [ "$status" != 0 ] || [ "$tests" = 0 ]; } && [ "$total_bad" = 0 ]; then total_bad=1; fi
  local good=$((tests - bad - skipped))
  count "$((good < 0 ? 0 : good))" "$total_bad" "$name"
}

# finish prints the summary; the last line is the one that counts. Fails if anything failed, or nothing ran.
finish() {
  printf '\nSummary, after %s\n' "$(elapsed "$SECONDS")"
  if [ "${#summary[@]}" -gt 0 ]; then printf '  %s\n' "${summary[@]}"; fi
  if [ "${#failures[@]}" -gt 0 ]; then
    printf '\nFailed:\n'
    printf '  %s\n' "${failures[@]}"
  fi
  printf '\n%d passed, %d failed\n' "$passed" "$failed"
  [ "$failed" = 0 ] && [ "$passed" != 0 ]
}
