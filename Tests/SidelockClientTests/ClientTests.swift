import Foundation
public import SidelockClient
import NIOConcurrencyHelpers
import Testing

@Suite(.timeLimit(.minutes(2)))
struct ClientTests {
  @Test func acquireSendsWhatWasAskedAndTellsTheGrant() async throws {
    try await FakeDaemon.run { peer in
      let request = try peer.grant("a b", token: 41)
      guard
        request["params"] == ["name": "a b", "wait_ms": 1500, "max_hold_ms": 60_000, "meta": "why"]
      else { throw FakeDaemon.Unexpected(what: request.serialized) }
      let extend = try peer.request("extend")
      guard extend["params"] == ["name": "a b", "token": 41, "max_hold_ms": nil] else {
        throw FakeDaemon.Unexpected(what: extend.serialized)
      }
      peer.reply(to: extend, ["name": "a b", "token": 41, "max_hold_ms": nil])
      try peer.release("a b", token: 41)
      try peer.expectEnd()
    } client: { client in
      let lock = try await client.acquire("a b", wait: .limit(.seconds(1.5)), maxHold: .seconds(60), meta: "why")
      #expect(lock.name == "a b")
      #expect(lock.token == 41)
      #expect(lock.waited == .milliseconds(7))
      #expect(lock.validity == .seconds(3600))
      #expect(!lock.isLost)
      try await lock.extend(maxHold: nil)
      try await lock.release()
    }
  }

  @Test(arguments: [SidelockClient.Wait.forever, .try, .limit(.zero), .limit(.microseconds(1)), .limit(.seconds(1e11))])
  func waitIsWordedAsTheProtocolWantsIt(wait: SidelockClient.Wait) async throws {
    let expected: JSONValue? =
      switch wait {
      case .forever: nil
      case .try, .limit(.zero): 0
      case .limit(.microseconds(1)): 1
      case .limit: 31_536_000_000
      }
    try await FakeDaemon.run { peer in
      let request = try peer.grant("x", token: 1)
      guard request["params"]?["wait_ms"] == expected else { throw FakeDaemon.Unexpected(what: request.serialized) }
    } client: { client in
      _ = try await client.acquire("x", wait: wait)
    }
  }

  @Test func refusalsAreTyped() async throws {
    try await FakeDaemon.run { peer in
      peer.refuse(try peer.request("acquire"), code: 1, reason: "busy")
      try peer.expectEnd()
    } client: { client in
      let error = await #expect(throws: SidelockError.self) { try await client.acquire("x", wait: .try) }
      #expect(error?.code == 1)
      #expect(error?.reason == .busy)
      #expect(error?.message == "refused")
      #expect(error?.data?["reason"] == "busy")
    }
  }

  /// Their names are equal as strings, and every lock counts its own tokens.
  @Test func aLossIsOfTheLockThatHasItsVeryBytes() async throws {
    let (composed, decomposed) = ("\u{E9}", "e\u{301}")
    try await FakeDaemon.run { peer in
      try peer.grant(composed, token: 5)
      try peer.grant(decomposed, token: 5)
      peer.lose(decomposed, token: 5)
      peer.reply(to: try peer.request("ping"), [:])
      try peer.expectEnd()
    } client: { client in
      let kept = try await client.acquire(composed)
      let lost = try await client.acquire(decomposed)
      // Its reply comes after the loss.
      try await client.ping()
      #expect(!kept.isLost)
      #expect(lost.isLost)
    }
  }

