import LockEngine
import LockTypes
import RESP
import RedisLeases
import Testing

/// What reclaim.lua makes of what it finds, on the model and on a real server.
@Suite struct ReclaimTests {
  private let twin: TwinRedis
  private var keys: LockKeys { twin.encoders[0].keys }

  init() throws {
    twin = try TwinRedis()
    try twin.subscribe(0)
    try twin.subscribe(1)
    try twin.putEpoch(Self.grace)
  }

  private static let open = "1;\(EpochID.tested.text);o;run;0;10000;10000;0"
  private static let grace = "1;\(EpochID.tested.text);g;run;0;10000;10000;0"

  private static let first: Token = 8_000_000_000_000_001
  private static let own = "sidelock1;x;a/1f:7:8000000000000001"

  private func lease(
    _ mode: HoldMode = .exclusive, _ attempt: UInt64 = 7, name: LockName = TwinRedis.name, first: Token = Self.first,
    tokens: Int64? = nil, mayReplace: Bool = true
  ) -> ReclaimedLease {
    ReclaimedLease(
      name: name, attempt: attempt, mode: mode, firstToken: first,
      tokenCount: tokens ?? (mode == .exclusive ? 65_536 : 16),
      mayReplace: mayReplace)
  }

  private func reclaim(_ leases: ReclaimedLease..., at place: SourceLocation = #_sourceLocation) throws
    -> [LeaseStanding]
  {
    let command = LeaseCommand.reclaim(leases, leaseMilliseconds: 10_000, epoch: .tested)
    guard case .renewed(let standings) = try twin.execute(command, from: 0, at: place) else { return [] }
    return standings
  }

  /// A holder of a lock that is shared, whose end is far.
  private func share(_ host: String, _ attempt: Int, _ token: Token = 8_000_000_000_000_101, _ tokens: Int = 16)
    -> String
  {
    "\(host)/1f:\(attempt):\(token):\(tokens):9000000000000"
  }

  /// This host's share, as it is written.
  private let mine = "a/1f:7:8000000000000001:16:T"

  // MARK: Where nothing stands

  @Test func aLeaseThatIsGoneIsWrittenAsItWas() throws {
    #expect(try reclaim(lease()) == [.held])
    #expect(twin.lock == Self.own && twin.fence == "8000000000065536" && twin.queue == nil)
    #expect(try twin.timeLeft(keys.lockKey(TwinRedis.name)) == 10_000)
    // And once more.
    #expect(try reclaim(lease()) == [.held])
    #expect(twin.lock == Self.own)
  }

  @Test(arguments: [(HoldMode.shared, "s"), (.permit(of: 3), "p3")])
  func aShareThatIsGoneIsWrittenAsItWas(_ mode: HoldMode, _ word: String) throws {
    #expect(try reclaim(lease(mode)) == [.held])
    #expect(twin.lock == "sidelock1;\(word);\(mine)" && twin.fence == "8000000000000016")
    #expect(try twin.timeLeft(keys.lockKey(TwinRedis.name)) == 10_000)
  }

  /// A counter above this host's tokens tells of a grant since.
  @Test(arguments: [open, grace]) func withoutLeaveOnlyWhereNobodyWasGrantedIt(_ epoch: String) throws {
    try twin.putEpoch(epoch)
    try twin.putFence("8000000000065536")
    #expect(try reclaim(lease(mayReplace: false)) == [.held])
    try twin.put(keys.lockKey(TwinRedis.name), nil)
    try twin.putFence("8000000000065537")
    #expect(try reclaim(lease(mayReplace: false)) == [.lost])
    #expect(twin.lock == nil && twin.fence == "8000000000065537")
  }

  @Test func leaveIsGoodForTheGraceAlone() throws {
    try twin.putEpoch(Self.open)
    try twin.putFence("8000000000065537")
    #expect(try reclaim(lease()) == [.lost])
    try twin.putEpoch(Self.grace)
    #expect(try reclaim(lease()) == [.held])
    // The tokens of the others stay below what comes.
    #expect(twin.fence == "8000000000065537")
  }

  /// One command has all permits that a host has of a semaphore.
  @Test func permitsOfOneHostAreNoGrantsToOthers() throws {
    try twin.putEpoch(Self.open)
    try twin.putFence("8000000000000032")
    let two = HoldMode.permit(of: 2)
    #expect(
      try reclaim(
        lease(two, 7, mayReplace: false), lease(two, 8, first: 8_000_000_000_000_017, mayReplace: false)) == [
          .held, .held,
        ])
    #expect(twin.lock == "sidelock1;p2;\(mine);a/1f:8:8000000000000017:16:T")
    try twin.put(keys.lockKey(TwinRedis.name), nil)
    try twin.putFence("8000000000000033")
    #expect(try reclaim(lease(two, 7, mayReplace: false)) == [.lost])
  }

