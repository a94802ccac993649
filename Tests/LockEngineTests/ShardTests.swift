import LockTypes
import Testing

@testable import LockEngine

/// A store of several shards, each with a connection and an epoch of its own.
@Suite struct ShardTests {
  private let one = Shards.one
  private let two = Shards.two

  @Test func eachNameIsAskedForAtItsHomeInTheEpochOfThat() {
    let shards = Shards(3)
    for name in ["a", "b", "c"] { shards.acquire(alice, name) }
    let asked = shards.sent()
    #expect(asked.map(\.shard) == [.only, one, two])
    #expect(acquires(asked.map(\.command)).map(\.terms.epoch.number) == [1, 2, 3])
    #expect(shards.engine.shards == [.only, one, two] && shards.engine.shard(of: LockName("c")) == two)
  }

  @Test func aShardThatIsDownHindersNoOther() {
    let shards = Shards(2)
    shards.hold(alice, "a")
    shards.hold(alice, "b")
    shards.feed(.linkDown(one))
    _ = shards.take()
    shards.acquire(bob, "c", wait: 0)
    #expect(shards.take().compactMap(\.refusal) == [.unavailable(nil)])
    shards.hold(bob, "d", token: 200)
    // Only what has its home there is in doubt when it is back.
    shards.feed(.linkUp(one))
    let renewed = shards.sent()
    #expect(renewed.map(\.shard) == [one])
    #expect(renewed.map(\.command) == [.renew([LeaseReference(name: LockName("b"), attempt: 2)], epoch: epoch(2, 1))])
  }

  @Test func leasesAreRenewedAtTheirHomes() {
    let shards = Shards(3)
    for name in ["a", "b", "c"] { shards.hold(alice, name) }
    shards.pass(milliseconds: 3400)
    let renewed = shards.sent()
    #expect(Set(renewed.map(\.shard)) == [.only, one, two])
    #expect(renewed.count == 3)
    for renewal in renewed { shards.reply(.renewed([.held]), to: renewal) }
    shards.pass(milliseconds: 8000)
    #expect(!shards.take().contains { $0.lostReason != nil })
  }

  @Test func aShardThatRecoversGrantsNothingAndOthersDo() {
    let shards = Shards(2)
    shards.epochs[one] = .epoch(7, of: "h/9", isOpen: false)
    shards.feed(.linkDown(one))
    shards.feed(.linkUp(one))
    shards.acquire(alice, "b", wait: 0)
    guard case .recovering? = shards.take().compactMap(\.refusal).first else {
      Issue.record("a try at a shard in its grace")
      return
    }
    shards.hold(bob, "a")
    #expect(shards.engine.storeStanding(of: one).graceEnds != nil)
    #expect(shards.engine.storeStanding(of: .only).graceEnds == nil)
  }

