import LockTypes
import Testing

@testable import LockEngine

/// Locks whose home becomes another shard, with their data.
@Suite struct HomeTests {
  private let one = Shards.one
  private let a = LockName("a")

  @Test func whatIsHeldIsRenewedAtTheNewHomeAndNobodyHearsOfIt() {
    let shards = Shards(2)
    shards.hold(alice, "a")
    shards.move("a", to: one)
    let effects = shards.take()
    #expect(effects.count == 1)
    #expect(effects.compactMap(\.command) == [.renew([LeaseReference(name: a, attempt: 1)], epoch: epoch(2, 1))])
    shards.pass(milliseconds: 8000)
    #expect(!shards.take().contains { $0.lostReason != nil })
    shards.pass(milliseconds: 600)
    #expect(shards.take().contains { $0.lostReason == .leaseExpired })
  }

  @Test func nothingIsGrantedUnderALeaseBeforeTheNewHomeHasConfirmedIt() {
    let shards = Shards(2)
    shards.hold(alice, "a")
    shards.acquire(bob, "a")
    _ = shards.take()
    shards.move("a", to: one)
    let renewal = shards.sent()
    #expect(renewal.map(\.shard) == [one])
    shards.release(alice, "a")
    #expect(!shards.take().contains { $0.grantedToken != nil })
    shards.reply(.renewed([.held]), to: renewal[0])
    #expect(shards.take().contains { $0.grantedSession == bob })
  }

  @Test func replicasOfTheNewHomeAreAsked() {
    let shards = Shards(2)
    shards.acquire(alice, "a", need: ReplicaNeed(replicas: 1))
    shards.reply(granted(10), to: shards.sent()[0])
    let old = shards.take().compactMap(\.acknowledgement)
    shards.move("a", to: one)
    let renewal = shards.sent()
    shards.feed(.acknowledged(.only, old[0].id, .enough(replicas: 1)))
    #expect(shards.take().isEmpty)
    shards.reply(.renewed([.held]), to: renewal[0])
    let asked = shards.take().compactMap(\.acknowledgement)
    #expect(asked.map(\.shard) == [one])
    shards.feed(.acknowledged(one, asked[0].id, .enough(replicas: 1)))
    #expect(shards.take().compactMap(\.grantedToken) == [10])
  }

  @Test func replicasAreAskedAgainWhereALockComesBackToAnOldHome() {
    let shards = Shards(2)
    shards.acquire(alice, "a", need: ReplicaNeed(replicas: 1))
    shards.reply(granted(10), to: shards.sent()[0])
    shards.feed(.acknowledged(.only, shards.take().compactMap(\.acknowledgement)[0].id, .enough(replicas: 1)))
    for home in [one, .only] {
      shards.move("a", to: home)
      for sent in shards.sent() { shards.reply(.renewed([.held]), to: sent) }
    }
    shards.acquire(bob, "a", need: ReplicaNeed(replicas: 1))
    _ = shards.take()
    shards.release(alice, "a")
    let effects = shards.take()
    #expect(effects.compactMap(\.acknowledgement).map(\.shard) == [.only])
    #expect(effects.compactMap(\.grantedToken).isEmpty)
  }

  @Test func whoeverHasTheLockAtTheNewHomeKeepsIt() {
    let shards = Shards(2)
    shards.hold(alice, "a")
    shards.move("a", to: one)
    shards.reply(.renewed([.lost]), to: shards.sent()[0])
    #expect(shards.take().contains { $0.lostReason == .dataLoss })
  }

