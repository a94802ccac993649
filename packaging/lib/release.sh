# shellcheck shell=bash
# How releases are built. Sourced by Tests/run.sh, packaging/quickstart.sh and packaging/build-deb.sh, so that one build
# serves them all.

# The Swift library linked in; every symbol bound, and its table made read-only, before the program runs; no search path
# for libraries in the binary.
release_flags=(-c release --static-swift-stdlib --disable-local-rpath -Xlinker -z -Xlinker now -Xlinker -z -Xlinker relro)
export release_flags
