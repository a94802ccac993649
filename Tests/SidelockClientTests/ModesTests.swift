import NIOConcurrencyHelpers
import SidelockClient
import Testing

/// Everything beyond one exclusive lock.
@Suite(.timeLimit(.minutes(2)))
struct ModesTests {
  private static func expect(_ request: JSONValue, _ params: JSONValue) throws {
    guard request["params"] == params else { throw FakeDaemon.Unexpected(what: request.serialized) }
  }

  @Test func modesOwnersAndLossActionsAreWordedAsTheProtocolWantsThem() async throws {
    try await FakeDaemon.run { peer in
      let shared = try peer.request("acquire")
      try Self.expect(shared, ["name": "x", "mode": "shared", "owner": "t", "on_lost": "kill"])
      peer.reply(to: shared, ["name": "x", "token": 1, "mode": "shared", "waited_ms": 0, "valid_ms": nil])
      let permit = try peer.request("acquire")
      try Self.expect(permit, ["name": "y", "permits": 3, "wait_ms": 0])
      peer.reply(to: permit, ["name": "y", "token": 2, "mode": "permit", "permits": 3, "waited_ms": 0, "valid_ms": 5])
      try peer.expectEnd()
    } client: { client in
      let shared = try await client.acquire("x", mode: .shared, owner: "t", lossAction: .kill)
      #expect(shared.mode == .shared)
      let permit = try await client.acquire("y", mode: .permit(of: 3), wait: .try)
      #expect(permit.mode == .permit(of: 3))
    }
  }

  @Test func severalLocksComeInTheOrderAskedForAndAreAllGivenBack() async throws {
    try await FakeDaemon.run { peer in
      let request = try peer.request("acquire")
      try Self.expect(request, ["names": ["b", "a"], "wait_ms": 1000])
      peer.reply(
        to: request,
        [
          "locks": [["name": "b", "token": 5], ["name": "a", "token": 9]], "mode": "exclusive", "waited_ms": 3,
          "valid_ms": 8000,
        ])
      try peer.release("b", token: 5)
      try peer.release("a", token: 9)
      try peer.expectEnd()
    } client: { client in
      let tokens = try await client.withLocks(["b", "a"], wait: .limit(.seconds(1))) { locks in
        locks.map { "\($0.name) \($0.token) \($0.validity == .seconds(8))" }
      }
      #expect(tokens == ["b 5 true", "a 9 true"])
    }
  }

