import Foundation
import SidelockClient
import Testing

/// For how long a hold is good, which the client counts itself.
struct ValidityTests {
  private func grant(_ peer: inout FakeDaemon.Peer, validMilliseconds: Int64) throws {
    let request = try peer.request("acquire")
    peer.reply(
      to: request,
      ["name": "x", "token": 5, "mode": "exclusive", "waited_ms": 0, "valid_ms": .int(validMilliseconds)])
  }

  @Test func itIsAskedForAnew() async throws {
    try await FakeDaemon.run { peer in
      try grant(&peer, validMilliseconds: 400)
      peer.reply(to: try peer.request("ping"), ["valid_ms": 60000])
      try peer.release("x", token: 5)
    } client: { client in
      let lock = try await client.acquire("x")
      #expect(lock.valid.map { $0 <= .milliseconds(400) } ?? false)
      while lock.valid.map({ $0 < .seconds(30) }) ?? false { await Task.yield() }
      #expect(lock.isHeld && !lock.isLost)
      try await lock.release()
      #expect(!lock.isHeld && lock.valid == .zero)
    }
  }

  @Test func aDaemonThatHangsCostsTheLock() async throws {
    let isLost = Signal()
    try await FakeDaemon.run { peer in
      try grant(&peer, validMilliseconds: 300)
      _ = try peer.request("ping")
      try peer.release("x", token: 5)
    } client: { client in
      let lock = try await client.acquire("x", onLost: { _ in Task { await isLost.raise() } })
      await isLost.wait()
      #expect(lock.isLost && !lock.isHeld && lock.lostNotice?.reason == "lease_expired")
      // The script has answered the release when it ends.
      try? await client.ping()
    }
  }

  @Test func aHoldPastItsTimeIsNotBelieved() async throws {
    let isSeen = DispatchSemaphore(value: 0)
    try await FakeDaemon.run { peer in
      let request = try peer.request("acquire")
      // As where both are stopped for so long, and go on.
      usleep(2_010_000)
      peer.reply(
        to: request, ["name": "x", "token": 5, "mode": "exclusive", "waited_ms": 0, "valid_ms": 2000])
      let ping = try peer.request("ping")
      isSeen.wait()
      peer.reply(to: ping, ["valid_ms": 60000])
      try peer.release("x", token: 5)
    } client: { client in
      let lock = try await client.acquire("x")
      #expect(!lock.isHeld && !lock.isLost && lock.valid == .zero)
      isSeen.signal()
      while !lock.isHeld && !lock.isLost { await Task.yield() }
      #expect(lock.isHeld)
      try await lock.release()
    }
  }

  @Test func aHoldThatNeverEndsIsNotAskedAbout() async throws {
    try await FakeDaemon.run { peer in
      let request = try peer.request("acquire")
      peer.reply(
        to: request, ["name": "x", "token": 5, "mode": "exclusive", "waited_ms": 0, "valid_ms": .null])
      try peer.release("x", token: 5)
    } client: { client in
      let lock = try await client.acquire("x")
      #expect(lock.isHeld && lock.valid == nil)
      try await lock.release()
    }
  }
}