  // MARK: Where this host's own stands

  @Test(arguments: [open, grace], [true, false])
  func whatStandsUnderTheAttemptIsExtended(_ epoch: String, mayReplace: Bool) throws {
    try twin.putEpoch(epoch)
    try twin.put(keys.lockKey(TwinRedis.name), Self.own, milliseconds: 5000)
    #expect(try reclaim(lease(mayReplace: mayReplace)) == [.held])
    #expect(twin.lock == Self.own)
    #expect(try twin.timeLeft(keys.lockKey(TwinRedis.name)) == 10_000)
    try twin.putLock("sidelock1;s;\(share("b", 1));\(share("a", 7, Self.first))")
    #expect(try reclaim(lease(.shared, mayReplace: mayReplace)) == [.held])
    #expect(twin.lock == "sidelock1;s;\(share("b", 1));\(mine)")
  }

  /// Another one would have this host issue tokens a second time when it asks for more.
  @Test(arguments: [open, grace]) func theHigherBlockOfTokensStands(_ epoch: String) throws {
    try twin.putEpoch(epoch)
    // Of before the last that were reserved.
    try twin.putLock("sidelock1;x;a/1f:7:7000000000000001")
    #expect(try reclaim(lease(mayReplace: false)) == [.held])
    #expect(twin.lock == Self.own && twin.fence == "8000000000065536")
    // More were reserved, of which this host has not heard.
    try twin.putLock("sidelock1;x;a/1f:7:8000000000070001")
    #expect(try reclaim(lease(mayReplace: false)) == [.held])
    #expect(twin.lock == "sidelock1;x;a/1f:7:8000000000070001" && twin.fence == "8000000000135536")
  }

  @Test(arguments: [open, grace]) func whatBecameSharedIsShared(_ epoch: String) throws {
    try twin.putEpoch(epoch)
    try twin.putLock(Self.own)
    #expect(try reclaim(lease(.shared, mayReplace: false)) == [.held])
    #expect(twin.lock == "sidelock1;s;\(mine)")
    // It never becomes exclusive again, unless that is of an older data set.
    try twin.putLock("sidelock1;s;\(share("b", 1));\(share("a", 7, Self.first))")
    #expect(try reclaim(lease(mayReplace: false)) == [.lost])
    #expect(try reclaim(lease()) == [epoch == Self.open ? .lost : .held])
  }

  @Test func fieldsOfALaterReleaseStay() throws {
    try twin.putLock("sidelock1;x:later;a/1f:7:8000000000000001:field")
    #expect(try reclaim(lease(mayReplace: false)) == [.held])
    #expect(twin.lock == "sidelock1;x:later;a/1f:7:8000000000000001:field")
    try twin.putLock("sidelock1;s:later;\(share("b", 1)):field;\(share("a", 7, Self.first)):mine")
    #expect(try reclaim(lease(.shared)) == [.held])
    #expect(twin.lock == "sidelock1;s:later;\(share("b", 1)):field;\(mine):mine")
  }

  // MARK: Where others stand

