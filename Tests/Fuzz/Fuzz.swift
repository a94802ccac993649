// Coverage-guided fuzzing: libFuzzer mutates inputs, and keeps those that reach new code. See README.md.

import Glibc

/// A property of a part of the project that holds for every input.
struct FuzzTarget: Sendable {
  /// Its name on the command line, and its folder of found inputs.
  let name: String
  /// Traps where the property does not hold.
  let check: @Sendable ([UInt8]) -> Void
}

/// Ends the run with the input kept, because a property does not hold.
func violated(_ what: String, file: StaticString = #fileID, line: UInt = #line) -> Never {
  say("violated: \(what) (\(file):\(line))")
  abort()
}

private let isTraced = getenv("SIDELOCK_FUZZ_TRACE") != nil

/// Says what a target does, when SIDELOCK_FUZZ_TRACE is set.
func trace(_ text: @autoclosure () -> String) {
  if isTraced { say(text()) }
}

private func say(_ text: String) {
  let line = Array("\(text)\n".utf8)
  _ = write(STDERR_FILENO, line, line.count)
}

nonisolated(unsafe) private var target: FuzzTarget?

@_silgen_name("LLVMFuzzerRunDriver")
private func runDriver(
  _ count: UnsafeMutablePointer<CInt>,
  _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
  _ callback: @convention(c) (UnsafePointer<UInt8>?, Int) -> CInt
) -> CInt

/// libFuzzer's library wants this symbol even where its driver is called with another callback.
@_cdecl("LLVMFuzzerTestOneInput")
func testOneInput(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  target?.check(Array(UnsafeBufferPointer(start: bytes, count: count)))
  return 0
}

/// What SwiftPM makes `main` of. The first argument is a target's name, the rest is libFuzzer's, which starts this program
/// again without the name when it merges inputs.
@_cdecl("Fuzz_main")
func fuzzMain(_ count: CInt, _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> CInt {
  let names = fuzzTargets.map(\.name).joined(separator: "\n")
  var count = count
  var rest = arguments
  if let name = getenv(targetVariable), count >= 2, arguments[1]?.pointee == CChar(UInt8(ascii: "-")) {
    target = fuzzTarget(String(cString: name))
  } else if count >= 2, let name = arguments[1], strcmp(name, "--list") != 0 {
    target = fuzzTarget(String(cString: name))
    setenv(targetVariable, name, 1)
    arguments[1] = arguments[0]
    count -= 1
    rest += 1
  } else {
    print(names)
    return 0
  }
  guard target != nil else {
    say("there is no such target; these are:\n\(names)")
    return 2
  }
  return runDriver(&count, &rest, testOneInput)
}

private let targetVariable = "SIDELOCK_FUZZ_TARGET"

private func fuzzTarget(_ name: String) -> FuzzTarget? { (fuzzTargets + [planted]).first { $0.name == name } }
