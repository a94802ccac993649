import LockTypes
import RESP
import Testing

@testable import RedisLeases

/// Sentinels that answer when a test says so.
private struct Scene {
  typealias Effect = SentinelMachine.Effect

  static let old = RedisAddress(host: "10.0.0.1", port: 6379)
  static let new = RedisAddress(host: "10.0.0.2", port: 6379)

  var machine: SentinelMachine
  var now = BootInstant(nanoseconds: 1_000_000_000)
  /// The connections that are open, by the number of the Sentinel.
  var open: [Int: UInt64] = [:]
  /// Who was asked and has not answered.
  var asked: [Int] = []
  /// Whether connections are made at once, and otherwise not at all.
  var connects = true
  /// All that is not about connections.
  var told: [Effect] = []

  init(named: [Int] = [1, 2, 3]) {
    machine = SentinelMachine(
      RedisSentinels(addresses: named.map(Self.address), master: "m"), limitMilliseconds: 1000)
  }

  static func address(_ sentinel: Int) -> RedisAddress { RedisAddress(host: "s\(sentinel)", port: 26379) }

  /// That Sentinels 1, 2 and 3 agree on the old primary, and that the link to it is up.
  static func settled() -> Scene {
    var scene = Scene()
    scene.search()
    scene.answer(1)
    scene.answer(2)
    scene.machine.linkUp(Self.old, now: scene.now)
    scene.told = []
    return scene
  }

  mutating func take(_ effects: [Effect]) {
    for effect in effects {
      switch effect {
      case .connect(let number, let address):
        let sentinel = Int(address.host.dropFirst()) ?? 0
        open[sentinel] = number
        asked.append(sentinel)
        if connects { machine.connected(number, now: now) }
      case .ask(let number): if let sentinel = open.first(where: { $0.value == number })?.key { asked.append(sentinel) }
      case .close(let number):
        guard let sentinel = open.first(where: { $0.value == number })?.key else { continue }
        open[sentinel] = nil
        asked.removeAll { $0 == sentinel }
      case .found, .notFound, .switched, .tell: told.append(effect)
      }
    }
  }

  mutating func search() { take(machine.search(now: now)) }

  mutating func answer(
    _ sentinel: Int, _ primary: RedisAddress = Scene.old, epoch: Int64 = 1, count: Int = 3, down: Bool = false,
    others: [Int] = [1, 2, 3], id: String? = nil
  ) {
    asked.removeAll { $0 == sentinel }
    let others = others.filter { $0 != sentinel }.map {
      SentinelAnswer.Other(id: "id\($0)", address: Self.address($0))
    }
    let answer = SentinelAnswer(
      id: id ?? "id\(sentinel)", primary: primary, configEpoch: epoch, sentinelCount: count, seesPrimaryDown: down,
      others: others)
    take(machine.answered(open[sentinel] ?? 0, answer, now: now))
  }

  mutating func fail(_ sentinel: Int, _ reason: String = "refused") {
    asked.removeAll { $0 == sentinel }
    let number = open.removeValue(forKey: sentinel)
    take(machine.ended(number ?? 0, reason: reason, now: now))
  }

  mutating func switches(_ sentinel: Int, to primary: RedisAddress = Scene.new) {
    take(machine.switched(open[sentinel] ?? 0, to: primary, now: now))
  }

  /// Goes to the next deadlines, up to that far.
  mutating func pass(_ milliseconds: Int64) {
    let end = now.adding(milliseconds: milliseconds)
    var steps = 0
    while let deadline = machine.deadline, deadline <= end, steps < 1000 {
      now = max(now, deadline)
      take(machine.timePassed(now: now))
      steps += 1
    }
    #expect(steps < 1000, "it does not come to rest")
    now = end
  }

  var found: [RedisAddress] { told.compactMap { if case .found(let primary) = $0 { primary } else { nil } } }
  var reasons: [String] { told.compactMap { if case .notFound(let reason) = $0 { reason } else { nil } } }
  var disagreements: [String] {
    told.compactMap { if case .tell(.disagreement(let words)) = $0 { words } else { nil } }
  }
}

@Suite struct SentinelMachineTests {
  private let old = Scene.old
  private let new = Scene.new

