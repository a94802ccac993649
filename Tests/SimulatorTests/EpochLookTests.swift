import LockEngine
import LockTypes
import RESP
import RedisLeases
import Testing

/// What the scripts of one lock do in the epoch that their host knows, in its grace, and in any other one.
@Suite struct EpochLookTests {
  private let twin: TwinRedis

  init() throws {
    twin = try TwinRedis()
    for host in 0...2 { try twin.subscribe(host) }
    try twin.putEpoch(Self.open)
  }

  private static let open = "1;\(EpochID.tested.text);o;run;0;10000;10000;0"
  private static let grace = "1;\(EpochID.tested.text);g;run;0;10000;10000;0"
  /// What stands there when the host's own epoch does not.
  static let others: [String?] = [
    nil, "", "rubbish", "1;6:b/1f:3;o;run;0;10000;10000;0", "1;6:b/1f:3;g;run;0;10000;10000;0",
    "1;\(EpochID.tested.text)1;o;run;0;1;1;0", "1;1\(EpochID.tested.text);o;run;0;1;1;0",
    "1;\(EpochID.tested.text);open;run;0;1;1;0", "1;\(EpochID.tested.text);", "2;\(EpochID.tested.text);o;later",
    "1;\(EpochID.tested.text);x;run;0;1;1;0",
  ]

  private static let own = "sidelock1;x;a/1f:7:8000000000000001"
  private static let anothers = "sidelock1;x;b/1f:7:8000000000000001"

  private func acquire(
    _ host: Int = 0, _ attempt: UInt64 = 7, isTry: Bool = false, mode: HoldMode = .exclusive,
    terms: GrantTerms = .tested
  ) -> LeaseCommand {
    .acquire(name: TwinRedis.name, attempt: attempt, ask: 1, isTry: isTry, terms: terms, mode: mode)
  }

  private func release(_ attempt: UInt64 = 7) -> LeaseCommand {
    .release(name: TwinRedis.name, attempt: attempt, unused: .from(8_000_000_000_000_002), terms: .tested)
  }

  private let reserve = LeaseCommand.reserve(
    name: TwinRedis.name, attempt: 7, tokenEnd: 8_000_000_000_065_537, terms: .tested)
  private let downgrade = LeaseCommand.downgrade(
    name: TwinRedis.name, attempt: 7, tokenEnd: 8_000_000_000_000_009, terms: .tested)

  private func isGranted(_ reply: LeaseReply) -> Bool { if case .granted = reply { true } else { false } }

  /// `{'queued', '', lease, 0, TIME}`: nobody is named, and nobody was asked.
  private func isQueuedBehindNobody(_ reply: LeaseReply) -> Bool {
    guard case .queued("", 10_000, 0, .some) = reply else { return false }
    return twin.messages.isEmpty
  }

  // MARK: acquire

  @Test func inItsOpenEpochAHostIsGranted() throws {
    #expect(isGranted(try twin.execute(acquire(), from: 0)))
    #expect(twin.lock == "sidelock1;x;a/1f:7:C")
  }

  @Test(arguments: others) func elsewhereNothingIsGrantedAndNothingWritten(_ epoch: String?) throws {
    try twin.putEpoch(epoch)
    for value in [nil, Self.own, Self.anothers, "foreign"] {
      try twin.put(twin.encoders[0].keys.lockKey(TwinRedis.name), value, milliseconds: 900_000)
      for command in [
        acquire(), acquire(isTry: true), acquire(mode: .shared), acquire(mode: .permit(of: 2)),
        acquire(terms: GrantTerms()),
      ] {
        #expect(try twin.execute(command, from: 0) == .otherEpoch)
        #expect(twin.lock == value && twin.queue == nil && twin.fence == nil && twin.messages.isEmpty)
      }
    }
  }