  @Test func aLossReachesTheLockAndItsCallbackOnce() async throws {
    let notices = NIOLockedValueBox<[LostNotice]>([])
    try await FakeDaemon.run { peer in
      try peer.grant("x", token: 5)
      peer.lose("x", token: 4)
      peer.lose("x", token: 5)
      peer.lose("x", token: 5)
      peer.reply(to: try peer.request("ping"), [:])
      try peer.expectEnd()
    } client: { client in
      let lock = try await client.acquire("x") { notice in notices.withLockedValue { $0.append(notice) } }
      // Its reply comes after the losses.
      try await client.ping()
      let expected = LostNotice(name: "x", token: 5, reason: "lease_expired", graceMilliseconds: 1500)
      #expect(lock.lostNotice == expected)
      #expect(notices.withLockedValue { $0 } == [expected])
      let error = await #expect(throws: SidelockError.self) { try await lock.release() }
      #expect(error?.reason == .lost)
      await #expect(throws: SidelockError.self) { try await lock.extend(maxHold: .seconds(1)) }
    }
  }

  @Test func withLockReleasesWhateverTheBodyDid() async throws {
    struct Failure: Error {}
    try await FakeDaemon.run { peer in
      for token in 1...3 {
        try peer.grant("x", token: Int64(token))
        try peer.release("x", token: Int64(token))
      }
      try peer.expectEnd()
    } client: { client in
      let token = try await client.withLock("x") { $0.token }
      #expect(token == 1)
      await #expect(throws: Failure.self) { try await client.withLock("x") { _ in throw Failure() } }
      let value = try await client.withLock("x") { lock in
        try await lock.release()
        try Task.checkCancellation()
        return 9
      }
      #expect(value == 9)
    }
  }

