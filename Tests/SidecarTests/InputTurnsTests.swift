import LockTypes
import NIOEmbedded
import Testing

@testable import Sidecar

/// Whose input is dealt with next.
@Suite struct InputTurnsTests {
  private let turns = InputTurns()
  private let channel = EmbeddedChannel()
  private var now = BootInstant(nanoseconds: 1)

  /// Sessions from this one on need little.
  private static let little: UInt64 = 1000

  private func session(_ id: UInt64, of uid: UInt32) -> ClientSession {
    ClientSession(id: SessionID(id), channel: channel, peer: Peer(pid: 0, uid: uid, gid: uid))
  }

  private func come(_ ids: ClosedRange<UInt64>, of uid: UInt32) {
    for id in ids { turns.append(session(id, of: uid), isFresh: true) }
  }

  /// The next session has its share. One that needs little takes no time; others take all that they are given, and need
  /// more.
  private mutating func goOn() throws -> (id: UInt64, uid: UInt32, nanoseconds: Int64) {
    let (session, share) = try #require(turns.next(now: now))
    let uid = try #require(session.peer?.uid)
    #expect(share > 0 && share <= InputTurns.shareNanoseconds)
    if session.id.rawValue >= Self.little { return (session.id.rawValue, uid, 0) }
    now.nanoseconds += share
    turns.append(session, isFresh: false)
    return (session.id.rawValue, uid, share)
  }

  /// How long it takes until so many that need little have had their shares, in nanoseconds.
  private mutating func time(untilServed count: Int) throws -> Int64 {
    let began = now
    var left = count
    while left > 0 {
      if try goOn().id >= Self.little { left -= 1 }
    }
    return now.nanoseconds - began.nanoseconds
  }

  /// Two hundred sessions of a user have much input: who comes then waits for one share of theirs at most.
  @Test mutating func aUserWaitsForOneShareOfAnother() throws {
    come(1...200, of: 1001)
    for round in 0..<1000 {
      for _ in 0..<round % 4 { _ = try goOn() }
      come(1000...1000, of: 1002)
      #expect(try time(untilServed: 1) <= InputTurns.shareNanoseconds)
    }
  }

  /// However many sessions a user has, he has as much time as each other one.
  @Test mutating func usersHaveTheSameTime() throws {
    come(1...200, of: 1001)
    come(201...201, of: 1002)
    come(202...206, of: 1003)
    var times: [UInt32: Int64] = [:]
    for _ in 0..<3000 {
      let (_, uid, nanoseconds) = try goOn()
      times[uid, default: 0] += nanoseconds
    }
    let (least, most) = (try #require(times.values.min()), try #require(times.values.max()))
    #expect(times.count == 3)
    #expect(most - least <= 2 * InputTurns.shareNanoseconds)
  }

  /// Many who need little do not wait for a share of another user each, whether they are sessions or users.
  @Test mutating func manyWhoNeedLittleWaitForFewShares() throws {
    come(1...200, of: 1001)
    for _ in 0..<10 { _ = try goOn() }
    come(1000...1099, of: 1002)
    #expect(try time(untilServed: 100) <= InputTurns.shareNanoseconds)
    for id in 1000...1099 { come(UInt64(id)...UInt64(id), of: UInt32(1002 + id)) }
    #expect(try time(untilServed: 100) <= 100 / 5 * InputTurns.shareNanoseconds)
  }

  /// The sessions of a user are served in the order in which they came; those that need more take turns.
  @Test mutating func whoComesFirstIsServedFirst() throws {
    come(1...20, of: 1001)
    var (first, further): ([UInt64], [UInt64]) = ([], [])
    for _ in 0..<200 {
      let id = try goOn().id
      if first.contains(id) { further.append(id) } else { first.append(id) }
    }
    #expect(first == Array(1...20))
    #expect(Set(further.suffix(20)) == Set(1...20) && further.suffix(40).prefix(20) == further.suffix(20))
  }

  /// Input that has just come is read at once unless it would pass by somebody who waits for it.
  @Test mutating func whoHasJustComeWaitsBehindFirstSharesOnly() throws {
    let (ours, another) = (session(1000, of: 1001), session(1001, of: 1002))
    #expect(turns.mayBegin(ours, now: now) && turns.mayBegin(another, now: now))
    come(1...2, of: 1001)
    #expect(!turns.mayBegin(ours, now: now) && !turns.mayBegin(another, now: now))
    // The first of two has had its share.
    _ = try goOn()
    turns.turnEnded()
    #expect(!turns.mayBegin(ours, now: now) && turns.mayBegin(another, now: now))
    _ = try goOn()
    turns.turnEnded()
    #expect(turns.mayBegin(ours, now: now) && turns.mayBegin(another, now: now))
    // Others wait as well.
    come(3...3, of: 1003)
    for _ in 0..<3 { _ = try goOn() }
    turns.turnEnded()
    #expect(!turns.mayBegin(ours, now: now) && turns.mayBegin(another, now: now))
    // The turn has no room.
    now.nanoseconds += InputTurns.turnNanoseconds
    #expect(!turns.mayBegin(another, now: now))
  }
}