  /// Others handed over higher tokens than this host knows, in a grace that has ended while its command was on the way.
  @Test(arguments: [HoldMode.exclusive, .shared, .permit(of: 2)])
  func whatIsGrantedLiesAboveTheFloorOfTheEpoch(_ mode: HoldMode) throws {
    try twin.putEpoch("1;\(EpochID.tested.text);o;run;0;10000;10000;8600000000000000;later")
    guard case .granted(let grant) = try twin.execute(acquire(mode: mode), from: 0) else {
      Issue.record("not granted")
      return
    }
    #expect(grant.token == 8_600_000_000_000_001)
  }

  @Test(arguments: ["x", "s"]) func whatIsHandedOnLiesAboveTheFloorOfTheEpoch(_ mode: String) throws {
    try twin.subscribe(1)
    try twin.putEpoch("1;\(EpochID.tested.text);o;run;0;10000;10000;8700000000000000")
    try twin.putLock(Self.own)
    try twin.putInQueue("1;b/1f:3:10000:\(mode)")
    try twin.execute(release(), from: 0)
    #expect(twin.messages.first?.hasPrefix("1;granted 3 8700000000000001 ") == true)
  }

  @Test func anEpochOfAnotherTypeIsAnotherOne() throws {
    try twin.putEpoch(nil)
    try twin.tell(["RPUSH", "t:epoch", "x"])
    #expect(try twin.execute(acquire(), from: 0) == .otherEpoch)
    #expect(try twin.execute(reserve, from: 0) == .otherEpoch)
    #expect(try twin.execute(downgrade, from: 0) == .otherEpoch)
    #expect(try twin.execute(.checkPlaces([place()], epoch: .tested), from: 0) == .otherEpoch)
    #expect(try twin.execute(.reclaim([], leaseMilliseconds: 1000, epoch: .tested), from: 0) == .otherEpoch)
  }

