#!/usr/bin/env bash
# Runs every test of the project, from a fresh Debian with a Swift toolchain. See --help.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
# shellcheck source=packaging/lib/packages.sh
. packaging/lib/packages.sh
# shellcheck source=packaging/lib/release.sh
. packaging/lib/release.sh # release_flags
# shellcheck source=Tests/lib/report.sh
. Tests/lib/report.sh

all_parts=(lint imports units unit release budgets system clients servers adversary systemd package simulator quickstart threads fuzz)

usage() {
  cat <<'EOF'
usage: Tests/run.sh [PART…]

Installs what the tests need (Debian packages, as root or with sudo; Python packages in .venv), then runs the parts
named, or all of them:

  lint         swift format lint, shellcheck, Python syntax
  imports      which modules the targets import, with a self-test of the check
  units        systemd's judgement of the units in packaging/systemd: errors, and how exposed they are
  unit         swift test with the address sanitizer; the modules that the daemon links
  release      the release build with the Swift library linked in; its size and how fast it starts
  budgets      the instructions and allocations of the pure targets (callgrind), with a self-test of the check
  system       Tests/system against the release build (pytest; needs root); PYTEST_ARGS is passed on
  clients      the clients of protocol/clients against the conformance suite, also under a real systemd (needs root), and
               the suite against wrong clients
  servers      what talks most with Redis against Redis 6.2 and 8.2, Valkey 8.1 and 9.1 (pytest; needs root),
               on one of them under an ACL user with the rights of the documents; while clients runs, if that is run too
  adversary    Tests/adversary against the release build: what a user can do to another one (needs root)
  systemd      the daemon under a real systemd, started in namespaces of its own (needs root)
  package      the Debian package: lintian, and its life under a real systemd (needs root)
  simulator    10,000 seeds of the simulator, and planted mistakes found; while system runs, if that is run too
  quickstart   packaging/quickstart.sh --once
  threads      swift test with the thread sanitizer, but for the simulator, which has one thread
  fuzz         coverage-guided fuzzing for a minute, with a self-test of the search (Tests/Fuzz)

Logs are in .build/test-logs. The last line says "N passed, N failed"; the exit status is 0 if nothing failed. A
skipped test and a part in which no test ran count as failed.
EOF
}

for argument in "$@"; do
  case "$argument" in
    -h | --help) usage; exit 0 ;;
  esac
  if [[ " ${all_parts[*]} " != *" $argument "* ]]; then
    echo "There is no part \"$argument\"." >&2
    usage >&2
    exit 2
  fi
done
parts=("$@")
[ "${#parts[@]}" -gt 0 ] || parts=("${all_parts[@]}")

stripped_bytes_max=25000000
ready_milliseconds_max=100

install_everything() {
  install_packages binutils chromium curl dpkg-dev fish git groff-base iproute2 libc6-dev liblua5.1-0-dev libsystemd-dev libyaml-dev \
    lintian mandoc nodejs openssl pkg-config procps prometheus python3 python3-venv redis-server shellcheck socat systemd tmux util-linux valgrind \
    xz-utils zsh
}

install_python_packages() {
  [ -x .venv/bin/python ] || python3 -m venv .venv || return 1
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r Tests/system/requirements.txt
}

lint_shell() {
  git ls-files -z --cached --others --exclude-standard '*.sh' '*.bash' .ci/run | xargs -0 shellcheck -x -e SC2317 packaging/debian/p*
}

lint_python() {
  git ls-files -z --cached --others --exclude-standard '*.py' |
    PYTHONPYCACHEPREFIX=$PWD/.build/pycache xargs -0 python3 -W error -m py_compile
}

part_lint() {
  check "lint: swift format" swift format lint --strict -r Sources Tests Package.swift
  check "lint: shell" lint_shell
  check "lint: python" lint_python
}

part_imports() {
  check "imports: self-test" python3 Tests/lib/check_imports.py --self-test
  check "imports" python3 Tests/lib/check_imports.py
}