  @Test func theLossOfOneOfSeveralLocksCancelsTheBodyAndGivesTheOthersBack() async throws {
    try await FakeDaemon.run { peer in
      let request = try peer.request("acquire")
      peer.reply(
        to: request,
        ["locks": [["name": "b", "token": 5], ["name": "a", "token": 9]], "mode": "exclusive", "waited_ms": 0])
      peer.lose("b", token: 5)
      try peer.release("a", token: 9)
      try peer.expectEnd()
    } client: { client in
      let error = await #expect(throws: SidelockError.self) {
        try await client.withLocks(["b", "a"]) { _ in try await Task.sleep(for: .seconds(100)) }
      }
      #expect(error?.reason == .lost)
      #expect(error?.data?["name"] == "b")
    }
  }

  @Test func anOwnerThatAcquiresAgainHasTwoLocksOfOneTokenAndLosesBoth() async throws {
    try await FakeDaemon.run { peer in
      for _ in 0..<2 { try peer.grant("x", token: 5) }
      try peer.release("x", token: 5)
      peer.lose("x", token: 5)
      peer.reply(to: try peer.request("ping"), [:])
      try peer.expectEnd()
    } client: { client in
      let outer = try await client.acquire("x", owner: "t")
      let inner = try await client.acquire("x", owner: "t")
      try await inner.release()
      try await client.ping()
      #expect(outer.isLost)
      #expect(!inner.isLost)
    }
  }

  @Test func aHolderHearsOfThoseWhoWait() async throws {
    let counts = NIOLockedValueBox<[Int]>([])
    try await FakeDaemon.run { peer in
      let request = try peer.request("acquire")
      try Self.expect(request, ["name": "x", "progress": true])
      peer.grant(request, "x", token: 5)
      for (token, waiters) in [(5, 1), (4, 7), (5, 2)] as [(Int64, Int64)] {
        peer.send([
          "jsonrpc": "2.0", "method": "contended",
          "params": ["name": "x", "token": .int(token), "waiters": .int(waiters)],
        ])
      }
      peer.reply(to: try peer.request("ping"), [:])
      try peer.expectEnd()
    } client: { client in
      _ = try await client.acquire("x", onContended: { waiters in counts.withLockedValue { $0.append(waiters) } })
      try await client.ping()
      #expect(counts.withLockedValue { $0 } == [1, 2])
    }
  }

  @Test func aLockIsDowngradedAndHandedOver() async throws {
    try await FakeDaemon.run { peer in
      try peer.grant("x", token: 5)
      let downgrade = try peer.request("downgrade")
      try Self.expect(downgrade, ["name": "x", "token": 5])
      peer.reply(to: downgrade, ["name": "x", "token": 5, "mode": "shared"])
      let transfer = try peer.request("transfer")
      try Self.expect(transfer, ["name": "x", "token": 5, "session": "12"])
      peer.reply(to: transfer, ["name": "x", "token": 6, "session": "12"])
      // It is not this client's any more, so this is none of its business.
      peer.lose("x", token: 5)
      peer.reply(to: try peer.request("ping"), [:])
      try peer.expectEnd()
    } client: { client in
      let lock = try await client.acquire("x")
      try await lock.downgrade()
      let token = try await lock.transfer(to: "12")
      #expect(token == 6)
      try await client.ping()
      #expect(!lock.isLost)
    }
  }

  @Test func aLockThatIsHandedToTheClientIsReleasedByIt() async throws {
    try await FakeDaemon.run { peer in
      let initialize = try peer.request("initialize")
      try Self.expect(initialize, ["accept_transfers": true])
      peer.reply(to: initialize, ["protocol": 1, "session": "12"])
      peer.send([
        "jsonrpc": "2.0", "method": "transferred",
        "params": ["name": "x", "token": 6, "mode": "shared", "from": "7"],
      ])
      try peer.release("x", token: 6)
      try peer.expectEnd()
    } client: { client in
      let session = try await client.session()
      #expect(session == "12")
      for await lock in client.handedLocks {
        #expect(lock.name == "x")
        #expect(lock.mode == .shared)
        try await lock.release()
        break
      }
    }
  }

  @Test func aBreakTellsWhatItTook() async throws {
    try await FakeDaemon.run { peer in
      let request = try peer.request("break")
      try Self.expect(request, ["name": "x", "token": 5, "reason": "why"])
      peer.reply(to: request, ["name": "x", "broken": [5]])
      peer.refuse(try peer.request("break"), code: 6, reason: "denied")
      try peer.expectEnd()
    } client: { client in
      let broken = try await client.breakLock("x", token: 5, reason: "why")
      #expect(broken == [5])
      let error = await #expect(throws: SidelockError.self) { _ = try await client.breakLock("x") }
      #expect(error?.reason == .denied)
    }
  }

  @Test func aWatchGivesItsEventsUntilItsReaderEnds() async throws {
    try await FakeDaemon.run { peer in
      let request = try peer.request("watch")
      try Self.expect(request, ["prefix": "a/"])
      peer.reply(to: request, ["watch": 3])
      func event(_ watch: Int64, _ kind: String) {
        peer.send([
          "jsonrpc": "2.0", "method": "event",
          "params": [
            "watch": .int(watch), "kind": .string(kind), "name": "a/b", "session": "7", "token": 5, "mode": "shared",
          ],
        ])
      }
      event(3, "acquired")
      event(4, "released")
      peer.send(["jsonrpc": "2.0", "method": "backend", "params": ["state": "disconnected"]])
      event(3, "released")
      let unwatch = try peer.request("unwatch")
      try Self.expect(unwatch, ["watch": 3])
      peer.reply(to: unwatch, [:])
      peer.reply(to: try peer.request("ping"), [:])
      try peer.expectEnd()
    } client: { client in
      var kinds: [String] = []
      for await event in try await client.watch(.prefix("a/")) {
        switch event {
        case .lock(let event):
          #expect(event.name == "a/b")
          #expect(event.mode == .shared)
          kinds.append(event.kind)
        case .backend(let state): kinds.append("backend \(state.rawValue)")
        case .draining: kinds.append("draining")
        }
        if kinds.count == 3 { break }
      }
      #expect(kinds == ["acquired", "backend disconnected", "released"])
      try await client.ping()
    }
  }

  @Test func aWatchEndsWithTheConnectionAndARefusedOneThrows() async throws {
    try await FakeDaemon.run { peer in
      peer.refuse(try peer.request("watch"), code: 7, reason: "limit")
      peer.reply(to: try peer.request("watch"), ["watch": 1])
    } client: { client in
      let error = await #expect(throws: SidelockError.self) { _ = try await client.watch(.name("x")) }
      #expect(error?.reason == .limit)
      var count = 0
      for await _ in try await client.watch(.name("x")) { count += 1 }
      #expect(count == 0)
    }
  }
}