  /// Whoever knows no epoch is granted nothing in any, also in one that has no name.
  @Test(arguments: [open, grace, "1;;o;run;0;1;1;0"]) func noEpochIsNone(_ epoch: String) throws {
    try twin.putEpoch(epoch)
    if epoch != "1;;o;run;0;1;1;0" { #expect(try twin.execute(acquire(terms: GrantTerms()), from: 0) == .otherEpoch) }
    #expect(try twin.execute(acquire(), from: 0) != .otherEpoch || epoch == "1;;o;run;0;1;1;0")
  }

  @Test(arguments: [HoldMode.exclusive, .shared, .permit(of: 2)])
  func inTheGraceEverybodyStandsInTheQueue(_ mode: HoldMode) throws {
    try twin.putEpoch(Self.grace)
    #expect(isQueuedBehindNobody(try twin.execute(acquire(mode: mode), from: 0)))
    #expect(twin.lock == nil)
    #expect(isQueuedBehindNobody(try twin.execute(acquire(1, 4, mode: mode), from: 1)))
    #expect(isQueuedBehindNobody(try twin.execute(acquire(mode: mode), from: 0)))
    let word = mode == .exclusive ? "x" : mode == .shared ? "s" : "p2"
    #expect(twin.queue == "1;a/1f:7:10000:\(word) 1;b/1f:4:10000:\(word)" && twin.lock == nil)
  }

  /// It may be of an older data set: others have had the lock since, or have it.
  @Test(arguments: [
    own, anothers, "sidelock1;s;b/1f:7:8000000000000001:16:9000000000000;a/1f:7:8000000000000017:16:9000000000000",
  ])
  func inTheGraceNobodyIsAskedAndNobodyBelieved(_ value: String) throws {
    try twin.putEpoch(Self.grace)
    try twin.putLock(value)
    for mode in [HoldMode.exclusive, .shared] {
      #expect(isQueuedBehindNobody(try twin.execute(acquire(mode: mode), from: 0)))
      #expect(twin.lock == value)
    }
  }

  /// A queue that ends before the grace would lose the order of those who came in it.
  @Test func theQueueLastsLongerThanTheGrace() throws {
    try twin.putEpoch("1;\(EpochID.tested.text);g;run;0;60000;10000;0")
    try twin.execute(acquire(), from: 0)
    #expect(try twin.timeLeft(twin.encoders[0].keys.queueKey(TwinRedis.name)) == 120_000)
  }

  @Test func inTheGraceAForeignHolderIsTold() throws {
    try twin.putEpoch(Self.grace)
    try twin.putLock("foreign")
    guard case .foreign = try twin.execute(acquire(), from: 0),
      case .foreign = try twin.execute(acquire(isTry: true), from: 1)
    else {
      Issue.record("not told")
      return
    }
    #expect(twin.queue == "1;a/1f:7:10000:x")
  }

  @Test func whenTheGraceIsOverTheFirstOfTheQueueGetsIt() throws {
    try twin.putEpoch(Self.grace)
    try twin.execute(acquire(), from: 0)
    try twin.execute(acquire(1), from: 1)
    try twin.putEpoch(Self.open)
    guard case .queued = try twin.execute(acquire(1), from: 1) else {
      Issue.record("the second was first")
      return
    }
    #expect(twin.messages.map { String($0.prefix(12)) } == ["1;granted 7 ", "1;contended "])
    #expect(twin.lock == "sidelock1;x;a/1f:7:C" && twin.queue == "1;b/1f:7:10000:x")
  }

  // MARK: What gives back

  @Test(arguments: [grace] + others) func elsewhereALockIsGivenBackAndNotPassedOn(_ epoch: String?) throws {
    try twin.putEpoch(epoch)
    for waiting in [
      ["1;b/1f:3:10000:x"], ["1;b/1f:3:10000:x", "1;c/1f:3:10000:x"], ["1;a/1f:6:10000:x", "1;b/1f:3:10000:s"],
    ] {
      try twin.putLock(Self.own)
      try twin.put(twin.encoders[0].keys.queueKey(TwinRedis.name), nil)
      for entry in waiting { try twin.putInQueue(entry) }
      #expect(try twin.execute(release(), from: 0) == .done)
      #expect(twin.lock == nil && twin.messages.isEmpty)
      #expect(twin.queue == waiting.filter { !$0.contains("a/1f") }.joined(separator: " "))
      // And once more: what an earlier run has left to do is left.
      #expect(try twin.execute(release(), from: 0) == .done)
      #expect(twin.lock == nil && twin.messages.isEmpty)
    }
  }

  @Test(arguments: [grace] + others) func elsewhereAShareIsGivenBackAndNotPassedOn(_ epoch: String?) throws {
    try twin.putEpoch(epoch)
    let kept = "b/1f:2:8000000000000017:16:9000000000000"
    try twin.putLock("sidelock1;p2;a/1f:7:8000000000000001:16:9000000000000;\(kept)")
    try twin.putInQueue("1;c/1f:3:10000:p2")
    #expect(try twin.execute(release(), from: 0) == .done)
    #expect(twin.lock == "sidelock1;p2;\(kept)" && twin.queue == "1;c/1f:3:10000:p2" && twin.messages.isEmpty)
  }

  @Test func inItsOpenEpochAHostPassesOnWhatItGivesBack() throws {
    for mode in ["x", "s"] {
      try twin.putLock(Self.own)
      try twin.putInQueue("1;b/1f:3:10000:\(mode)")
      #expect(try twin.execute(release(), from: 0) == .done)
      #expect(twin.messages == ["1;granted 3 8000000000000002 \(mode == "x" ? 65536 : 16) 0;x"] && twin.queue == nil)
      try twin.put(twin.encoders[0].keys.fenceKey(TwinRedis.name), nil)
    }
  }

  @Test(arguments: [grace] + others) func elsewhereALockIsTakenAwayAndNotPassedOn(_ epoch: String?) throws {
    try twin.putEpoch(epoch)
    try twin.putLock(Self.own)
    try twin.putInQueue("1;b/1f:3:10000:x")
    let command = twin.encoders[2].takeAway(
      TwinRedis.name, seen: [Array("a/1f:7:8000000000000001".utf8)], token: nil, terms: .tested)
    #expect(LeaseReplyDecoder.taken(try twin.run(command))?.count == 1)
    #expect(twin.lock == nil && twin.messages.isEmpty && twin.queue == "1;b/1f:3:10000:x")
    // What was issued is not issued again, and whoever had it cannot reclaim it.
    #expect(twin.fence == "8000000000065537")
  }

  @Test func inItsOpenEpochWhatIsTakenAwayIsPassedOnAboveItsTerms() throws {
    try twin.putLock(Self.own)
    try twin.putInQueue("1;b/1f:3:10000:x")
    let command = twin.encoders[2].takeAway(
      TwinRedis.name, seen: [Array("a/1f:7:8000000000000001".utf8)], token: nil,
      terms: .tested(above: 8_500_000_000_000_000))
    #expect(LeaseReplyDecoder.taken(try twin.run(command))?.count == 1)
    #expect(twin.lock == "sidelock1;x;b/1f:3:8500000000000001" && twin.messages.count == 1)
  }

  // MARK: downgrade, reserve

  @Test func inTheGraceALeaseIsSharedAndNobodyLetIn() throws {
    try twin.putEpoch(Self.grace)
    try twin.putLock(Self.own)
    try twin.putInQueue("1;b/1f:3:10000:s")
    #expect(try twin.execute(downgrade, from: 0) == .done)
    #expect(twin.lock?.hasPrefix("sidelock1;s;a/1f:7:8000000000000001:8:") == true && twin.messages.isEmpty)
    #expect(twin.queue == "1;b/1f:3:10000:s")
    try twin.putEpoch(Self.open)
    #expect(try twin.execute(downgrade, from: 0) == .done)
    #expect(twin.messages.count == 1 && twin.queue == nil)
  }

  @Test(arguments: others) func elsewhereNothingIsShared(_ epoch: String?) throws {
    try twin.putEpoch(epoch)
    try twin.putLock(Self.own)
    try twin.putInQueue("1;b/1f:3:10000:s")
    #expect(try twin.execute(downgrade, from: 0) == .otherEpoch)
    #expect(twin.lock == Self.own && twin.queue == "1;b/1f:3:10000:s" && twin.messages.isEmpty)
  }

  @Test(arguments: [open, grace] + others) func moreTokensAreForWhoeverHasTheLease(_ epoch: String?) throws {
    try twin.putEpoch(epoch)
    try twin.putLock(Self.own)
    #expect(
      try twin.execute(reserve, from: 0)
        == .reserved(LeaseGrant(token: 8_000_000_000_065_537, tokenCount: 65_536, othersWait: false)))
  }

