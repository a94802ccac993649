# shellcheck shell=bash
# How releases are built. Sourced by Tests/run.sh, packaging/quickstart.sh and packaging/build-deb.sh, so that one build
# serves them all.

# The Swift library linked in; every symbol bound, and its table made read-only, before the program runs; no search path
# for libraries in the binary. Overlapping accesses to a variable are looked for by the builds of the tests (debug,
# simulator, sanitizers, fuzzing), not by the release: the checks were 40 % of the engine's instructions. The program
# exports no symbols, which the compiler asks for when it links the Swift library in: whatever is exported is kept, used or
# not, and of the TLS library that is 2 MB. Functions that are the same to the instruction, and whose addresses nobody
# compares, are there once: another quarter of a megabyte. The places that the loader moves are written down as a bitmap,
# which needs LLVM's linker, and glibc 2.36 (Debian 12) to run: 1.3 MB less.
release_flags=(-c release --static-swift-stdlib --disable-local-rpath -Xlinker -z -Xlinker now -Xlinker -z -Xlinker relro
  -Xlinker -z -Xlinker pack-relative-relocs -Xlinker --no-export-dynamic -Xlinker --icf=safe
  -Xswiftc -use-ld=lld -Xswiftc -enforce-exclusivity=unchecked)
export release_flags
