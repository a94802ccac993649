#!/usr/bin/env bash
# Runs many seeds of the simulator from an optimized build. See --help.
set -euo pipefail
cd "$(dirname "$0")/../.."

usage() {
  cat <<'EOF'
usage: Tests/lib/seeds.sh FIRST COUNT
       Tests/lib/seeds.sh --planted

Builds the simulator with optimization, into .build-seeds, and runs COUNT seeds from FIRST on, on all cores that this process
may use (taskset -c 0 Tests/lib/seeds.sh … leaves the others alone). What a seed has found is printed at the end; after
twenty such seeds it stops. --planted has the same search find mistakes that are planted for it.

The build has the checks of overlapping accesses, preconditions and overflow checks, which a release does not all have; it
has no assertions (assert), which debug builds have.
EOF
}

case "${1-}" in
  -h | --help) usage; exit 0 ;;
esac
if [[ "$*" != --planted && ! "$*" =~ ^[0-9]+\ [0-9]+$ ]]; then
  usage >&2
  exit 2
fi

export SIDELOCK_SEEDS=1 # Package.swift
flags=(-c release -Xswiftc -enable-testing --scratch-path .build-seeds)
# Of the packages that Package.swift names, only what the simulator uses.
nice swift build --product sidelockPackageTests "${flags[@]}"
# run TEST LINE fails also where no line of the output begins with LINE: a filter that no test has is no failure.
run() {
  nice swift test --skip-build --no-parallel "${flags[@]}" --filter "$1" | tee >(cat >&2) | grep "^$2" >/dev/null
}
if [ "$1" = --planted ]; then
  run plantedMistakeIsFound "✔ Test plantedMistakeIsFound"
else
  SIDELOCK_SIM_FIRST=$1 SIDELOCK_SIM_SEEDS=$2 run noSeedBreaksAnInvariant "$2 seeds, "
fi
