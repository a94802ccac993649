import Foundation
import NIOConcurrencyHelpers
import SidelockClient
import Testing

/// What becomes of a client, and of what it held, when its connection has ended.
@Suite(.timeLimit(.minutes(2)))
struct ReconnectTests {
  @Test func theNextRequestConnectsAnewAndWhatWasHeldStaysLost() async throws {
    let isLost = Signal()
    try await FakeDaemon.run(connections: [
      { peer in try peer.grant("x", token: 5) },
      { peer in
        try peer.grant("x", token: 6)
        // The first connection's lock is not given back here.
        try peer.release("x", token: 6)
        try peer.expectEnd()
      },
    ]) { client in
      let lost = try await client.acquire("x", onLost: { _ in Task { await isLost.raise() } })
      await isLost.wait()
      let lock = try await client.acquire("x")
      #expect(lock.token == 6)
      #expect(!lost.isHeld && lost.lostNotice?.reason == "connection_ended")
      let error = await #expect(throws: SidelockError.self) { try await lost.release() }
      #expect(error?.reason == .lost)
      #expect(error?.lossReason == "connection_ended")
      try await lock.release()
    }
  }

  @Test func allWhoAskShareTheNewConnection() async throws {
    let isLost = Signal()
    try await FakeDaemon.run(connections: [
      { peer in try peer.grant("x", token: 5) },
      { peer in
        for _ in 0..<10 { peer.reply(to: try peer.request("ping"), [:]) }
        try peer.expectEnd()
      },
    ]) { client in
      _ = try await client.acquire("x", onLost: { _ in Task { await isLost.raise() } })
      await isLost.wait()
      try await withThrowingTaskGroup(of: Void.self) { group in
        for _ in 0..<10 { group.addTask { try await client.ping() } }
        try await group.waitForAll()
      }
    }
  }

  @Test func aReleaseThatIsCutOffSaysThatTheLockIsLost() async throws {
    try await FakeDaemon.run { peer in
      try peer.grant("x", token: 5)
      _ = try peer.request("release")
    } client: { client in
      let lock = try await client.acquire("x")
      let error = await #expect(throws: SidelockError.self) { try await lock.release() }
      #expect(error?.reason == .lost)
      #expect(error?.lossReason == "connection_ended")
    }
  }

  @Test func aClosedClientDoesNotConnectAnew() async throws {
    try await FakeDaemon.run { peer in
      try peer.grant("x", token: 5)
      try peer.expectEnd()
    } client: { client in
      let lock = try await client.acquire("x")
      await client.close()
      #expect(!lock.isHeld)
      let error = await #expect(throws: SidelockError.self) { try await client.ping() }
      #expect(error?.reason == .connectionLost)
    }
  }

  @Test func aClientThatIsOnlyMadeConnectsWithItsFirstRequest() async throws {
    let path = FakeDaemon.temporaryPath()
    defer { try? FileManager.default.removeItem(atPath: (path as NSString).deletingLastPathComponent) }
    let client = SidelockClient(socketPath: path)
    let none = await #expect(throws: SidelockError.self) { try await client.ping() }
    #expect(none?.reason == .noDaemon)
    let listener = try FakeDaemon.listen(path)
    defer { Glibc.close(listener) }
    Thread.detachNewThread {
      let descriptor = accept(listener, nil, nil)
      var peer = FakeDaemon.Peer(descriptor: descriptor)
      if let ping = try? peer.request("ping") { peer.reply(to: ping, [:]) }
      _ = try? peer.line()
      Glibc.close(descriptor)
    }
    try await client.ping()
    await client.close()
  }

  @Test func theSessionCanEndWithTheProcess() async throws {
    try await FakeDaemon.run(lifetime: .process) { peer in
      let hello = try peer.request("initialize")
      guard hello["params"] == ["protocol": 1, "lifetime": "process"] else {
        throw FakeDaemon.Unexpected(what: hello.serialized)
      }
      peer.reply(to: hello, ["protocol": 1, "session": "8"])
      peer.reply(to: try peer.request("ping"), [:])
      try peer.expectEnd()
    } client: { client in
      try await client.ping()
    }
  }

  @Test func aDaemonThatCannotSeeTheProcessServesItAllTheSame() async throws {
    try await FakeDaemon.run(lifetime: .process) { peer in
      let hello = try peer.request("initialize")
      let data: JSONValue = ["reason": "invalid_params", "field": "lifetime"]
      let error: JSONValue = ["code": -32602, "message": "not seen", "data": data]
      peer.send(["jsonrpc": "2.0", "id": hello["id"] ?? .null, "error": error])
      peer.reply(to: try peer.request("ping"), [:])
      try peer.expectEnd()
    } client: { client in
      try await client.ping()
    }
  }
}

