import LockEngine
import LockTypes
import RESP
import RedisLeases
import Testing

/// What confirm_epoch.lua makes of what it finds, on the model and on a real server.
@Suite struct ConfirmEpochTests {
  private let twin: TwinRedis

  init() throws { twin = try TwinRedis() }

  private static let known = EpochID(number: 5, text: "5:a/1f:3")

  private func claim(
    _ known: EpochID = .none, attempt: UInt64 = 7, isFirst: Bool = true, longest: Int64 = 10_000, grace: Int64 = 10_000,
    floor: Token = 0, floorOfNew: Token = 0,
    waited: Int64 = 0, mayBeFirst: Bool = false
  ) -> LeaseCommand {
    .confirmEpoch(
      EpochClaim(
        attempt: attempt, known: known, isFirstOfLink: isFirst, longestLeaseMilliseconds: longest,
        graceMilliseconds: grace, tokenFloor: floor, tokenFloorOfNew: floorOfNew, waitedMilliseconds: waited,
        mayBeFirst: mayBeFirst))
  }

  /// Confirms; gives the epoch as it is told, and holds it against what stands in its key.
  @discardableResult
  private func confirm(
    _ command: LeaseCommand, from host: Int = 0, at place: SourceLocation = #_sourceLocation
  ) throws -> EpochSight {
    let reply = try twin.execute(command, from: host, at: place)
    guard case .epoch(let sight) = reply else { throw ModelError(description: "\(reply)") }
    let words = (twin.epoch ?? "").split(separator: ";")
    #expect(words.count >= 8, sourceLocation: place)
    guard words.count >= 8 else { return sight }
    #expect(
      words[0] == "1" && words[1] == sight.id.text && words[2] == (sight.isOpen ? "o" : "g")
        && words[5] == "\(sight.graceMilliseconds)" && words[6] == "\(sight.longestLeaseMilliseconds)"
        && words[7...].first?.isEmpty == false, sourceLocation: place)
    #expect(sight.id.text.hasPrefix("\(sight.id.number):"), sourceLocation: place)
    #expect(try twin.timeLeft(twin.encoders[0].keys.epochKey) == -1, sourceLocation: place)
    return sight
  }

  /// An epoch that was confirmed on this server.
  private func begin(
    _ id: EpochID = known, stage: String = "o", run: String? = nil, grace: Int64 = 10_000, longest: Int64 = 10_000,
    floor: Token = 0, more: String = ""
  ) throws {
    // What the server's run is called only it knows, and each of the two has its own.
    try twin.putEpoch(nil)
    try twin.execute(claim(), from: 2)
    try twin.edit {
      let words = $0.split(separator: ";", omittingEmptySubsequences: false)
      return "1;\(id.text);\(stage);\(run ?? String(words[3]));0;\(grace);\(longest);\(floor)\(more)"
    }
  }

  // MARK: Tokens

  /// The clock of data that are others may be behind. Where they are the same it counts by itself.
  @Test func onlyAnEpochThatBeginsIsTakenAboveTheClockOfTheOneBefore() throws {
    try begin()
    #expect(try confirm(claim(Self.known, floor: 42, floorOfNew: 99)).tokenFloor == 42)
    // Whoever joins in the grace may know a clock that the one who began it did not know.
    let earlier = EpochID(number: 4, text: "4:a/1f:2")
    #expect(try confirm(claim(earlier, floor: 42, floorOfNew: 99)).tokenFloor == 42)
    try begin(stage: "g", floor: 42)
    #expect(try confirm(claim(Self.known, floor: 42, floorOfNew: 99)).tokenFloor == 42)
    #expect(try confirm(claim(earlier, floor: 42, floorOfNew: 99)).tokenFloor == 99)
    try twin.putEpoch(nil)
    #expect(try confirm(claim(Self.known, floor: 42, floorOfNew: 99)).tokenFloor == 99)
    try twin.putEpoch(nil)
    #expect(try confirm(claim(Self.known, floor: 142, floorOfNew: 99)).tokenFloor == 142)
  }

  // MARK: Who is told

  /// Everybody has to know how long leases are, before the epoch in whose key that stands is lost.
  @Test func everyHostIsToldOfAnEpochAndOfLongerLeases() throws {
    let key = String(decoding: twin.encoders[0].keys.epochKey, as: UTF8.self)
    let told = { (longest: Int64) in ["1;epoch \(longest) 1:a/1f:7;\(key)"] }
    for host in 0...1 { try twin.subscribe(host) }
    try confirm(claim(mayBeFirst: true))
    #expect(twin.messages == told(10_000))
    let known = try confirm(claim(longest: 9000)).id
    #expect(twin.messages.isEmpty)
    try confirm(claim(known, longest: 60_000))
    #expect(twin.messages == told(60_000))
    try confirm(claim(known, longest: 60_000, floor: 99))
    #expect(twin.messages.isEmpty)
    try confirm(claim(known, longest: 60_000, waited: 60_000))
    #expect(twin.messages == told(60_000))
  }

  // MARK: Where none stands

  @Test func whoComesFirstToAServerWithNobodyHasNoGrace() throws {
    try twin.subscribe(0)
    let sight = try confirm(claim(longest: 9000, grace: 12_000, floor: 42, mayBeFirst: true))
    #expect(sight.isOpen && sight.id == EpochID(number: 1, text: "1:a/1f:7"))
    #expect(twin.epoch == "1;1:a/1f:7;o;RUN;T;12000;9000;42")
    // Who comes then joins it at once.
    #expect(try confirm(claim(mayBeFirst: true), from: 1) == confirm(claim(mayBeFirst: true), from: 1))
    #expect(try confirm(claim(mayBeFirst: true), from: 1).isOpen)
  }

  @Test(arguments: ["t:", "t*?[a]\\^:"]) func whereAnotherHostListensThereIsAGrace(_ prefix: String) throws {
    let twin = try TwinRedis(keyPrefix: prefix)
    try twin.subscribe(0)
    try twin.subscribe(1)
    guard case .epoch(let sight) = try twin.execute(claim(mayBeFirst: true), from: 0) else {
      Issue.record("not confirmed")
      return
    }
    #expect(!sight.isOpen && sight.graceMilliseconds == 10_000)
  }

  /// Channels of others are no hosts, nor is what a pattern would find if it were one.
  @Test func onlyInboxesAreHosts() throws {
    let twin = try TwinRedis(keyPrefix: "t?:")
    try twin.subscribe(0)
    for channel: Bytes in ["tx:inbox:b/1f", "inbox:b/1f", "t?:other"] { try twin.tell(["SUBSCRIBE", channel]) }
    guard case .epoch(let sight) = try twin.execute(claim(mayBeFirst: true), from: 0) else {
      Issue.record("not confirmed")
      return
    }
    #expect(sight.isOpen)
  }

  @Test func whoMayNotAskWhoListensHasAGrace() throws {
    try twin.deny("PUBSUB")
    #expect(try !confirm(claim(mayBeFirst: true)).isOpen)
  }

  @Test func whoHasLeasesOfAnEarlierProcessHasAGrace() throws {
    #expect(try !confirm(claim(mayBeFirst: false)).isOpen)
  }

  @Test(arguments: [true, false]) func aKeyThatIsGoneIsFollowedByTheNextNumber(isFirst: Bool) throws {
    let sight = try confirm(claim(Self.known, isFirst: isFirst, grace: 60_000, floor: 9, mayBeFirst: true))
    #expect(!sight.isOpen && sight.id == EpochID(number: 6, text: "6:a/1f:7"))
    #expect(sight.graceMilliseconds == 60_000 && sight.longestLeaseMilliseconds == 10_000 && sight.tokenFloor == 9)
  }

  // MARK: Where one stands

  @Test func whatIsKnownGoesOnAndGrowsOnly() throws {
    try begin(floor: 50, more: ";more;of later")
    let sight = try confirm(claim(Self.known, longest: 9000, grace: 20_000, floor: 49))
    #expect(sight.id == Self.known && sight.isOpen)
    #expect(twin.epoch?.hasSuffix(";o;RUN;0;10000;10000;50;more;of later") == true)
    #expect(try confirm(claim(Self.known, isFirst: false, longest: 11_000, floor: 51)).tokenFloor == 51)
    #expect(twin.epoch?.hasSuffix(";o;RUN;0;10000;11000;51;more;of later") == true)
  }

  @Test func aGraceIsRaisedByWhoeverNeedsMore() throws {
    try begin(stage: "g")
    #expect(try confirm(claim(longest: 11_000), from: 1).graceMilliseconds == 11_000)
    #expect(try confirm(claim(grace: 12_000), from: 1).graceMilliseconds == 12_000)
    #expect(try confirm(claim(longest: 1000, grace: 1000), from: 1).graceMilliseconds == 12_000)
  }

  @Test func aNewHostJoinsAtOnce() throws {
    try begin()
    let sight = try confirm(claim(mayBeFirst: true), from: 1)
    #expect(sight.id == Self.known && sight.isOpen)
  }

  @Test(arguments: ["o", "g"]) func anotherRunOfTheServerBeginsAnother(_ stage: String) throws {
    try begin(stage: stage, run: "0123-4567", grace: 30_000, longest: 20_000, floor: 77, more: ";more")
    let sight = try confirm(claim(Self.known))
    #expect(!sight.isOpen && sight.id.number == 6 && sight.tokenFloor == 77)
    // Whoever held something before a grace that did not come to its end may hold it now.
    #expect(sight.graceMilliseconds == (stage == "g" ? 30_000 : 20_000))
    #expect(twin.epoch == "1;6:a/1f:7;g;RUN;T;\(sight.graceMilliseconds);10000;77")
  }

  @Test(arguments: [true, false]) func anOlderOneIsNotGoneBackTo(isFirst: Bool) throws {
    try begin(EpochID(number: 4, text: "4:b/1f:3"))
    #expect(try confirm(claim(Self.known, isFirst: isFirst)).id.number == 6)
  }

  /// Each of two was counted on a server of its own.
  @Test(arguments: ["o", "g"]) func twoOfTheSameNumberAreFollowedByAThird(_ stage: String) throws {
    try begin(EpochID(number: 5, text: "5:a/1f:4"), stage: stage)
    let sight = try confirm(claim(Self.known))
    #expect(sight.id.number == 6 && !sight.isOpen)
  }

  /// On a connection that stands a later epoch that is open belongs to other data, or its grace was missed.
  @Test(arguments: [("g", true, true), ("g", false, true), ("o", true, true), ("o", false, false)])
  func aLaterOneIsJoinedWhereItIsCertain(_ stage: String, _ isFirst: Bool, _ isJoined: Bool) throws {
    let later = EpochID(number: 8, text: "8:b/1f:3")
    try begin(later, stage: stage)
    let sight = try confirm(claim(Self.known, isFirst: isFirst))
    #expect((sight.id == later) == isJoined)
    #expect(isJoined || sight.id.number == 9 && !sight.isOpen)
  }

  @Test func twoThatMissTheSameOneBeginOne() throws {
    let first = try confirm(claim(Self.known, isFirst: false))
    let second = try confirm(claim(Self.known, isFirst: false), from: 1)
    #expect(second.id == first.id && second.id.number == 6)
  }

  @Test func aDataSetThatGoesBackTwiceKeepsTheLongerGrace() throws {
    try begin(stage: "g", run: "0123-4567", grace: 60_000)
    #expect(try confirm(claim(Self.known)).graceMilliseconds == 60_000)
    try begin(stage: "g", run: "0123-4567", grace: 11_000)
    #expect(try confirm(claim(Self.known, grace: 60_000)).graceMilliseconds == 60_000)
  }

  // MARK: The end of a grace

  @Test func itOpensForWhoHasWaitedAsLongAsItIsNow() throws {
    try begin(stage: "g")
    for (id, waited) in [(Self.known, 0), (Self.known, 9999), (EpochID.none, 60_000)] as [(EpochID, Int64)] {
      #expect(try !confirm(claim(id, waited: waited)).isOpen)
    }
    // The same command needs more than was waited.
    #expect(try !confirm(claim(Self.known, longest: 10_001, waited: 10_000)).isOpen)
    #expect(try !confirm(claim(Self.known, isFirst: false, waited: 10_000)).isOpen)
    #expect(try confirm(claim(Self.known, isFirst: false, waited: 10_001)).isOpen)
    #expect(twin.epoch?.contains(";o;RUN;") == true)
    // It stays open, and the same once more changes nothing.
    #expect(try confirm(claim(Self.known, isFirst: false, waited: 10_001)).isOpen)
    #expect(try confirm(claim(Self.known)).isOpen)
  }

  @Test func whatWasWaitedInAnotherDoesNotCount() throws {
    try begin(EpochID(number: 6, text: "6:b/1f:3"), stage: "g")
    #expect(try !confirm(claim(Self.known, isFirst: false, waited: 60_000)).isOpen)
    try twin.putEpoch(nil)
    #expect(try !confirm(claim(Self.known, isFirst: false, waited: 60_000)).isOpen)
  }

  /// A grace of nothing, which nobody writes, is no reason to open.
  @Test func whoDoesNotAskForTheEndDoesNotBringIt() throws {
    try begin(stage: "g", grace: 0)
    #expect(try !confirm(claim(Self.known, longest: 0, grace: 0)).isOpen)
  }

  // MARK: What cannot be known

  @Test func withoutItsRunEachConnectionBeginsAnother() throws {
    try twin.deny("INFO")
    let first = try confirm(claim(Self.known, attempt: 1))
    #expect(twin.epoch?.hasPrefix("1;6:a/1f:1;g;-;") == true)
    #expect(try confirm(claim(first.id, attempt: 2, isFirst: false)).id == first.id)
    #expect(try confirm(claim(first.id, attempt: 3, isFirst: false, waited: 10_000)).isOpen)
    let second = try confirm(claim(first.id, attempt: 4))
    #expect(second.id == EpochID(number: 7, text: "7:a/1f:4") && !second.isOpen)
  }

  @Test func aRunThatWasNotKnownIsAnother() throws {
    try begin(run: "-")
    #expect(try confirm(claim(Self.known, isFirst: false)).id.number == 6)
  }

  @Test(arguments: [
    "", "rubbish", "1", "1;", "1;5:a/1f:3", "1;5:a/1f:3;o", "1;5:a/1f:3;o;run;0;1;1", "1;5:a/1f:3;x;run;0;1;1;0",
    "1;5:a/1f:3;o;run;0;1;1;0later", "1;5:a/1f:3;o;run;0;1;1;-1", "1;5:a/1f:3;o;;0;1;1;0", "1;0x5:a/1f:3;o;run;0;1;1;0",
    "1;5:a/1f:3;o;run;0;99999999999;1;0", "1;5:a/1f:3;o;run;0;1;99999999999;0",
    "1;5:a/1f:3;o;run;0;1;1;9007199254740992",
    "1;9007199254740991:a/1f:3;o;run;0;1;1;0", "1;5:a:3;o;run;0;1;1;0", "01;5:a/1f:3;o;run;0;1;1;0",
    "sidelock1;x;a/1f:1:2",
  ])
  func whatIsNoEpochIsLeftAloneAndNamed(_ value: String) throws {
    try twin.putEpoch(value)
    for command in [claim(mayBeFirst: true), claim(Self.known), claim(Self.known, isFirst: false, waited: 60_000)] {
      guard case .failed(.transient(let words)) = try twin.execute(command, from: 0) else {
        Issue.record("confirmed")
        return
      }
      #expect(words.contains("t:epoch") && words.contains("delete"))
      #expect(twin.epoch == value)
    }
  }

  @Test func dataOfAnotherTypeAreLeftAloneAndNamed() throws {
    try twin.tell(["HSET", "t:epoch", "a", "b"])
    guard case .failed(.transient(let words)) = try twin.execute(claim(Self.known), from: 0) else {
      Issue.record("confirmed")
      return
    }
    #expect(words == "ERR t:epoch holds other data than the epoch of sidelock, so nothing is granted: delete that key")
    #expect(twin.epoch == "other")
  }

  /// Whoever cannot read it grants nothing, and does not write over it.
  @Test(arguments: ["2;5:a/1f:3;o;", "12;9:a/1f:3;g;whatever follows", "2;9:a/1f:3;closed;x"])
  func aLaterFormatIsLeftAloneAndTold(_ value: String) throws {
    try twin.putEpoch(value)
    guard case .failed(.transient(let words)) = try twin.execute(claim(Self.known), from: 0) else {
      Issue.record("confirmed")
      return
    }
    #expect(words == "ERR t:epoch is of a later release of sidelock, so nothing is granted: upgrade this one")
    #expect(twin.epoch == value)
  }

  // MARK: What a server refuses

  /// Also where nothing has to be written: a primary that was made a replica is no place to stay at.
  @Test(arguments: [true, false]) func aReplicaRefuses(isThere: Bool) throws {
    if isThere { try begin() }
    try twin.have(.readOnly)
    let reply = try twin.run(twin.encoders[0].encode(claim(Self.known)))
    #expect(reply.error.map { RedisErrorReply.demandsReconnect(error: $0) } == true)
  }

  @Test func aFullServerConfirms() throws {
    try begin(stage: "g")
    try twin.have(.outOfMemory)
    #expect(try confirm(claim(Self.known, isFirst: false, waited: 10_000)).isOpen)
    #expect(try confirm(claim(EpochID(number: 7, text: "7:a/1f:1"))).id.number == 8)
  }

  @Test func aServerThatMayNotBeReadIsNotConfirmed() throws {
    try begin()
    for right in ["GET", "LPOP"] {
      let twin = try TwinRedis()
      try twin.deny(right)
      guard case .failed = try twin.execute(claim(Self.known), from: 0) else {
        Issue.record("confirmed without \(right)")
        return
      }
    }
  }
}