  @Test func whatOneShardHasLostIsReclaimedThereAlone() {
    let shards = Shards(2)
    shards.hold(alice, "a")
    shards.hold(alice, "b")
    shards.epochs[one] = .epoch(7, of: "h/9", isOpen: false)
    shards.feed(.linkDown(one))
    shards.feed(.linkUp(one))
    let sent = shards.sent()
    #expect(sent.map(\.shard) == [one])
    #expect(
      sent.map(\.command) == [
        .reclaim(LockName("b"), attempt: 2, 100..<110, mayReplace: true, in: EpochSight.epoch(7, of: "h/9").id)
      ])
  }

  @Test func aGrantIsBelievedOnlyFromTheHome() {
    let shards = Shards(2)
    shards.acquire(alice, "b")
    shards.reply(queued(), to: shards.sent()[0])
    let push = LeasePush.granted(
      name: LockName("b"), attempt: 1, LeaseGrant(token: 7, tokenCount: 10, othersWait: false))
    shards.pass(milliseconds: 1100)
    for look in shards.sent() { shards.reply(.lostPlaces([]), to: look) }
    shards.feed(.pushReceived(.only, push))
    #expect(!shards.take().contains { $0.grantedToken != nil })
    shards.feed(.pushReceived(one, push))
    #expect(shards.take().contains { $0.grantedToken == 7 })
  }

  @Test func severalNamesComeFromSeveralShards() {
    let shards = Shards(3)
    shards.acquire(alice, "c", "a", "b")
    for (shard, token) in [(ShardID.only, Token(10)), (one, 20), (two, 30)] {
      let sent = shards.sent()
      #expect(sent.map(\.shard) == [shard])
      shards.reply(granted(token), to: sent[0])
    }
    #expect(shards.take().compactMap(\.grantedTokens) == [["a": 10, "b": 20, "c": 30]])
  }

  @Test func eachShardIsAskedForItsReplicas() {
    let shards = Shards(2)
    shards.acquire(alice, "a", "b", need: ReplicaNeed(replicas: 1))
    for token in [Token(10), 20] { shards.reply(granted(token), to: shards.sent()[0]) }
    let asked = shards.take().compactMap(\.acknowledgement)
    #expect(asked.map(\.shard) == [.only, one])
    for (shard, id) in asked {
      #expect(shards.take().isEmpty)
      shards.feed(.acknowledged(shard, id, .enough(replicas: 1)))
    }
    #expect(shards.take().compactMap(\.grantedTokens) == [["a": 10, "b": 20]])
  }

  @Test func onlyTheShardThatHasBegunAnewIsAskedForItsReplicasAgain() {
    let shards = Shards(2)
    shards.acquire(alice, "a", "b", need: ReplicaNeed(replicas: 1))
    for token in [Token(10), 20] { shards.reply(granted(token), to: shards.sent()[0]) }
    let asked = shards.take().compactMap(\.acknowledgement)
    shards.feed(.acknowledged(.only, asked[0].id, .enough(replicas: 1)))
    shards.feed(.linkDown(one))
    shards.feed(.acknowledged(one, asked[1].id, .unknown))
    shards.feed(.linkUp(one))
    let renewal = shards.sent()
    #expect(renewal.map(\.shard) == [one])
    shards.reply(.renewed([.held]), to: renewal[0])
    let again = shards.take().compactMap(\.acknowledgement)
    #expect(again.map(\.shard) == [one])
    shards.feed(.acknowledged(one, again[0].id, .enough(replicas: 1)))
    #expect(shards.take().compactMap(\.grantedTokens) == [["a": 10, "b": 20]])
  }

  @Test func placesAreLookedAtInEachShard() {
    let shards = Shards(2)
    for name in ["a", "b"] {
      shards.acquire(alice, name)
      shards.reply(queued(), to: shards.sent()[0])
    }
    shards.pass(milliseconds: 1100)
    let looks = shards.sent()
    #expect(looks.map(\.shard).sorted { $0.rawValue < $1.rawValue } == [.only, one])
    #expect(looks.allSatisfy { if case .checkPlaces(let places, _) = $0.command { places.count == 1 } else { false } })
  }

  @Test func aStopEndsWhenEachShardHasConfirmed() {
    let shards = Shards(2)
    shards.hold(alice, "a")
    shards.hold(alice, "b")
    shards.feed(.shutdownRequested)
    let releases = shards.sent()
    #expect(releases.map(\.shard) == [.only, one])
    shards.reply(.done, to: releases[0])
    #expect(!shards.take().contains(.shutdownCompleted))
    shards.reply(.done, to: releases[1])
    #expect(shards.take().contains(.shutdownCompleted))
  }

  @Test func theLifeInOneShardEndsWhatHasItsHomeThere() {
    let shards = Shards(2, Shards.configuration { $0.settings.deadHostMilliseconds = 2000 })
    shards.hold(alice, "a")
    shards.hold(bob, "b")
    shards.epochs[one] = nil
    shards.pass(milliseconds: 2000)
    let lost = shards.take().filter { $0.lostReason == .leaseExpired }
    #expect(lost.count == 1)
    guard case .notify(bob, .lost)? = lost.first else {
      Issue.record("the other one was lost")
      return
    }
  }

  private func epoch(_ number: UInt64, _ shard: Int) -> EpochID { EpochSight.epoch(number, of: "h/\(shard)").id }
}