/// How a lock tells of its loss, and what a request tells while it waits.
@Suite(.timeLimit(.minutes(2)))
struct TellingTests {
  @Test func theAnswerToTheReleaseMayBeTheFirstToSayThatTheLockIsLost() async throws {
    let reasons = NIOLockedValueBox<[String]>([])
    try await FakeDaemon.run { peer in
      try peer.grant("x", token: 5)
      let request = try peer.request("release")
      let error: JSONValue = ["code": 9, "message": "gone", "data": ["reason": "lost", "lost": "max_hold"]]
      peer.send(["jsonrpc": "2.0", "id": request["id"] ?? .null, "error": error])
      try peer.expectEnd()
    } client: { client in
      let lock = try await client.acquire("x") { notice in reasons.withLockedValue { $0.append(notice.reason) } }
      let error = await #expect(throws: SidelockError.self) { try await lock.release() }
      #expect(error?.lossReason == "max_hold")
      #expect(lock.lostNotice?.reason == "max_hold")
      #expect(reasons.withLockedValue { $0 } == ["max_hold"])
    }
  }

  @Test func aSecondReleaseLeavesTheOtherHoldOfItsOwner() async throws {
    try await FakeDaemon.run { peer in
      try peer.grant("x", token: 5)
      try peer.grant("x", token: 5)
      try peer.release("x", token: 5)
      peer.reply(to: try peer.request("ping"), [:])
      try peer.expectEnd()
    } client: { client in
      let lock = try await client.acquire("x", owner: "me")
      let again = try await client.acquire("x", owner: "me")
      try await lock.release()
      let error = await #expect(throws: SidelockError.self) { try await lock.release() }
      #expect(error?.reason == .notHeld)
      try await client.ping()
      #expect(again.isHeld)
    }
  }

  @Test func whoAsksToBeToldOfTheLossLaterIsTold() async throws {
    let reasons = NIOLockedValueBox<[String]>([])
    try await FakeDaemon.run { peer in
      try peer.grant("x", token: 5)
      peer.reply(to: try peer.request("ping"), [:])
      peer.lose("x", token: 5)
      peer.reply(to: try peer.request("ping"), [:])
      try peer.expectEnd()
    } client: { client in
      let lock = try await client.acquire("x")
      lock.onLost { notice in reasons.withLockedValue { $0.append("early \(notice.reason)") } }
      try await client.ping()
      try await client.ping()
      lock.onLost { notice in reasons.withLockedValue { $0.append("late \(notice.reason)") } }
      #expect(reasons.withLockedValue { $0 } == ["early lease_expired", "late lease_expired"])
    }
  }

  @Test func aScopeTellsOfItsLoss() async throws {
    let isLost = Signal()
    try await FakeDaemon.run { peer in
      try peer.grant("x", token: 5)
      peer.lose("x", token: 5)
      try peer.expectEnd()
    } client: { client in
      let error = await #expect(throws: SidelockError.self) {
        try await client.withLock("x", onLost: { _ in Task { await isLost.raise() } }) { _ in await isLost.wait() }
      }
      #expect(error?.lossReason == "lease_expired")
    }
  }

  @Test func aRequestThatWaitsIsToldItsPlace() async throws {
    let places = NIOLockedValueBox<[Int]>([])
    try await FakeDaemon.run { peer in
      let request = try peer.request("acquire")
      guard request["params"]?["progress"] == true else { throw FakeDaemon.Unexpected(what: request.serialized) }
      for (id, position) in [(request["id"], 2), (4711, 9), (request["id"], 1)] as [(JSONValue?, Int64)] {
        peer.send(["jsonrpc": "2.0", "method": "waiting", "params": ["id": id ?? .null, "position": .int(position)]])
      }
      peer.grant(request, "x", token: 5)
      try peer.expectEnd()
    } client: { client in
      _ = try await client.acquire("x", onWaiting: { place in places.withLockedValue { $0.append(place) } })
      #expect(places.withLockedValue { $0 } == [2, 1])
    }
  }

  @Test func refusalsTellWhoHoldsTheLock() async throws {
    let error = SidelockError(
      reason: .busy, message: "in use", data: ["reason": "busy", "holders": [["pid": 7, "host": "h"]]])
    #expect(error.holders.map(\.pid) == [7])
    let few = SidelockError(reason: .underReplicated, message: "few", data: ["acknowledged": 2])
    #expect(few.acknowledged == 2 && few.holders.isEmpty)
    #expect(SidelockError(reason: .busy, message: "x", data: ["holders": "me", "acknowledged": "two"]).holders.isEmpty)
  }
}
