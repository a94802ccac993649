import LockTypes
import Testing

@testable import LockEngine

/// Tokens come from a lease that this host has, and from no other.
@Suite final class LeaseTokensTests {
  private let tally = RecordTally()
  private let links = StoreLinks(timeline: .standard)
  private let now = BootInstant(nanoseconds: 1_000_000_000)

  deinit { links.free() }

  private func lease(tokens: Int64 = 2) -> HostLease {
    let lock = LockRecord(name: LockName("x"), serial: 1, link: links.first, changes: nil, tally: tally)
    let lease = HostLease(
      lock: lock, attempt: 1, mode: .exclusive, timeline: LeaseTimeline(leaseMilliseconds: 10_000))
    let grant = LeaseGrant(token: 5, tokenCount: tokens, othersWait: false)
    #expect(lease.granted(grant, executedAfter: now, on: 1, in: 1, life: 0, now: now))
    return lease
  }

  @Test func aBlockHasSoManyAndNoMore() {
    let lease = lease()
    #expect([lease.issueToken(), lease.issueToken(), lease.issueToken()] == [5, 6, nil])
    #expect(lease.isHeld && lease.unused == .from(7))
  }

  @Test func aLeaseThatIsLostStaysLostAndGivesNone() {
    let lease = lease()
    lease.expired(graceEnds: BootInstant(nanoseconds: .max))
    #expect(lease.issueToken() == nil)
    #expect(lease.isLost && lease.term.nextToken == 5)
  }

  @Test func aLeaseThatIsOverStaysOverAndGivesNone() {
    let lease = lease()
    lease.ended()
    #expect(lease.issueToken() == nil)
    #expect(lease.isOver && lease.term.nextToken == 5)
  }

  @Test func aLeaseThatIsAskedForGivesNone() {
    let lease = lease()
    lease.placeIsUnknown()
    #expect(lease.issueToken() == nil && lease.isAsking)
    lease.queued()
    #expect(lease.issueToken() == nil && lease.isQueued)
  }

  /// The hold stays with its session until there are more.
  @Test func aHoldIsNotHandedOverUnderALeaseWithoutTokens() {
    let script = Script()
    script.open(alice, bob)
    script.acquire(alice)
    script.reply(.granted(LeaseGrant(token: 5, tokenCount: 1, othersWait: false)), to: script.takeSent().first)
    _ = script.take()
    for _ in 0..<2 {
      script.feed(.transferRequested(alice, script.newRequest(), name: x, token: 5, to: bob))
      let refusals = script.take().compactMap(\.refusal)
      guard case .unavailable? = refusals.first, refusals.count == 1 else {
        Issue.record("\(refusals)")
        return
      }
      // The same where the receiver waits for it.
      script.acquire(bob)
      _ = script.take()
    }
    #expect(script.engine.gauges.held == 1 && script.engine.gauges.waiting == 2)
  }
}
