#!/usr/bin/env bash
# Runs many seeds of the simulator from an optimized build. See --help.
set -euo pipefail
cd "$(dirname "$0")/../.."

usage() {
  cat <<'EOF'
usage: Tests/lib/seeds.sh FIRST COUNT

Builds the tests with optimization, into .build-seeds, and runs COUNT seeds from FIRST on, on all cores that this process
may use (taskset -c 0 Tests/lib/seeds.sh … leaves the others alone). What a seed has found is printed at the end; after
twenty such seeds it stops.

The build has the checks of overlapping accesses, preconditions and overflow checks, which a release does not all have; it
has no assertions (assert), which debug builds have.
EOF
}

case "${1-}" in
  -h | --help) usage; exit 0 ;;
esac
if [[ $# != 2 || ! $1$2 =~ ^[0-9]+$ ]]; then
  usage >&2
  exit 2
fi

flags=(-c release -Xswiftc -enable-testing --scratch-path .build-seeds)
nice swift build --build-tests "${flags[@]}"
SIDELOCK_SIM_FIRST=$1 SIDELOCK_SIM_SEEDS=$2 \
  nice swift test --skip-build --no-parallel "${flags[@]}" --filter noSeedBreaksAnInvariant | tee >(cat >&2) |
  grep "^$2 seeds, " >/dev/null # a filter that no test has is no failure
