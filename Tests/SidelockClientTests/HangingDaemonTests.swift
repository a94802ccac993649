import Foundation
import SidelockClient
import Testing

/// A daemon that is stopped, or that hangs, answers nothing, or answers late.
struct HangingDaemonTests {
  /// Short, where nothing is to come in time.
  static let patience = Duration.milliseconds(100)
  /// Where something is, on a busy machine, too.
  static let longPatience = Duration.seconds(2)

  func expectNoAnswer(_ body: () async throws -> Void) async {
    let error = await #expect(throws: SidelockError.self) { try await body() }
    #expect(error?.reason == .noAnswer)
  }

  @Test func nothingWaitsForEver() async throws {
    try await FakeDaemon.run(answerTimeout: Self.patience) { peer in
      while try peer.line() != nil {}
    } client: { client in
      await expectNoAnswer { try await client.ping() }
      await expectNoAnswer { _ = try await client.list() }
      await expectNoAnswer { _ = try await client.watch(.prefix("")) }
      await expectNoAnswer { try await client.release("x", token: 1) }
      await expectNoAnswer { _ = try await client.acquire("x", wait: .try) }
      await expectNoAnswer { _ = try await client.acquire("x", wait: .limit(.milliseconds(20))) }
      await expectNoAnswer { _ = try await client.acquire(all: ["x", "y"], wait: .try) }
      await expectNoAnswer { _ = try await client.call("acquire", params: ["name": "x", "wait_ms": 5]) }
    }
  }

  @Test func aLimitIsNotCutShort() async throws {
    try await FakeDaemon.run(answerTimeout: Self.longPatience) { peer in
      let request = try peer.request("acquire")
      usleep(2_100_000)
      peer.grant(request, "x", token: 5)
      try peer.release("x", token: 5)
    } client: { client in
      let lock = try await client.acquire("x", wait: .limit(.seconds(3600)))
      try await lock.release()
    }
  }

  /// It waits for its store: whoever asked is answered, however late.
  @Test func aDaemonThatAnswersAPingIsWaitedFor() async throws {
    try await FakeDaemon.run(answerTimeout: Self.longPatience * 2) { peer in
      let request = try peer.request("acquire")
      peer.reply(to: try peer.request("ping"), [:])
      // Comes only when the first answer has been heard.
      peer.reply(to: try peer.request("ping"), [:])
      peer.grant(request, "x", token: 5)
      try peer.release("x", token: 5)
    } client: { client in
      let lock = try await client.acquire("x", wait: .try)
      try await lock.release()
    }
  }

  @Test(arguments: [true, false])
  func aLateGrantIsGivenBack(isRaw: Bool) async throws {
    let isGivenUp = DispatchSemaphore(value: 0)
    let isDone = Signal()
    try await FakeDaemon.run(answerTimeout: Self.patience) { peer in
      defer { Task { await isDone.raise() } }
      let request = try peer.request("acquire")
      isGivenUp.wait()
      _ = try peer.request("ping")
      if !isRaw { _ = try peer.request("cancel") }
      peer.grant(request, "x", token: 5)
      try peer.release("x", token: 5)
    } client: { client in
      await expectNoAnswer {
        if isRaw {
          _ = try await client.call("acquire", params: ["name": "x", "wait_ms": 0])
        } else {
          _ = try await client.acquire("x", wait: .try)
        }
      }
      isGivenUp.signal()
      await isDone.wait()
    }
  }

  @Test func aTaskThatIsCancelledDoesNotWaitForEver() async throws {
    let isAsked = Signal()
    try await FakeDaemon.run(answerTimeout: Self.patience) { peer in
      _ = try peer.request("acquire")
      Task { await isAsked.raise() }
      while try peer.line() != nil {}
    } client: { client in
      let task = Task { try await client.acquire("x") }
      await isAsked.wait()
      task.cancel()
      await #expect(throws: CancellationError.self) { _ = try await task.value }
    }
  }

  @Test func aReleaseThatIsAnsweredLateCounts() async throws {
    let isGivenUp = DispatchSemaphore(value: 0)
    try await FakeDaemon.run(answerTimeout: Self.longPatience) { peer in
      try peer.grant("x", token: 5)
      let request = try peer.request("release")
      _ = try peer.request("ping")
      isGivenUp.wait()
      peer.reply(to: request, ["name": "x", "token": 5, "remaining": 0])
      peer.lose("x", token: 5)
      let ping = try peer.request("ping")
      peer.reply(to: ping, [:])
    } client: { client in
      let lock = try await client.acquire("x")
      await expectNoAnswer { try await lock.release() }
      isGivenUp.signal()
      try await client.ping()
      #expect(!lock.isLost)
    }
  }
}