  /// What an older data set tells of, by what this host has: what is left of it in the grace.
  @Test(arguments: [
    (HoldMode.exclusive, "x;b/1f:3:8000000000000101", ""),
    (.exclusive, "x;a/1f:6:8000000000000101", ""),
    (.exclusive, "s;b/1f:3:8000000000000101:16:9000000000000", ""),
    (.exclusive, "p3;b/1f:3:8000000000000101:16:9000000000000", ""),
    (.shared, "x;b/1f:3:8000000000000101", ""),
    (.shared, "p3;b/1f:3:8000000000000101:16:9000000000000", ""),
    (.shared, "s;b/1f:3:8000000000000101:16:9000000000000", "b/1f:3:8000000000000101:16:9000000000000;"),
    (.shared, "s;a/1f:6:8000000000000101:16:9000000000000", "a/1f:6:8000000000000101:16:9000000000000;"),
    (.permit(of: 3), "p2;b/1f:3:8000000000000101:16:9000000000000", ""),
    (.permit(of: 3), "x;b/1f:3:8000000000000101", ""),
    (.permit(of: 3), "p3;a/1f:6:8000000000000101:16:9000000000000", "a/1f:6:8000000000000101:16:9000000000000;"),
  ])
  func inTheGraceOthersMakeRoom(_ mode: HoldMode, _ stands: String, _ left: String) throws {
    try twin.putLock("sidelock1;\(stands)")
    #expect(try reclaim(lease(mode)) == [.held])
    let word = mode == .exclusive ? "x" : mode == .shared ? "s" : "p3"
    #expect(twin.lock == (mode == .exclusive ? Self.own : "sidelock1;\(word);\(left)\(mine)"))
    // The tokens of those who are gone count.
    let end = stands.hasPrefix("x") ? 8_000_000_000_065_636 : 8_000_000_000_000_116
    #expect(twin.fence == "\(max(end, mode == .exclusive ? 8_000_000_000_065_536 : 0))")
  }

  @Test(arguments: [
    "x;b/1f:3:8000000000000101", "x;a/1f:6:8000000000000101", "s;b/1f:3:8000000000000101:16:9000000000000",
    "p3;b/1f:3:8000000000000101:16:9000000000000",
  ])
  func whoeverWasGrantedItKeepsIt(_ stands: String) throws {
    try twin.putLock("sidelock1;\(stands)")
    for epoch in [Self.open, Self.grace] {
      try twin.putEpoch(epoch)
      #expect(try reclaim(lease(mayReplace: epoch == Self.open)) == [.lost])
      #expect(twin.lock == "sidelock1;\(stands)" && twin.fence == nil)
    }
  }