  @Test(arguments: [open, grace]) func whoDoesNotHaveItIsToldSo(_ epoch: String) throws {
    try twin.putEpoch(epoch)
    #expect(try twin.execute(reserve, from: 0) == .reserved(nil))
  }

  @Test(arguments: others) func elsewhereThatSaysNothing(_ epoch: String?) throws {
    try twin.putEpoch(epoch)
    for value in [nil, Self.anothers, "foreign"] {
      try twin.put(twin.encoders[0].keys.lockKey(TwinRedis.name), value, milliseconds: 900_000)
      #expect(try twin.execute(reserve, from: 0) == .otherEpoch)
      #expect(twin.lock == value && twin.fence == nil)
    }
  }

  // MARK: renew

  @Test(arguments: others) func elsewhereNothingIsRenewed(_ epoch: String?) throws {
    try twin.putEpoch(epoch)
    try twin.put(twin.encoders[0].keys.lockKey(TwinRedis.name), Self.own, milliseconds: 5000)
    let leases = [LeaseReference(name: TwinRedis.name, attempt: 7), LeaseReference(name: LockName("gone"), attempt: 7)]
    for known in [EpochID.tested, .none] {
      let reply = try twin.execute(.renew(leases, leaseMilliseconds: 20_000, epoch: known), from: 0)
      #expect(reply == .otherEpoch)
    }
    let left = try twin.timeLeft(twin.encoders[0].keys.lockKey(TwinRedis.name))
    #expect(left == 5000)
  }