  @Test func withLockCancelsItsBodyWhenTheLockIsLost() async throws {
    try await FakeDaemon.run { peer in
      try peer.grant("x", token: 5)
      _ = try peer.request("ping")
      peer.lose("x", token: 5)
      try peer.expectEnd()
    } client: { client in
      let error = await #expect(throws: SidelockError.self) {
        try await client.withLock("x") { _ in
          // Says that the body runs; the answer never comes.
          Task { try await client.ping() }
          try await Task.sleep(for: .seconds(600))
        }
      }
      #expect(error?.reason == .lost)
    }
  }

  @Test func aCancelledWaitIsWithdrawn() async throws {
    let isWaiting = Signal()
    try await FakeDaemon.run { peer in
      let acquire = try peer.request("acquire")
      Task { await isWaiting.raise() }
      let cancel = try peer.request("cancel")
      guard cancel["id"] == nil, cancel["params"] == ["id": acquire["id"] ?? .null] else {
        throw FakeDaemon.Unexpected(what: cancel.serialized)
      }
      peer.refuse(acquire, code: 3, reason: "cancelled")
      peer.reply(to: try peer.request("ping"), [:])
      try peer.expectEnd()
    } client: { client in
      let task = Task { try await client.acquire("x") }
      await isWaiting.wait()
      task.cancel()
      await #expect(throws: CancellationError.self) { try await task.value }
      // The connection goes on.
      try await client.ping()
    }
  }

  @Test func aGrantThatCrossesTheCancellationIsReleasedBeforeAcquireReturns() async throws {
    let isWaiting = Signal()
    let isReleased = NIOLockedValueBox(false)
    try await FakeDaemon.run { peer in
      let acquire = try peer.request("acquire")
      Task { await isWaiting.raise() }
      _ = try peer.request("cancel")
      peer.grant(acquire, "x", token: 77)
      let release = try peer.request("release")
      guard release["params"] == ["name": "x", "token": 77] else {
        throw FakeDaemon.Unexpected(what: release.serialized)
      }
      isReleased.withLockedValue { $0 = true }
      peer.reply(to: release, ["name": "x", "token": 77, "remaining": 0])
      try peer.expectEnd()
    } client: { client in
      let task = Task { try await client.acquire("x") }
      await isWaiting.wait()
      task.cancel()
      await #expect(throws: CancellationError.self) { try await task.value }
      #expect(isReleased.withLockedValue { $0 })
    }
  }

  @Test func aTaskThatIsCancelledAlreadyAsksForNothing() async throws {
    try await FakeDaemon.run { peer in
      try peer.expectEnd()
    } client: { client in
      let task = Task {
        withUnsafeCurrentTask { $0?.cancel() }
        return try await client.acquire("x")
      }
      await #expect(throws: CancellationError.self) { try await task.value }
    }
  }

  @Test func cancellingAtAnyMomentLeavesNothingBehind() async throws {
    let rounds = 200
    try await FakeDaemon.run { peer in
      // Grants at once; whatever was granted must be released, in whatever way the cancellation crossed it.
      var held: Set<Int64> = []
      var token: Int64 = 0
      while let line = try peer.line() {
        let request = try JSONValue(parsing: line)
        switch request["method"]?.stringValue {
        case "acquire":
          token += 1
          held.insert(token)
          peer.grant(request, "x", token: token)
        case "release":
          held.remove(request["params"]?["token"]?.intValue ?? 0)
          peer.reply(to: request, [:])
        case "ping":
          guard held.isEmpty else { throw FakeDaemon.Unexpected(what: "still held: \(held)") }
          peer.reply(to: request, [:])
        default: break
        }
      }
    } client: { client in
      for round in 0..<rounds {
        let task = Task {
          let lock = try await client.acquire("x")
          try await lock.release()
        }
        for _ in 0..<(round % 20) { await Task.yield() }
        task.cancel()
        _ = await task.result
      }
      try await client.ping()
    }
  }

  @Test func theEndOfTheConnectionFailsWhatIsPendingAndLosesWhatIsHeld() async throws {
    try await FakeDaemon.run { peer in
      try peer.grant("x", token: 5)
      _ = try peer.request("acquire")
    } client: { client in
      let lock = try await client.acquire("x")
      let error = await #expect(throws: SidelockError.self) { try await client.acquire("y") }
      #expect(error?.reason == .connectionLost)
      #expect(lock.lostNotice?.reason == "connection_ended")
    }
  }

  enum Garbage: String, CaseIterable {
    case prose = "nonsense\n"
    case array = "[]\n"
    case number = "17\n"
    case wrongMethod = "{\"jsonrpc\":\"2.0\",\"method\":7}\n"
    case empty = "{}\n"
    case zeroByte = "\u{0}\n"
    case nested
    case endless
    case refusalOfNothing =
      "{\"id\":null,\"error\":{\"code\":-1,\"message\":\"no\",\"data\":{\"reason\":\"protocol_violation\"}}}\n"

    /// What costs the connection also behind what is no nonsense.
    static let grave: [Garbage] = [.endless, .refusalOfNothing]
    static let slight = allCases.filter { !grave.contains($0) }

    var text: String {
      switch self {
      case .nested: String(repeating: "[", count: 100_000) + "\n"
      case .endless: String(repeating: "x", count: 3 << 20)
      default: rawValue
      }
    }
  }

  @Test(arguments: Garbage.allCases)
  func whoSpeaksGarbageFirstIsNoDaemon(garbage: Garbage) async throws {
    try await FakeDaemon.run { peer in
      _ = try peer.request("acquire")
      peer.send(garbage.text)
      _ = try? peer.line()
    } client: { client in
      let error = await #expect(throws: SidelockError.self) { try await client.acquire("y") }
      #expect(error?.reason == .protocolViolation)
    }
  }

  @Test(arguments: Garbage.slight)
  func garbageCostsNoLock(garbage: Garbage) async throws {
    try await FakeDaemon.run { peer in
      try peer.grant("x", token: 5)
      let request = try peer.request("acquire")
      peer.send(garbage.text)
      peer.grant(request, "y", token: 6)
      try peer.expectEnd()
    } client: { client in
      let lock = try await client.acquire("x")
      let other = try await client.acquire("y")
      #expect(lock.isHeld && other.token == 6)
    }
  }

  @Test(arguments: Garbage.grave)
  func graveGarbageEndsTheConnection(garbage: Garbage) async throws {
    try await FakeDaemon.run { peer in
      try peer.grant("x", token: 5)
      _ = try peer.request("acquire")
      peer.send(garbage.text)
      _ = try? peer.line()
    } client: { client in
      let lock = try await client.acquire("x")
      let error = await #expect(throws: SidelockError.self) { try await client.acquire("y") }
      #expect(error?.reason == .protocolViolation)
      #expect(lock.isLost)
    }
  }

  @Test func aGrantWithoutATokenIsNone() async throws {
    try await FakeDaemon.run { peer in
      peer.reply(to: try peer.request("acquire"), ["name": "x"])
      try peer.grant("x", token: 6)
      try peer.expectEnd()
    } client: { client in
      let error = await #expect(throws: SidelockError.self) { try await client.acquire("x") }
      #expect(error?.reason == .protocolViolation)
      let lock = try await client.acquire("x")
      #expect(lock.token == 6)
    }
  }

  @Test func repliesMayComeInAnyOrderAndWhatIsUnknownIsIgnored() async throws {
    try await FakeDaemon.run { peer in
      let first = try peer.request("acquire")
      let second = try peer.request("acquire")
      peer.send("\r\n\n")
      peer.send(["jsonrpc": "2.0", "method": "draining", "params": [:], "new": 1])
      peer.send(["jsonrpc": "2.0", "id": 4711, "result": [:]])
      peer.grant(second, second["params"]?["name"]?.stringValue ?? "", token: 2)
      peer.grant(first, first["params"]?["name"]?.stringValue ?? "", token: 1)
      _ = try? peer.line()
    } client: { client in
      async let a = client.acquire("a")
      async let b = client.acquire("b")
      let locks = try await [a, b]
      #expect(locks.map(\.name) == ["a", "b"])
      #expect(Set(locks.map(\.token)) == [1, 2])
    }
  }

  @Test func listAsksForAllPages() async throws {
    try await FakeDaemon.run { peer in
      let first = try peer.request("list")
      guard first["params"] == ["prefix": "p", "scope": "all"] else {
        throw FakeDaemon.Unexpected(what: first.serialized)
      }
      peer.reply(to: first, ["locks": [["name": "p1", "waiting": 2]], "cursor": "c"])
      let second = try peer.request("list")
      guard second["params"]?["cursor"] == "c" else { throw FakeDaemon.Unexpected(what: second.serialized) }
      peer.reply(to: second, ["locks": [["name": "p2", "holders": [["host": "h", "pid": 3]]]], "cursor": nil])
      try peer.expectEnd()
    } client: { client in
      let locks = try await client.list(prefix: "p", allHosts: true)
      #expect(locks.map(\.name) == ["p1", "p2"])
      #expect(locks.first?.waiting == 2)
      #expect(locks.last?.holders.first?.pid == 3)
    }
  }

  @Test func rawCallsTakeAndGiveJSON() async throws {
    try await FakeDaemon.run { peer in
      let request = try peer.request("inspect")
      peer.reply(to: request, ["echo": request["params"] ?? .null])
    } client: { client in
      let result = try await client.call("inspect", paramsJSON: #" {"name": "ä\u00e4"} "#)
      #expect(result == #"{"echo":{"name":"ää"}}"#)
      await #expect(throws: JSONSyntaxError.self) { try await client.call("inspect", paramsJSON: "{") }
    }
  }

  @Test func noDaemonIsAnErrorThatSaysWhatToDo() async throws {
    let path = FakeDaemon.temporaryPath()
    let error = await #expect(throws: SidelockError.self) { try await SidelockClient.connect(socketPath: path) }
    #expect(error?.reason == .noDaemon)
    #expect(error?.message.contains(path) == true)
    #expect(error?.message.contains("sidelockd") == true)
  }
}

extension JSONValue: ExpressibleByNilLiteral {
  /// `null`, for short expectations.
  public init(nilLiteral: ()) {
    self = .null
  }
}
