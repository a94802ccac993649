import Foundation

/// Runs `body` on a thread of its own. A simulation computes for minutes without a pause; on the few threads that all
/// tests share it would block every other test.
func onThread<Result: Sendable>(_ body: @escaping @Sendable () -> Result) async -> Result {
  await withCheckedContinuation { continuation in
    let thread = Thread { continuation.resume(returning: body()) }
    thread.stackSize = 8 << 20
    thread.start()
  }
}