  @Test(arguments: [open, grace]) func aRenewalTellsWhatIsGoneFromWhatAnotherHas(_ epoch: String) throws {
    try twin.putEpoch(epoch)
    let keys = twin.encoders[0].keys
    let values = [
      "own": Self.own, "another's": Self.anothers, "foreign": "foreign", "later": "sidelock2;x",
      "other attempt": "sidelock1;x;a/1f:6:8000000000000001",
      "shared": "sidelock1;s;a/1f:7:8000000000000001:16:9000000000000;a/1f:8:8000000000000017:16:9000000000000",
      "shared by others": "sidelock1;s;b/1f:7:8000000000000001:16:9000000000000",
      "over": "sidelock1;s;a/1f:7:8000000000000001:16:9",
    ]
    for (name, value) in values { try twin.put(keys.lockKey(LockName(name)), value, milliseconds: 5000) }
    try twin.tell(["HSET", Bytes(keys.lockKey(LockName("hash"))), "a", "b"])
    let asked: [(String, UInt64, LeaseStanding)] = [
      ("own", 7, .held), ("gone", 7, .missing), ("another's", 7, .lost), ("foreign", 7, .lost), ("later", 7, .lost),
      ("other attempt", 7, .lost), ("hash", 7, .lost), ("shared", 7, .held), ("shared", 8, .held), ("shared", 9, .lost),
      ("shared by others", 7, .lost), ("over", 7, .lost), ("gone", 8, .missing),
    ]
    let command = LeaseCommand.renew(
      asked.map { LeaseReference(name: LockName($0.0), attempt: $0.1) }, leaseMilliseconds: 20_000, epoch: .tested)
    #expect(try twin.execute(command, from: 0) == .renewed(asked.map(\.2)))
    #expect(try twin.timeLeft(keys.lockKey(LockName("own"))) == 20_000)
    #expect(twin.text(keys.lockKey(LockName("gone"))) == nil)
  }

  // MARK: places

  private func place(_ attempt: UInt64 = 7, _ name: LockName = TwinRedis.name) -> WaitingPlace {
    WaitingPlace(name: name, attempt: attempt, mode: .exclusive, leaseMilliseconds: 10_000)
  }

  @Test(arguments: others) func elsewherePlacesMeanNothing(_ epoch: String?) throws {
    try twin.putEpoch(epoch)
    try twin.putInQueue("1;a/1f:7:10000:x")
    try twin.putLock(Self.anothers)
    #expect(try twin.execute(.checkPlaces([place()], epoch: .tested), from: 0) == .otherEpoch)
    #expect(try twin.execute(.checkPlaces([place()], epoch: .none), from: 0) == .otherEpoch)
  }

  @Test(arguments: [nil, own, anothers, "foreign", "sidelock1;s;b/1f:7:8000000000000001:16:9000000000000"])
  func inTheGraceThePlaceAloneCounts(_ value: String?) throws {
    try twin.put(twin.encoders[0].keys.lockKey(TwinRedis.name), value, milliseconds: 900_000)
    try twin.putInQueue("1;gone/1f:1:10000:x", "1;a/1f:7:10000:x")
    let command = LeaseCommand.checkPlaces([place(6), place(), place(7, LockName("y"))], epoch: .tested)
    try twin.putEpoch(Self.grace)
    #expect(try twin.execute(command, from: 0) == .lostPlaces([0, 2]))
    #expect(twin.messages.isEmpty)
  }

  @Test func inAnOpenEpochTheyAreLookedAtWhole() throws {
    try twin.putInQueue("1;a/1f:7:10000:x")
    let command = LeaseCommand.checkPlaces([place()], epoch: .tested)
    #expect(try twin.execute(command, from: 0) == .lostPlaces([0]))
    try twin.putLock(Self.anothers)
    #expect(try twin.execute(command, from: 0) == .lostPlaces([]))
  }

  @Test(arguments: [open, grace]) func aReplicaIsNoticedByALook(_ epoch: String) throws {
    try twin.putEpoch(epoch)
    try twin.have(.readOnly)
    let reply = try twin.run(twin.encoders[0].encode(.checkPlaces([place()], epoch: .tested)))
    #expect(reply.error.map { RedisErrorReply.demandsReconnect(error: $0) } == true)
  }
}