  /// A host has a share beside its successor for a moment.
  @Test(arguments: [8_000_000_000_000_032, 8_000_000_000_000_033]) func sharesOfOneHostStandBesideEachOther(
    _ counter: Int
  ) throws {
    try twin.putEpoch(Self.open)
    try twin.putFence("\(counter)")
    let isLast = counter == 8_000_000_000_000_032
    #expect(
      try reclaim(
        lease(.shared, 7, mayReplace: false), lease(.shared, 8, first: 8_000_000_000_000_017, mayReplace: false))
        == (isLast ? [.held, .held] : [.lost, .lost]))
  }

  @Test(arguments: [open, grace]) func whoCanStandBesideOthersDoes(_ epoch: String) throws {
    try twin.putEpoch(epoch)
    // In an epoch that is open, those who share it may have taken it after somebody who had it alone.
    let isGrace = epoch == Self.grace
    try twin.putLock("sidelock1;s;\(share("b", 3))")
    #expect(try reclaim(lease(.shared, mayReplace: false)) == [isGrace ? .held : .lost])
    #expect(twin.lock == "sidelock1;s;\(share("b", 3))\(isGrace ? ";\(mine)" : "")")
    try twin.putLock("sidelock1;p2;\(share("b", 3))")
    #expect(try reclaim(lease(.permit(of: 2), mayReplace: false)) == [.held])
    #expect(twin.lock == "sidelock1;p2;\(share("b", 3));\(mine)")
    let full = "sidelock1;p2;\(share("b", 3));\(share("b", 4, 8_000_000_000_000_201))"
    try twin.putLock(full)
    #expect(try reclaim(lease(.permit(of: 2), mayReplace: false)) == [.lost])
    #expect(try reclaim(lease(.permit(of: 3), mayReplace: false)) == [.lost])
    #expect(twin.lock == full)
  }

  /// Those of the older data set make room first, and nobody who has reclaimed does before there are too many of them.
  @Test func inTheGraceThereAreNeverMorePermitsThanThereAre() throws {
    let two = HoldMode.permit(of: 2)
    let old = [share("b", 3), share("c", 3, 8_000_000_000_000_201)]
    try twin.putLock("sidelock1;p2;" + old.joined(separator: ";"))
    #expect(try reclaim(lease(two)) == [.held])
    #expect(twin.lock == "sidelock1;p2;\(old[1]);\(mine)")
    let second = lease(two, 8, first: 8_000_000_000_000_301)
    #expect(try reclaim(second) == [.held])
    #expect(twin.lock == "sidelock1;p2;\(mine);a/1f:8:8000000000000301:16:T")
    // Once more, it changes nothing but the order.
    #expect(try reclaim(lease(two), second) == [.held, .held])
    #expect(twin.lock == "sidelock1;p2;\(mine);a/1f:8:8000000000000301:16:T")
    // A third one has it by mistake: somebody must find out.
    #expect(try reclaim(lease(two, 9, first: 8_000_000_000_000_401)) == [.held])
    #expect(twin.lock == "sidelock1;p2;a/1f:8:8000000000000301:16:T;a/1f:9:8000000000000401:16:T")
    let renewal = LeaseCommand.renew(
      [LeaseReference(name: TwinRedis.name, attempt: 7)], leaseMilliseconds: 10_000, epoch: .tested)
    #expect(try twin.execute(renewal, from: 0) == .renewed([.lost]))
  }

  @Test(arguments: ["foreign", "sidelock2;x;a/1f:7:8000000000000001", "sidelock1;y;a/1f:7:1", ""])
  func dataOfOthersStayAsTheyAre(_ value: String) throws {
    try twin.putLock(value)
    for epoch in [Self.grace, Self.open] {
      try twin.putEpoch(epoch)
      #expect(try reclaim(lease()) == [.lost])
      #expect(twin.lock == value && twin.fence == nil)
      #expect(try twin.timeLeft(keys.lockKey(TwinRedis.name)) == 900_000)
    }
  }

  @Test func dataOfAnotherTypeStayAsTheyAre() throws {
    try twin.tell(["HSET", Bytes(keys.lockKey(TwinRedis.name)), "a", "b"])
    #expect(try reclaim(lease()) == [.lost])
    #expect(twin.lock == "other")
    // In the keys beside it they cost nobody a lease.
    try twin.put(keys.lockKey(TwinRedis.name), nil)
    for key in [keys.queueKey(TwinRedis.name), keys.fenceKey(TwinRedis.name)] {
      try twin.tell(["HSET", Bytes(key), "a", "b"])
    }
    #expect(try reclaim(lease()) == [.held])
    #expect(twin.lock == Self.own && twin.queue == "other" && twin.fence == "other")
  }

  // MARK: Where it is called

  /// Else it would be granted once more what it has.
  @Test func whatIsReclaimedDoesNotWait() throws {
    try twin.putInQueue("1;b/1f:7:10000:x", "1;a/1f:7:10000:x", "1;a/1f:8:10000:x", "1;a/1f:7:9000:s", "rubbish")
    #expect(try reclaim(lease()) == [.held])
    #expect(twin.queue == "1;b/1f:7:10000:x 1;a/1f:8:10000:x rubbish" && twin.messages.isEmpty)
    // What is lost may wait for its turn.
    try twin.putInQueue("1;a/1f:7:10000:x")
    #expect(try reclaim(lease(.shared, mayReplace: false)) == [.held])
    try twin.putLock("foreign")
    try twin.putInQueue("1;a/1f:7:10000:x")
    #expect(try reclaim(lease()) == [.lost])
    #expect(twin.queue == "1;b/1f:7:10000:x 1;a/1f:8:10000:x rubbish 1;a/1f:7:10000:x")
  }

  @Test(arguments: EpochLookTests.others) func elsewhereNothingIsReclaimed(_ epoch: String?) throws {
    try twin.putEpoch(epoch)
    try twin.put(keys.lockKey(TwinRedis.name), Self.own, milliseconds: 5000)
    let command = LeaseCommand.reclaim(
      [lease(), lease(name: LockName("y"))], leaseMilliseconds: 10_000, epoch: .tested)
    #expect(try twin.execute(command, from: 0) == .otherEpoch)
    #expect(twin.text(keys.lockKey(LockName("y"))) == nil)
    #expect(try twin.timeLeft(keys.lockKey(TwinRedis.name)) == 5000)
  }

  @Test func manyAreAnsweredOneByOne() throws {
    let names = (0..<5).map { LockName("braces {%\($0)} and blanks") }
    try twin.put(keys.lockKey(names[1]), "foreign", milliseconds: 900_000)
    try twin.put(keys.lockKey(names[3]), "sidelock1;x;b/1f:3:8000000000000101", milliseconds: 900_000)
    let standings = try reclaim(
      lease(name: names[0]), lease(name: names[1]), lease(.shared, name: names[2]),
      lease(name: names[3], mayReplace: false),
      lease(.permit(of: 4), name: names[4]))
    #expect(standings == [.held, .lost, .held, .lost, .held])
    for (name, standing) in zip(names, standings) {
      #expect((twin.text(keys.fenceKey(name)) != nil) == (standing == .held))
    }
  }

  @Test func aFullServerTakesThem() throws {
    try twin.putInQueue("1;a/1f:7:10000:x")
    try twin.have(.outOfMemory)
    #expect(try reclaim(lease(), lease(.shared, name: LockName("y"))) == [.held, .held])
    #expect(twin.lock == Self.own && twin.queue == nil)
  }

  @Test func aReplicaRefusesThem() throws {
    try twin.putLock(Self.own)
    try twin.have(.readOnly)
    let command = LeaseCommand.reclaim([lease()], leaseMilliseconds: 10_000, epoch: .tested)
    let reply = try twin.run(twin.encoders[0].encode(command))
    #expect(reply.error.map { RedisErrorReply.demandsReconnect(error: $0) } == true)
  }

  /// A right that is missing says nothing about a lease.
  @Test(arguments: ["GET", "SET", "LPOP", "TIME"]) func aRefusalLosesNothing(_ right: String) throws {
    try twin.deny(right)
    let command = LeaseCommand.reclaim([lease(.shared)], leaseMilliseconds: 10_000, epoch: .tested)
    guard case .failed(.transient) = try twin.execute(command, from: 0) else {
      Issue.record("without \(right)")
      return
    }
  }

  /// What follows a reclaim is as it was: an ask, more tokens, and a release that hands on above all tokens.
  @Test func whatIsReclaimedIsALeaseLikeAnother() throws {
    #expect(try reclaim(lease()) == [.held])
    try twin.putEpoch(Self.open)
    try twin.execute(
      .acquire(name: TwinRedis.name, attempt: 3, ask: 1, isTry: false, terms: .tested), from: 1)
    #expect(twin.messages == ["1;contended 7 1 0 b/1f x;x"])
    let more = try twin.execute(
      .reserve(name: TwinRedis.name, attempt: 7, tokenEnd: 8_000_000_000_065_537, terms: .tested), from: 0)
    #expect(more == .reserved(LeaseGrant(token: 8_000_000_000_065_537, tokenCount: 65_536, othersWait: true)))
    try twin.execute(
      .release(name: TwinRedis.name, attempt: 7, unused: .from(8_000_000_000_065_540), terms: .tested), from: 0)
    #expect(twin.messages == ["1;granted 3 8000000000065540 65536 0;x"])
  }
}