  // MARK: Searching

  @Test func oneIsAskedAfterTheOtherUntilMostAgree() {
    var scene = Scene()
    scene.search()
    #expect(scene.asked == [1])
    scene.answer(1)
    #expect(scene.asked == [2] && scene.found.isEmpty)
    scene.answer(2)
    #expect(scene.found == [old] && scene.asked.isEmpty)
    // One connection stays.
    #expect(scene.open.keys.sorted() == [1])
    #expect(scene.machine.sentinelCount == 3)
  }

  @Test func oneAloneIsEnoughWhereThereIsOne() {
    var scene = Scene(named: [1])
    scene.search()
    scene.answer(1, count: 1, others: [])
    #expect(scene.found == [old])
  }

  /// One that was begun anew knows no others, and an old primary.
  @Test func oneThatKnowsNobodyIsNotEnoughWhereTheURLNamesMore() {
    var scene = Scene()
    scene.search()
    scene.answer(1, epoch: 0, count: 1, others: [])
    #expect(scene.found.isEmpty && scene.asked == [2])
    scene.answer(2, new, epoch: 1)
    scene.answer(3, new, epoch: 1)
    #expect(scene.found == [new])
    var alone = Scene()
    alone.search()
    alone.answer(1, epoch: 0, count: 1, others: [])
    alone.fail(2, "gone")
    alone.fail(3, "gone")
    #expect(
      alone.reasons == [
        "1 of the 3 sentinels of 'm' has answered, and 2 are needed: s2:26379: gone; s3:26379: gone"
      ])
  }

  @Test func namesOfTheURLForTheSameSentinelCountOnce() {
    var scene = Scene(named: [1, 2, 3, 4])
    scene.search()
    scene.answer(1, count: 1, others: [])
    for sentinel in 2...4 { scene.answer(sentinel, count: 1, others: [], id: "id1") }
    #expect(scene.found == [old])
  }

  @Test func thoseThatTheURLDoesNotNameAreAskedToo() {
    var scene = Scene(named: [1])
    scene.search()
    scene.answer(1)
    #expect(scene.asked == [2])
    scene.answer(2)
    #expect(scene.found == [old])
    // And they are there when the first is gone.
    scene.fail(1)
    scene.search()
    #expect(Set(scene.asked).isSubset(of: [2, 3]))
  }

  @Test func aSilentOneIsPassedOver() {
    var scene = Scene()
    scene.search()
    scene.pass(SentinelMachine.patienceMilliseconds - 1)
    #expect(scene.asked == [1])
    scene.pass(1)
    #expect(scene.asked == [1, 2])
    scene.answer(2)
    scene.answer(3)
    #expect(scene.found == [old])
    // The next search begins with another one.
    scene.search()
    scene.answer(2)
    #expect(scene.asked == [3])
  }

  @Test func aSlowOneCountsWhenItAnswers() {
    var scene = Scene()
    scene.search()
    scene.pass(900)
    #expect(scene.asked == [1, 2, 3])
    scene.answer(3)
    scene.answer(1)
    #expect(scene.found == [old])
  }

  @Test func silenceEndsTheSearchInTheEnd() {
    var scene = Scene()
    scene.search()
    scene.pass(2000)
    #expect(
      scene.reasons == [
        "no sentinel tells where the primary of 'm' is: s1:26379: no answer within 1000 ms; "
          + "s2:26379: no answer within 1000 ms; s3:26379: no answer within 1000 ms"
      ])
    #expect(scene.open.isEmpty)
  }

  @Test func whatIsWrongWithAConnectionIsToldBeforeItsSilence() {
    var scene = Scene(named: [1])
    scene.connects = false
    scene.search()
    scene.pass(1500)
    #expect(scene.reasons.isEmpty)
    scene.fail(1, "does the server speak TLS on this port?")
    #expect(scene.reasons.first?.hasSuffix("s1:26379: does the server speak TLS on this port?") == true)
    scene.search()
    scene.pass(2000)
    #expect(scene.reasons.last?.hasSuffix("s1:26379: no answer within 1000 ms") == true)
  }

  @Test func theNextOneIsFirstAfterAFailure() {
    var scene = Scene()
    scene.search()
    scene.fail(1)
    #expect(scene.asked == [2])
    scene.answer(2)
    scene.answer(3)
    #expect(scene.found == [old])
    scene.search()
    #expect(scene.asked == [2])
  }

  @Test func fewerThanMostAreNotBelieved() {
    var scene = Scene()
    scene.search()
    scene.answer(1)
    scene.fail(2, "it asks for a password")
    scene.fail(3, "cannot connect")
    #expect(scene.found.isEmpty)
    #expect(
      scene.reasons == [
        "1 of the 3 sentinels of 'm' has answered, and 2 are needed: s2:26379: it asks for a password; "
          + "s3:26379: cannot connect"
      ])
  }

  @Test func eachRefusalIsToldOnce() {
    var scene = Scene(named: [1])
    for _ in 0..<3 {
      scene.search()
      scene.fail(1, "it knows no master 'm'")
    }
    #expect(scene.told.filter { $0 == .tell(.useless(Scene.address(1), "it knows no master 'm'")) }.count == 1)
    #expect(scene.reasons.count == 3)
  }

  /// One Sentinel under two names has one voice.
  @Test func oneUnderTwoNamesCountsOnce() {
    var scene = Scene(named: [1, 2])
    scene.search()
    scene.answer(1, others: [])
    scene.answer(2, others: [], id: "id1")
    #expect(scene.found.isEmpty)
    #expect(scene.reasons == ["1 of the 3 sentinels of 'm' has answered, and 2 are needed: it knows no others"])
  }

  // MARK: Disagreement

  @Test func theYoungestFailoverIsBelieved() {
    var scene = Scene()
    scene.search()
    scene.answer(1)
    scene.answer(2, new, epoch: 2)
    // Everybody is heard first.
    #expect(scene.found.isEmpty && scene.asked == [3])
    scene.answer(3)
    #expect(scene.found == [new])
    #expect(
      scene.disagreements == [
        "s1:26379 says 10.0.0.1:6379 (epoch 1), s2:26379 says 10.0.0.2:6379 (epoch 2), "
          + "s3:26379 says 10.0.0.1:6379 (epoch 1)"
      ])
    // The one that knows is listened to.
    #expect(scene.open.keys.sorted() == [2])
  }

  @Test func ofTheSameEpochMostAreBelieved() {
    var scene = Scene()
    scene.search()
    scene.answer(1, new)
    scene.answer(2)
    scene.answer(3)
    #expect(scene.found == [old])
  }

  @Test func anOldPrimaryWithItsSentinelIsRefused() {
    var scene = Scene.settled()
    scene.machine.linkDown(isUseless: false)
    scene.search()
    scene.answer(1)
    scene.fail(2)
    scene.fail(3)
    #expect(scene.found.isEmpty && scene.reasons.count == 1)
  }

  @Test func aLiarIsNotBelievedForLong() {
    var scene = Scene()
    scene.search()
    scene.answer(1, new, epoch: 99)
    scene.answer(2)
    scene.answer(3)
    #expect(scene.found == [new])
    // What it has named is no primary.
    scene.machine.linkDown(isUseless: true)
    scene.told = []
    let begun = scene.now
    while scene.found.isEmpty, scene.now < begun.adding(milliseconds: 60_000) {
      scene.search()
      while let sentinel = scene.asked.first {
        scene.answer(sentinel, sentinel == 1 ? new : old, epoch: sentinel == 1 ? 99 : 1)
      }
      scene.pass(100)
    }
    #expect(scene.found == [old])
    #expect(scene.now.milliseconds(since: begun) < SentinelMachine.staleMillisecondsMax + 1000)
  }

  @Test func thatSentinelsAreSetUpAnewIsBelievedAfterAWhile() {
    var scene = Scene()
    scene.search()
    scene.answer(1, new, epoch: 5)
    scene.answer(2, new, epoch: 5)
    scene.told = []
    let begun = scene.now
    while scene.found.isEmpty, scene.now < begun.adding(milliseconds: 60_000) {
      scene.search()
      while let sentinel = scene.asked.first { scene.answer(sentinel, epoch: 1) }
      scene.pass(500)
      while let sentinel = scene.asked.first { scene.answer(sentinel, epoch: 1) }
    }
    #expect(scene.found == [old])
    let milliseconds = scene.now.milliseconds(since: begun)
    #expect(milliseconds >= SentinelMachine.staleMillisecondsMax && milliseconds < 12_000)
    #expect(scene.reasons.first == "the sentinels tell of an older primary of 'm' than before")
  }

  // MARK: Failovers

  @Test func aFailoverThatIsToldDropsTheLink() {
    var scene = Scene.settled()
    scene.switches(1)
    #expect(scene.told.isEmpty && scene.asked == [1])
    scene.answer(1, new, epoch: 2)
    #expect(scene.told == [.switched(to: new)])
    scene.machine.linkDown(isUseless: false)
    scene.search()
    scene.answer(1, new, epoch: 2)
    scene.answer(2, new, epoch: 2)
    #expect(scene.found == [new])
    scene.machine.linkUp(new, now: scene.now)
    #expect(scene.machine.failoverCount == 1)
    #expect(scene.machine.lastFailover == SentinelMachine.Failover(from: old, at: scene.now))
  }

  /// Two lead one each, and the listener hears of the older one last, or has led it.
  @Test func anOlderFailoverThanTheLastDropsNoLink() {
    var scene = Scene.settled()
    scene.switches(1)
    scene.answer(1, new, epoch: 3)
    scene.machine.linkDown(isUseless: false)
    scene.search()
    scene.answer(1, new, epoch: 3)
    scene.answer(2, new, epoch: 3)
    scene.machine.linkUp(new, now: scene.now)
    scene.told = []
    let third = RedisAddress(host: "10.0.0.3", port: 6379)
    scene.switches(1, to: third)
    scene.answer(1, third, epoch: 2)
    #expect(!scene.told.contains(.switched(to: third)) && scene.disagreements.count == 1)
    // Another one is listened to.
    #expect(scene.open.keys.sorted() == [2] && scene.asked == [2])
    scene.answer(2, new, epoch: 3)
    #expect(scene.machine.failoverCount == 1 && scene.machine.primary == new)
  }

  /// An answer that was under way is of before, in part.
  @Test func whoToldOfAFailoverAndAnswersAsBeforeIsAskedAgain() {
    var scene = Scene.settled()
    scene.pass(SentinelMachine.pollMilliseconds)
    scene.switches(1)
    scene.answer(1)
    #expect(scene.told.isEmpty && scene.asked == [1])
    scene.answer(1, new, epoch: 1)
    scene.told = scene.told.filter { if case .switched = $0 { true } else { false } }
    #expect(scene.told.isEmpty)
    // One that tells of it again, and does not count epochs, is believed as before.
    scene.switches(2)
    scene.answer(2, new, epoch: 1)
    #expect(scene.told.contains(.switched(to: new)))
  }

  @Test func theSamePrimaryAgainIsNoFailover() {
    var scene = Scene.settled()
    scene.switches(1, to: old)
    #expect(scene.told.isEmpty)
    scene.machine.linkDown(isUseless: false)
    scene.machine.linkUp(old, now: scene.now)
    #expect(scene.machine.failoverCount == 0 && scene.machine.lastFailover == nil)
  }

  @Test func whatWasAnsweredBeforeAFailoverIsAskedAgain() {
    var scene = Scene()
    scene.search()
    scene.answer(1)
    scene.switches(1)
    #expect(scene.asked == [2, 1])
    scene.answer(1, new, epoch: 2)
    scene.answer(2, new, epoch: 2)
    #expect(scene.found == [new])
    #expect(scene.disagreements.isEmpty)
  }

  @Test func aFailoverThatNobodyElseKnowsOfCostsItsListener() {
    var scene = Scene.settled()
    scene.switches(1)
    scene.answer(1, new, epoch: 2)
    scene.search()
    scene.answer(1)
    scene.answer(2)
    #expect(scene.found == [old])
    #expect(scene.open.keys.sorted() == [2])
  }

  // MARK: Following

  @Test func theListenerIsAskedNowAndThen() {
    var scene = Scene.settled()
    scene.pass(SentinelMachine.pollMilliseconds)
    #expect(scene.asked == [1])
    scene.answer(1)
    scene.pass(SentinelMachine.pollMilliseconds - 1)
    #expect(scene.asked.isEmpty)
  }

  @Test func aFailoverThatWasNotToldIsFoundByAsking() {
    var scene = Scene.settled()
    scene.pass(SentinelMachine.pollMilliseconds)
    scene.answer(1, new, epoch: 2)
    #expect(scene.told == [.switched(to: new)])
  }

  @Test func aSentinelThatFallsBehindIsLeft() {
    var scene = Scene.settled()
    scene.pass(SentinelMachine.pollMilliseconds)
    scene.answer(1, new, epoch: 0)
    #expect(scene.open.keys.sorted() == [2] && scene.asked == [2])
    #expect(scene.disagreements == ["s1:26379 says 10.0.0.2:6379 (epoch 0)"])
    scene.answer(2)
    #expect(scene.open.keys.sorted() == [2])
  }

  @Test func anotherOneIsListenedToWhenTheFirstEnds() {
    var scene = Scene.settled()
    scene.fail(1)
    #expect(scene.asked == [2])
    scene.answer(2)
    scene.switches(2)
    scene.answer(2, new, epoch: 2)
    #expect(scene.told.last == .switched(to: new))
  }

  @Test func anotherOneIsListenedToWhenTheFirstIsSilent() {
    var scene = Scene.settled()
    scene.pass(SentinelMachine.pollMilliseconds + 999)
    #expect(scene.open.keys.sorted() == [1])
    scene.pass(1)
    #expect(scene.open.keys.sorted() == [2])
  }

  @Test func oneThatCannotReachThePrimaryIsLeftAndNotInCircles() {
    var scene = Scene.settled()
    scene.pass(SentinelMachine.pollMilliseconds)
    scene.answer(1, down: true)
    #expect(scene.asked == [2])
    scene.answer(2, down: true)
    #expect(scene.asked.isEmpty && scene.open.keys.sorted() == [2])
  }

  @Test func thatNobodyCanBeListenedToIsToldOnceAndTriedOn() {
    var scene = Scene.settled()
    var tries = 0
    scene.fail(1)
    let begun = scene.now
    while scene.now < begun.adding(milliseconds: 100_000) {
      while let sentinel = scene.asked.first {
        tries += 1
        scene.fail(sentinel)
      }
      scene.pass(100)
    }
    let notices = scene.told.filter { if case .tell(.nobodyListenedTo) = $0 { true } else { false } }
    #expect(notices.count == 1)
    // Three in each pause of at most eight seconds.
    #expect(tries > 30 && tries < 80, "\(tries)")
    while scene.asked.isEmpty { scene.pass(100) }
    let sentinel = scene.asked[0]
    scene.answer(sentinel)
    #expect(scene.open.keys.sorted() == [sentinel])
  }

  @Test func newSentinelsBecomeKnownAndOldOnesAreForgotten() {
    var scene = Scene.settled()
    scene.pass(SentinelMachine.pollMilliseconds)
    scene.answer(1, count: 5, others: [1, 2, 4, 5, 6])
    #expect(scene.machine.sentinelCount == 5)
    scene.search()
    var seen: [Int] = []
    while let sentinel = scene.asked.first {
      seen.append(sentinel)
      scene.fail(sentinel)
    }
    // Those of the URL stay.
    #expect(seen.sorted() == [1, 2, 3, 4, 5, 6])
  }

  @Test func onlySoManyAreKnown() {
    var scene = Scene.settled()
    for round in 0..<5 {
      scene.pass(SentinelMachine.pollMilliseconds)
      scene.answer(1, others: Array(1000 * round..<1000 * round + 100))
    }
    scene.search()
    var count = 0
    while let sentinel = scene.asked.first {
      count += 1
      scene.fail(sentinel)
    }
    #expect(count == RedisSentinels.addressesMax)
  }

  @Test func whatAClosedConnectionTellsIsNotHeard() {
    var scene = Scene.settled()
    let closed = scene.open[1] ?? 0
    scene.fail(1)
    scene.told = []
    scene.take(scene.machine.switched(closed, to: new, now: scene.now))
    scene.take(scene.machine.ended(closed, reason: "again", now: scene.now))
    #expect(scene.told.isEmpty)
  }
}