# sanitized NAME COMMAND... adds to a command of SwiftPM what builds with that sanitizer, in a folder of its own.
sanitized() { "${@:2}" "--sanitize=$1" --scratch-path ".build-${1:0:1}san"; }

# The reports of a sanitizer stand where it made them, among those of a thousand tests.
show_sanitized() {
  grep -A 40 'WARNING: ThreadSanitizer\|ERROR: AddressSanitizer\|^Fatal error\|recorded an issue' "$1" | head -n 300
  tail -n 20 "$1"
}

# swift_test SANITIZER NAME builds and runs the Swift tests.
swift_test() {
  local name=$2 status=0 file=$PWD/$log_directory/${2//[^a-z0-9]/-}
  # Swift Testing puts its name into the file's; XCTest, which nothing here uses, would have the plain one.
  local report=$file-swift-testing.xml
  rm -f "$report"
  if ! quietly "$name: build" sanitized "$1" swift build --build-tests; then
    count 0 1 "$name: build"
    return
  fi
  build_ahead
  # Every access is checked, which makes the simulator a hundred times as slow as optimized: the full number of seeds, and the search for
  # planted mistakes, are the part "simulator". It has one thread, so the thread sanitizer leaves it out. Leaks are looked for at the end
  # of a process, and the runtime of Swift keeps some memory for ever.
  # One after the other: Swift Testing runs all of them on as many threads as there are cores, where those that compute
  # for seconds keep those that wait for an answer from going on, and their limits pass.
  local skipped=(--skip "$planted_test")
  [ "$1" = address ] || skipped+=(--skip SimulatorTests)
  quietly "$name" sanitized "$1" env SIDELOCK_SIM_SEEDS=8 ASAN_OPTIONS=detect_leaks=0 \
    TSAN_OPTIONS="suppressions=$PWD/Tests/lib/tsan.supp" \
    swift test --skip-build --no-parallel "${skipped[@]}" --xunit-output "$file.xml" || status=$?
  [ "$status" = 0 ] || show_sanitized "$file.log"
  count_xunit "$name" "$status" "$report"
}

# The list of modules is in the source, but what a package brings along shows only in the binary.
daemon_links_no_foundation() {
  local linked
  linked=$(ldd "$(sanitized address swift build --show-bin-path)/sidelockd") || return 1
  echo "$linked"
  ! grep -E 'libFoundation\.so|lib_FoundationICU|libFoundationInternationalization' <<<"$linked"
}

part_unit() {
  swift_test address "unit tests"
  check "the daemon links no full Foundation" daemon_links_no_foundation
}

build_release() {
  local product
  for product in sidelockd sidelock; do
    swift build "${release_flags[@]}" --product "$product" || return 1
  done
}

stripped_size() {
  local stripped size
  stripped=$(mktemp) || return 1
  strip -o "$stripped" "$1" && size=$(stat -c %s "$stripped")
  rm -f "$stripped"
  echo "stripped: $size bytes; limit $stripped_bytes_max"
  [ -n "$size" ] && [ "$size" -lt "$stripped_bytes_max" ]
}

show_log() { tail -n 1 "$log_directory/${1//[^a-z0-9]/-}.log"; }

need_release() {
  if [ -z "${release_built-}" ]; then
    release_built=no
    if quietly "release: build" build_release; then
      release_built=yes
      bin=$(swift build "${release_flags[@]}" --show-bin-path)
      count 1 0 "release: build"
    else
      count 0 1 "release: build"
    fi
  fi
  [ "$release_built" = yes ]
}

part_release() {
  need_release || return
  check "release: size" stripped_size "$bin/sidelockd"
  show_log "release: size"
  check "release: start to ready" python3 Tests/lib/start_to_ready.py "$bin/sidelockd" "$ready_milliseconds_max"
  show_log "release: start to ready"
}

build_budgets() { swift build "${release_flags[@]}" --product Budgets; }

part_budgets() {
  need_release || return
  check "budgets: self-test" python3 Tests/lib/budgets.py --self-test
  check "budgets: build" build_budgets
  check "budgets" python3 Tests/lib/budgets.py check "$bin/Budgets"
}

# They wait for timers and servers most of the time, so four runs go on at a time.
long_system_tests=(test_sentinel.py test_cluster.py test_command_bounds.py)
fault_system_tests=(test_addresses.py test_chaos.py test_credentials.py test_data_loss.py test_dead_host.py test_history.py
  test_inbox_flood.py test_link_faults.py test_places.py test_slow_commands.py test_slow_links.py)
command_system_tests=(test_bench.py test_command_streams.py test_dashboard.py test_doctor.py test_documents.py test_exporter.py test_hold.py
  test_migration.py test_monitoring.py test_on_lost.py test_pages.py test_redis_refuses.py test_run_command.py test_run_waiting.py
  test_transcripts.py test_watch_all.py)

part_system() {
  need_release || return
  build_ahead
  run_pytest system "long: ${long_system_tests[*]}" "faults: ${fault_system_tests[*]}" "command: ${command_system_tests[*]}"
}

# Whether the part $1 is to be run.
has_part() { [[ " ${parts[*]} " == *" $1 "* ]]; }

planted_test=plantedMistakeIsFound
seeds_log=$log_directory/simulator.log

# Optimized, ten seeds take as long as one of the debug build.
run_seeds() { Tests/lib/seeds.sh 1 10000 && Tests/lib/seeds.sh --planted; }

# Succeeds or fails as the seeds that run in the background.
await_seeds() {
  while kill -0 "$background_group" 2>/dev/null && [ ! -s "$seeds_log.status" ]; do sleep 1; done
  cat "$seeds_log.ahead"
  return "$(cat "$seeds_log.status" || echo 1)"
}

part_simulator() {
  if [ -n "$background_group" ]; then
    check "simulator" await_seeds
  else
    check "simulator" run_seeds
  fi
}

# Does in the background, once, what later parts need: the unit tests use one core, and the system tests wait for timers and
# servers most of the time. A part that comes before its build is done waits for it, as only one build at a time can work in
# a folder; and it tells what is wrong, as it builds what is missing.
build_ahead() {
  [ -z "$background_group" ] || return 0
  rm -f "$seeds_log.status"
  set -m
  (
    if has_part release; then build_release; fi
    if has_part threads; then sanitized thread swift build --build-tests; fi
    if has_part fuzz; then python3 Tests/lib/fuzz.py --build; fi
    if has_part simulator; then
      run_seeds >"$seeds_log.ahead" 2>&1
      echo $? >"$seeds_log.status"
    fi
  ) >"$log_directory/build-ahead.log" 2>&1 </dev/null &
  set +m
  background_group=$!
  renice -n 19 -g "$background_group" >/dev/null
}

part_adversary() { run_pytest adversary; }

# run_pytest NAME ["LABEL: FILE..."...] runs the tests in Tests/NAME against the release build, and at the same time those in
# the files of each label.
run_pytest() {
  local name=$1 label group files apart=() arguments=()
  shift
  need_release || return
  if ! quietly "$name: python packages" install_python_packages; then
    count 0 1 "$name: python packages"
    return
  fi
  read -r -a arguments <<<"${PYTEST_ARGS-}"
  # What is asked for by name runs by itself.
  [ "${#arguments[@]}" = 0 ] || set --
  local labels=("$name")
  for group in "$@"; do labels+=("$name, ${group%%:*}"); done
  set -m
  (
    cd "Tests/$name" || exit 1
    for group in "$@"; do
      read -r -a files <<<"${group#*:}"
      apart+=("${files[@]/#/--ignore=}")
      pytest "$name, ${group%%:*}" "${files[@]}" &
    done
    pytest "$name" "${apart[@]}" "${arguments[@]}"
    wait
  ) </dev/null &
  set +m
  follow_pytest $! "${labels[@]}"
  for label in "${labels[@]}"; do
    local log
    log=$(pytest_log "$label")
    sed -n '/^=.* measured =/,/^=.* slowest/p' "$log.log"
    local status
    status=$(cat "$log.status" 2>/dev/null)
    show_failures "${status:-1}" "$log.log"
    count_xunit "$label" "${status:-1}" "$log.xml"
  done
}

# Where the log of such a run stands; its other files have the same name with another ending.
pytest_log() { printf '%s/%s' "$log_directory" "${1//[^a-z0-9]/-}"; }

# pytest LABEL ARGUMENT... runs tests of the folder that the shell is in, two below the top.
pytest() {
  local log
  log=../../$(pytest_log "$1")
  rm -f "$log.status" "$log.xml"
  SIDELOCKD=$bin/sidelockd SIDELOCK=$bin/sidelock \
    ../../.venv/bin/python -m pytest --color=no -v --durations=10 --junit-xml "$log.xml" "${@:2}" >"$log.log" 2>&1
  echo $? >"$log.status"
}

# show_failures STATUS LOG prints what pytest says of the tests that failed, or the end of the log.
show_failures() {
  [ "$1" != 0 ] || return 0
  if grep -q '^=.* FAILURES =\|^=.* ERRORS =' "$2"; then
    sed -n '/^=.* FAILURES =\|^=.* ERRORS =/,$p' "$2" | head -n 400
  else
    tail -n 120 "$2"
  fi
}

# follow_pytest PID LABEL... shows how far the tests have come, until the process ends.
follow_pytest() {
  local pid=$1 started=$SECONDS label now
  local -A last=()
  running_group=$pid
  note "$2 …"
  while kill -0 "$pid" 2>/dev/null; do
    sleep 5
    for label in "${@:2}"; do
      now=$(grep -E '(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) +\[ *[0-9]+%\]' "$(pytest_log "$label").log" | tail -n 1)
      if [ -n "$now" ] && [ "$now" != "${last[$label]-}" ]; then note "  $now"; fi
      last[$label]=$now
      end_if_hung "$started" "$(pytest_log "$label").log"
    done
  done
  running_group=
  wait "$pid"
}

# What the languages of protocol/clients need.
install_toolchains() {
  install_packages cargo default-jdk-headless gcc golang-go libc6-dev make mypy node-typescript nodejs perl php-cli pkg-config python3 python3-venv ruby rustc \
    socat
}

client_log() { printf '%s/clients--%s' "$log_directory" "$1"; }

# run_clients NAME... holds these clients to the suite, two at a time: they wait for timers and servers most of the time.
run_clients() {
  local name
  export SIDELOCKD=$bin/sidelockd CLIENTS_ALONE=$log_directory/clients.alone
  for name in "$@"; do
    rm -f "$(client_log "$name").status"
    while [ "$(jobs -pr | wc -l)" -ge 2 ]; do wait -n; done
    (
      status=0
      Tests/lib/clients.py "$name" >"$(client_log "$name").log" 2>&1 </dev/null || status=$?
      echo "$status" >"$(client_log "$name").status"
      echo "$name: $(tail -n 1 "$(client_log "$name").log")"
    ) &
  done
  wait
}

part_clients() {
  need_release || return
  if ! quietly "clients: toolchains" install_toolchains; then
    count 0 1 "clients: toolchains"
    return
  fi
  local page name names=() status
  check "clients: self-test" protocol/conformance/run --sidelockd "$bin/sidelockd" --self-test
  for page in protocol/clients/*/README.md; do names+=("$(basename "$(dirname "$page")")"); done
  quietly "clients" run_clients "${names[@]}"
  for name in "${names[@]}"; do
    status=$(cat "$(client_log "$name").status" 2>/dev/null)
    if [ "${status:-1}" = 0 ]; then
      count 1 0 "clients: $name"
    else
      tail -n 80 "$(client_log "$name").log"
      count 0 1 "clients: $name"
    fi
    grep -E 'lines of code| passed, ' "$(client_log "$name").log"
  done
}

# The tests in which most depends on what the server does.
server_tests=(test_break test_credentials test_data_loss test_dead_host test_history test_chaos test_interop test_lifecycle test_link_faults
  test_modes test_outage test_places test_plain_primary test_redis_rights test_replicas)

install_servers() {
  install_python_packages && .venv/bin/python Tests/lib/servers.py .build/servers >"$log_directory/servers.txt"
}

# Where the log of a server stands; its other files have the same name with another ending.
server_log() { printf '%s/servers-%s' "$log_directory" "${1//[^A-Za-z0-9.]/-}"; }

# The server on which the daemons have the login of a user with the rights that the documents say are enough.
acl_server="Redis 8.2"

# Runs the tests on all the servers at a time: they wait for timers most of the time.
run_servers() {
  local program name log
  while read -r program name; do
    log=$PWD/$(server_log "$name")
    rm -f "$log.xml" "$log.status"
    (
      cd Tests/system || exit 1
      if [ "$name" = "$acl_server" ]; then export SIDELOCK_TEST_ACL=1; fi
      SIDELOCK_TEST_REDIS=$program SIDELOCKD=$bin/sidelockd SIDELOCK=$bin/sidelock \
        ../../.venv/bin/python -m pytest --color=no -v --junit-xml "$log.xml" "${server_tests[@]/%/.py}" \
        >"$log.log" 2>&1 </dev/null
      echo $? >"$log.status"
      echo "$name: $(tail -n 1 "$log.log")"
    ) &
  done <"$log_directory/servers.txt"
  wait
}

part_servers() {
  need_release || return
  if ! quietly "servers: packages" install_servers; then
    count 0 1 "servers: packages"
    return
  fi
  quietly "servers" run_servers
  local program name log status
  while read -r program name; do
    log=$(server_log "$name")
    status=$(cat "$log.status" 2>/dev/null)
    show_failures "${status:-1}" "$log.log"
    count_xunit "$name" "${status:-1}" "$log.xml"
  done <"$log_directory/servers.txt"
}

part_systemd() {
  need_release || return
  check "systemd" Tests/lib/systemd-test.sh "$bin/sidelockd"
}

# The binaries of the release build, packed.
build_package() {
  rm -rf "$log_directory/package"
  packaging/build-deb.sh --binaries "$bin" --output "$log_directory/package" --fast
}

tarball_runs() {
  local directory=$log_directory/package
  tar --extract --xz --file "$directory"/sidelock-*.tar.xz --directory "$directory" --strip-components 1 &&
    "$directory/usr/sbin/sidelockd" --config "$directory/etc/sidelock/sidelockd.yaml" --check &&
    "$directory/usr/bin/sidelock" --version &&
    [ -s "$directory/lib/systemd/system/sidelockd.socket" ] &&
    python3 packaging/lib/links.py --check "$directory/usr/share/doc/sidelock"
}

part_units() {
  check "units" Tests/lib/units-test.sh
}

part_package() {
  need_release || return
  if ! quietly "package: build" build_package; then
    count 0 1 "package: build"
    return
  fi
  check "package: tarball" tarball_runs
  check "package: lintian" lintian --allow-root --fail-on error "$log_directory/package"/*.deb
  check "package: service" Tests/lib/service-test.sh "$log_directory/package"/*.deb
}

part_quickstart() {
  check "quickstart" packaging/quickstart.sh --once
  grep -a '^From the kill' "$log_directory/quickstart.log" || true
}

part_threads() { swift_test thread "thread sanitizer"; }

part_fuzz() {
  check "fuzz: self-test" python3 Tests/lib/fuzz.py --self-test
  check "fuzz" python3 Tests/lib/fuzz.py --seconds 60
  sed -n '/ runs, /p' "$log_directory/fuzz.log"
}

main() {
  mkdir -p "$log_directory"
  trap 'end_group; end_background; exit 130' INT TERM HUP
  if ! command -v swift >/dev/null; then
    echo "There is no swift on PATH; get a toolchain from swift.org." >&2
    exit 1
  fi
  note "installing what is missing …"
  if ! install_everything; then
    count 0 1 "install"
    finish
    exit 1
  fi
  for part in "${parts[@]}"; do "part_$part"; done
  end_background
  finish
}

# In one piece, so that an edit of this file does not change a run that is under way.
main
exit
