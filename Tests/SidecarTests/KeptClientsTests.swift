import LockTypes
import NIOEmbedded
import Testing

@testable import Sidecar

/// Who gives a place to whom when there is no room to keep more clients.
@Suite final class KeptClientsTests {
  private let channel = EmbeddedChannel()
  private var lastSession: UInt64 = 0

  deinit { _ = try? channel.finish() }

  private func session(uid: UInt32, hadWork: Bool = true) -> ClientSession {
    lastSession += 1
    let session = ClientSession(
      id: SessionID(lastSession), channel: channel, peer: Peer(pid: 0, uid: uid, gid: uid))
    session.keeping.hadWork = hadWork
    return session
  }

  private func clients(_ sessions: [ClientSession]) -> KeptClients {
    var clients = KeptClients(countMax: sessions.count)
    for session in sessions { clients.add(session) }
    return clients
  }

  private static let now = BootInstant(nanoseconds: 1_000_000_000)

  @Test func whoeverHasTheMostGivesOneToWhoHasLess() {
    var clients = clients([session(uid: 1), session(uid: 1), session(uid: 2)])
    #expect(!clients.hasRoom)
    let other = clients.makingRoom(for: session(uid: 3), now: Self.now, isIdle: { _ in false })
    #expect(other?.peer?.uid == 1)
    if let other { clients.drop(other) }
    #expect(clients.hasRoom)
    clients.add(session(uid: 3))
    // One each: nobody has more than the next one would have.
    #expect(clients.makingRoom(for: session(uid: 4), now: Self.now, isIdle: { _ in false }) == nil)
  }

  @Test func nobodyGivesOneToWhoWouldHaveMore() {
    var clients = clients([session(uid: 1), session(uid: 1), session(uid: 2)])
    #expect(clients.makingRoom(for: session(uid: 2), now: Self.now, isIdle: { _ in false }) == nil)
    #expect(clients.makingRoom(for: session(uid: 1), now: Self.now, isIdle: { _ in false }) == nil)
  }

  @Test func whoHasNothingToLoseMakesRoom() {
    let (busy, idle) = (session(uid: 1), session(uid: 1, hadWork: false))
    var clients = clients([busy, idle])
    #expect(clients.makingRoom(for: session(uid: 1), now: Self.now, isIdle: { $0 == idle.id }) === idle)
    // One that holds something is not taken for idle, whenever it did the last thing.
    idle.keeping.hadWork = true
    busy.keeping.hadWork = false
    #expect(clients.makingRoom(for: session(uid: 1), now: Self.now, isIdle: { $0 == idle.id }) == nil)
  }

  /// To look through all of them takes a while, and any client can make it happen.
  @Test func theSearchIsNotRepeatedAtOnce() {
    let idle = session(uid: 1, hadWork: false)
    var clients = clients([idle])
    #expect(clients.makingRoom(for: session(uid: 1), now: Self.now, isIdle: { _ in false }) == nil)
    #expect(clients.makingRoom(for: session(uid: 1), now: Self.now, isIdle: { _ in true }) == nil)
    let later = Self.now.adding(milliseconds: 1000)
    #expect(clients.makingRoom(for: session(uid: 1), now: later, isIdle: { _ in true }) === idle)
  }

  @Test func theSameClientIsCountedOnce() {
    let twice = session(uid: 1)
    var clients = KeptClients(countMax: 3)
    clients.add(twice)
    clients.add(twice)
    #expect(clients.count == 1)
    clients.drop(twice)
    clients.drop(twice)
    clients.add(session(uid: 1))
    clients.add(session(uid: 2))
    // A count that was wrong would have one of them give way.
    #expect(clients.makingRoom(for: session(uid: 3), now: Self.now, isIdle: { _ in false }) == nil)
  }
}
