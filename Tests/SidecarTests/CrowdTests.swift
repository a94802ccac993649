import Glibc
import LockEngine
import LockTypes
import NIOCore
import Testing

@testable import Sidecar

/// What one process, or very many holders of one lock, cost the others in one turn.
@Suite struct CrowdTests {
  /// All connections of a process may end with it.
  @Test func sessionsWhoseProcessHasEndedEndInSeveralTurns() throws {
    let host = try TestSidecar(isLocal: true)
    let clients = try (0..<200).map { try host.connect("\($0)") }
    let other = try host.connect("other")
    try clients[0].acquire("x")
    host.endTurn()
    let sessions = host.core.sessions.values.sorted { $0.id.rawValue < $1.id.rawValue }.prefix(clients.count)
    for session in sessions { session.lifetime.endsWithProcess = true }
    host.core.parts.lifetimes.processesEnded(of: sessions.map(\.id))
    #expect(host.core.parts.lifetimes.nextDeadline.map { $0 <= host.clock.hostClock.now() } == true)
    var left = clients.count
    while left > 0 {
      host.timerFires()
      let now = clients.count { $0.isConnected }
      #expect(now < left && left - now <= SessionLifetimes.lookedAtMax)
      guard now < left else { break }
      left = now
    }
    #expect(other.isConnected && host.core.parts.lifetimes.nextDeadline == nil)
    #expect(host.core.engine.gauges.held == 0)
  }

  /// The store gives as many tokens as are asked for.
  private func reserve(_ host: TestSidecar) {
    host.endTurn()
    while let command = host.store.takeReservation(), case .reserve(_, _, let end, _) = command.command {
      host.core.heard(.reply(command.id, .reserved(LeaseGrant(token: end, tokenCount: 4096, othersWait: false))))
      host.endTurn()
    }
  }

  /// `inspect` names some of the holders; how many more there are does not matter.
  @Test func aLockWithVeryManyHoldersIsInspectedLikeOneWithFew() throws {
    func nanoseconds(holders: Int) throws -> Int64 {
      let host = try TestSidecar(stateBytes: 1 << 28)
      let client = try host.connect("a", uid: 1001)
      for first in stride(from: 0, to: holders, by: 100) {
        for id in first..<first + 100 { try client.acquire("x", id: id, more: #","mode":"shared""#) }
        host.endTurn()
        if first == 0 { try host.grant("x") }
        reserve(host)
      }
      #expect(host.core.engine.gauges.held == holders)
      let other = try host.connect("b", uid: 1002)
      var before = timespec()
      var after = timespec()
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before)
      for id in 0..<16 { try other.send(#"{"id":\#(id),"method":"inspect","params":{"name":"x"}}"#) }
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after)
      #expect(host.store.inspections.count == 16)
      return Int64(after.tv_sec - before.tv_sec) * 1_000_000_000 + Int64(after.tv_nsec - before.tv_nsec)
    }
    let few = try nanoseconds(holders: 100)
    #expect(try nanoseconds(holders: 20_000) < 20 * few)
  }
}