  @Test func inAnEpochThatGrantsNothingItIsReclaimed() {
    let shards = Shards(2)
    shards.hold(alice, "a")
    shards.epochs[one] = .epoch(7, of: "h/9", isOpen: false)
    shards.feed(.linkDown(one))
    shards.feed(.linkUp(one))
    _ = shards.take()
    shards.move("a", to: one)
    #expect(
      shards.sent().map(\.command) == [
        .reclaim(a, attempt: 1, 100..<110, mayReplace: true, in: EpochSight.epoch(7, of: "h/9").id)
      ])
  }

  @Test func whatIsAskedForIsAskedForAtTheNewHomeAndTheOldAnswerSaysNothing() {
    let shards = Shards(2)
    shards.acquire(alice, "a")
    let old = shards.sent()
    shards.move("a", to: one)
    let new = shards.sent()
    #expect(new.map(\.shard) == [one])
    guard case .acquire(a, 1, _, _, let terms, _, _, _, _)? = new.first?.command else {
      Issue.record("it is asked for under the same attempt")
      return
    }
    #expect(terms.epoch == epoch(2, 1))
    shards.reply(granted(70), to: old[0])
    #expect(shards.take().isEmpty)
    shards.reply(granted(70), to: new[0])
    #expect(shards.take().contains { $0.grantedToken == 70 })
  }

  @Test func aPlaceInTheQueueIsAskedForAgain() {
    let shards = Shards(2)
    shards.acquire(alice, "a")
    shards.reply(queued(), to: shards.sent()[0])
    shards.move("a", to: one)
    let again = shards.sent()
    #expect(again.map(\.shard) == [one])
    shards.reply(queued(), to: again[0])
    // The old home has nothing to look at any more.
    shards.pass(milliseconds: 1100)
    #expect(Set(shards.sent().map(\.shard)) == [one])
    shards.feed(
      .pushReceived(one, .granted(name: a, attempt: 1, LeaseGrant(token: 7, tokenCount: 10, othersWait: false))))
    #expect(shards.take().contains { $0.grantedToken == 7 })
  }

  @Test func whatNobodyUsesIsGivenBackAtTheNewHome() {
    let shards = Shards(2, Shards.configuration { $0.settings.lingerMilliseconds = 5000 })
    for token in [Token(100), 200] {
      shards.acquire(alice, "a")
      for sent in shards.sent() { shards.reply(granted(token), to: sent) }
      shards.release(alice, "a")
      for sent in shards.sent() { shards.reply(.done, to: sent) }
    }
    shards.move("a", to: one)
    let sent = shards.sent()
    #expect(sent.map(\.shard) == [one])
    guard case .release(a, 2, _, _, _)? = sent.first?.command else {
      Issue.record("it is given back: \(sent)")
      return
    }
  }

  @Test func aReleaseIsRepeatedUntilTheNewHomeHasConfirmedIt() {
    let shards = Shards(2)
    shards.hold(alice, "a")
    shards.release(alice, "a")
    let old = shards.sent()
    shards.move("a", to: one)
    let again = shards.sent()
    #expect(again.map(\.shard) == [one] && again.map(\.command).count == 1)
    shards.reply(.done, to: old[0])
    #expect(shards.engine.gauges.locks == 1)
    shards.reply(.done, to: again[0])
    #expect(shards.engine.gauges.locks == 0)
  }

  @Test func aNewHomeThatIsDownIsWaitedFor() {
    let shards = Shards(2)
    shards.hold(alice, "a")
    shards.feed(.linkDown(one))
    shards.acquire(bob, "a")
    _ = shards.take()
    shards.move("a", to: one)
    #expect(shards.take().isEmpty)
    shards.acquire(carol, "a", wait: 0)
    shards.pass(milliseconds: 3000)
    #expect(shards.sent().allSatisfy { $0.shard != one })
    shards.feed(.linkUp(one))
    let sent = shards.sent()
    #expect(sent.first?.command == .renew([LeaseReference(name: a, attempt: 1)], epoch: epoch(2, 1)))
    #expect(sent.allSatisfy { $0.shard == one })
  }

  @Test func inALifeThatIsOverEverythingIsLostAtOnce() {
    let shards = Shards(2, Shards.configuration { $0.settings.deadHostMilliseconds = 2000 })
    shards.hold(alice, "a")
    shards.epochs[one] = nil
    shards.pass(milliseconds: 1800)
    #expect(!shards.take().contains { $0.lostReason != nil })
    shards.move("a", to: one)
    #expect(shards.take().contains { $0.lostReason == .leaseExpired })
  }

  @Test func aLockThatGoesAndComesBackIsRenewedOnce() {
    let shards = Shards(2)
    shards.hold(alice, "a")
    shards.move("a", to: one)
    let there = shards.sent()
    shards.move("a", to: .only)
    let back = shards.sent()
    #expect(
      back.map(\.shard) == [.only]
        && back.map(\.command) == [.renew([LeaseReference(name: a, attempt: 1)], epoch: epoch(1, 0))])
    // Nobody has it there any more, but the lock's home is another one.
    shards.reply(.renewed([.lost]), to: there[0])
    #expect(shards.take().isEmpty)
    shards.reply(.renewed([.held]), to: back[0])
    shards.pass(milliseconds: 8000)
    #expect(!shards.take().contains { $0.lostReason != nil })
  }

  @Test func aThousandHeldLocksMoveInSlicesAndNoneIsLost() {
    let shards = Shards(
      2,
      Shards.configuration {
        $0.stepsPerSlice = 16
        $0.renewalBatchMax = 10
        $0.settings.holdsPerSessionMax = 2000
      })
    let names = (0..<1000).map { "a\($0)" }
    for (number, name) in names.enumerated() { shards.hold(alice, name, token: Token(100 + 10 * number)) }
    shards.hold(bob, "d")
    shards.pass(milliseconds: 1000)
    _ = shards.take()
    shards.feed(.homesMoved([HomeMove(cells: 1..<2, shard: one)]))
    var turns = 0
    var renewed: Set<LockName> = []
    while renewed.count < names.count, turns < 1000 {
      turns += 1
      let sent = shards.sent()
      for sent in sent {
        guard case .renew(let leases, _, _) = sent.command else { continue }
        #expect(sent.shard == one && leases.count <= 10)
        for lease in leases { renewed.insert(lease.name) }
        shards.reply(.renewed(Array(repeating: .held, count: leases.count)), to: sent)
      }
      if sent.isEmpty {
        guard let next = shards.engine.nextDeadline, next <= shards.now else { break }
        shards.feed(.timerFired)
      }
    }
    #expect(turns > 10 && renewed == Set(names.map { LockName($0) }))
    #expect(shards.engine.gauges.held == 1001)
  }

  /// An older lock stands behind younger ones in its new home.
  @Test func aLinkThatComesBackReachesAllLocksOfItsShard() {
    let shards = Shards(2)
    for name in ["a", "b0", "b1"] {
      shards.acquire(alice, name)
      for sent in shards.sent() { shards.reply(queued(), to: sent) }
    }
    shards.move("a", to: one)
    for sent in shards.sent() { shards.reply(queued(), to: sent) }
    shards.feed(.linkDown(one))
    shards.feed(.linkUp(one))
    let asked = acquires(shards.sent().map(\.command)).map { "\($0.name)" }
    #expect(asked.sorted() == ["a", "b0", "b1"])
  }

  @Test func anEventAboutALockThatHasNotMovedYetMovesItFirst() {
    let shards = Shards(2, Shards.configuration { $0.stepsPerSlice = 1 })
    for number in 0..<20 { shards.hold(alice, "a\(number)") }
    shards.acquire(bob, "a19")
    _ = shards.take()
    shards.feed(.homesMoved([HomeMove(cells: 1..<2, shard: one)]))
    _ = shards.take()
    shards.release(alice, "a19")
    // It is in doubt, so that Bob does not get it before the new home has confirmed it.
    #expect(!shards.take().contains { $0.grantedSession == bob })
  }

  @Test func leasesAreKeptWithTheirShardAndMoveOnceHomesAreKnown() throws {
    let shards = Shards(2)
    shards.hold(alice, "a")
    shards.hold(alice, "b", token: 300)
    let next = Shards(2, isConnected: false)
    next.now = shards.now
    next.feed(.restored(try shards.saved(), numbers: shards.engine.numbers))
    next.feed(.linkUp(one))
    let renewed = next.sent()
    #expect(renewed.map(\.shard) == [one])
    #expect(renewed.map(\.command) == [.reclaim(LockName("b"), attempt: 2, 300..<310, in: epoch(2, 1))])
    #expect(next.engine.storeStanding(of: .only).epoch == epoch(1, 0))
    // Meanwhile both have got the home of the other.
    next.feed(.linkUp(.only))
    _ = next.take()
    next.feed(.homesMoved([HomeMove(cells: 0..<2, shard: one), HomeMove(cells: 2..<4, shard: .only)]))
    next.pass(milliseconds: 0)
    let moved = next.sent()
    #expect(Set(moved.map(\.shard)) == [.only, one] && moved.count == 2)
    for sent in moved { next.reply(.renewed([.held]), to: sent) }
    next.pass(milliseconds: 8000)
    #expect(!next.take().contains { $0.lostReason != nil })
  }

  /// It would wait for ever for a shard that nobody connects.
  @Test func oneShardTakesUpWhatRecordsOfSeveralSay() throws {
    let shards = Shards(2)
    shards.hold(alice, "b", token: 300)
    let next = Script(EngineConfiguration(tier: .store), linkUp: false)
    next.now = shards.now
    next.open(alice)
    next.feed(.restored(try shards.saved(), numbers: shards.engine.numbers))
    next.feed(.linkUp(.only))
    // It asks the only one whether it has the lease.
    let asked = next.sent()
    #expect(asked.count == 1)
    switch asked.first {
    case .renew(let leases, _, _)?: #expect(leases.map(\.name) == [LockName("b")])
    case .reclaim(let leases, _, _)?: #expect(leases.map(\.name) == [LockName("b")])
    default: Issue.record("\(asked)")
    }
  }

  private func epoch(_ number: UInt64, _ shard: Int) -> EpochID { EpochSight.epoch(number, of: "h/\(shard)").id }

  /// A primary has come back empty, and a daemon without memory is the first to connect.
  @Test(arguments: [("other/2", false), ("me/1", true)])
  func aShardWithoutAnEpochIsNewOnlyWhereNobodyElseHasUsedTheOthers(host: String, isNew: Bool) {
    let shards = Shards(2, Shards.configuration { $0.inbox = "me/1" }, isConnected: false)
    shards.epochs = [.only: .epoch(1, of: host)]
    shards.feed(.homesMoved(Shards.homes(2)))
    shards.feed(.linkUp(.only))
    shards.feed(.linkUp(one))
    #expect(shards.claims.map(\.shard) == [.only, one])
    #expect(shards.claims.map(\.claim.mayBeFirst) == [true, isNew])
  }
}
