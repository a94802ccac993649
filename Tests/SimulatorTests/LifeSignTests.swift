import LockEngine
import LockTypes
import RESP
import RedisLeases
import Testing

/// What a host says of when it is to be taken for dead, and what others get because of that, on the model and on a real server.
@Suite struct LifeSignTests {
  private let twin: TwinRedis
  private let key: [UInt8]

  init() throws {
    twin = try TwinRedis()
    key = twin.encoders[0].keys.epochKey + Array(":a/1f".utf8)
    try twin.execute(Self.sign(.none), from: 1)
  }

  private static func sign(_ sign: LifeSign, attempt: UInt64 = 7, longest: Int64 = 10_000) -> LeaseCommand {
    .confirmEpoch(
      EpochClaim(
        attempt: attempt, known: .none, isFirstOfLink: true, longestLeaseMilliseconds: longest,
        graceMilliseconds: longest,
        tokenFloor: 0, waitedMilliseconds: 0, mayBeFirst: true, lifeSign: sign))
  }

  private var epoch: EpochID { EpochID(number: 1, text: "1:b/1f:7") }

  private func acquire(
    _ attempt: UInt64 = 1, _ mode: HoldMode = .exclusive, isTry: Bool = false, from host: Int
  ) throws -> LeaseReply {
    try twin.execute(
      .acquire(
        name: TwinRedis.name, attempt: attempt, ask: 1, isTry: isTry, terms: GrantTerms(epoch: epoch), mode: mode),
      from: host)
  }

  private func isGranted(_ reply: LeaseReply) -> Bool { if case .granted = reply { true } else { false } }

  /// Host a counts as dead since 1970, or only later.
  private func putLife(isDead: Bool) throws {
    try twin.put(key, isDead ? "1;1000;7" : "1;9000000000000;7", milliseconds: 900_000)
  }

  @Test(arguments: [nil, true, false]) func whoLooksIsToldWhoIsDead(_ isDead: Bool?) throws {
    if let isDead { try putLife(isDead: isDead) }
    try twin.putLock("sidelock1;s;a/1f:7:8000000000000001:16:9000000000000;b/1f:7:8000000000000017:16:9000000000000")
    let reply = try twin.run(twin.encoders[2].inspect([TwinRedis.name], waitingHostsMax: 1))
    let found = try #require(LeaseReplyDecoder.inspections(reply, count: 1, me: [])?.first)
    #expect(found.holders.map(\.isDead) == [isDead == true, false])
  }

  // MARK: The key

  @Test func aSignStandsInAKeyOfItsOwnForAsLongAsALeaseCanBeThere() throws {
    try twin.execute(Self.sign(.none), from: 0)
    #expect(twin.text(key) == nil)
    try twin.execute(Self.sign(.dead(afterMilliseconds: 2000)), from: 0)
    #expect(twin.text(key) == "1;T;7")
    #expect(try 21_000...22_000 ~= twin.timeLeft(key))
  }

  /// A host with a shorter time than before is dead sooner: it counts on the last sign alone.
  @Test(arguments: ["1;9000000000000;7", "1;1000;7"]) func theLastSignAloneCounts(_ found: String) throws {
    try twin.put(key, found)
    try twin.execute(Self.sign(.dead(afterMilliseconds: 2000), attempt: 8), from: 0)
    #expect(twin.text(key) == "1;T;8")
  }

  @Test func aCommandThatComesLateChangesNothing() throws {
    try twin.put(key, "1;1000;9", milliseconds: 900_000)
    for sign in [LifeSign.dead(afterMilliseconds: 2000), .never, .none] {
      try twin.execute(Self.sign(sign, attempt: 8), from: 0)
      #expect(twin.text(key) == "1;1000;9")
    }
  }

  @Test func whoIsNeverDeadSaysSoAndMaySayOtherwiseLater() throws {
    let never = "1;\((1 << 53) - 1);"
    try twin.execute(Self.sign(.never), from: 0)
    #expect(twin.text(key) == never + "7")
    try twin.execute(Self.sign(.dead(afterMilliseconds: 2000), attempt: 8), from: 0)
    #expect(twin.text(key) == "1;T;8")
    // A process that knows nothing of what one before it has said.
    try twin.execute(Self.sign(.none, attempt: 9), from: 0)
    #expect(twin.text(key) == never + "9")
  }

  @Test(arguments: ["", "other data", "2;1000;7", "1;x;7"]) func whatIsNoSignSaysNothingAndIsWrittenOver(
    _ found: String
  ) throws {
    try twin.put(key, found)
    #expect(try isGranted(acquire(from: 0)))
    #expect(try !isGranted(acquire(from: 1)))
    try twin.execute(Self.sign(.dead(afterMilliseconds: 2000)), from: 0)
    #expect(twin.text(key) == "1;T;7")
  }

  @Test func aFullRedisTakesASignAndAReplicaDoesNot() throws {
    try twin.execute(Self.sign(.dead(afterMilliseconds: 2000)), from: 0)
    try twin.have(.outOfMemory)
    guard case .epoch = try twin.execute(Self.sign(.dead(afterMilliseconds: 2000), attempt: 8), from: 0) else {
      Issue.record("refused")
      return
    }
    try twin.have(.readOnly)
    #expect(try twin.execute(Self.sign(.dead(afterMilliseconds: 2000), attempt: 9), from: 0).failure != nil)
    try twin.have(.none)
  }

  // MARK: What others get

  @Test(
    arguments: [HoldMode.exclusive, .shared, .permit(of: 1), .permit(of: 2)],
    [HoldMode.exclusive, .shared, .permit(of: 1)])
  func whatADeadHostHasIsFree(_ its: HoldMode, _ mine: HoldMode) throws {
    #expect(try isGranted(acquire(1, its, from: 0)))
    try putLife(isDead: false)
    let fits = its == .shared && mine == .shared
    #expect(try isGranted(acquire(1, mine, from: 1)) == fits)
    try putLife(isDead: true)
    #expect(try isGranted(acquire(1, mine, from: 1)))
    #expect(try isGranted(acquire(1, mine, from: 1)))
  }

  @Test func aTryGetsItAndSoDoesNobodyBeforeItsTime() throws {
    #expect(try isGranted(acquire(from: 0)))
    #expect(try !isGranted(acquire(isTry: true, from: 1)))
    try putLife(isDead: true)
    #expect(try isGranted(acquire(isTry: true, from: 1)))
    // The dead one finds that it is lost.
    #expect(
      try twin.execute(
        .renew([LeaseReference(name: TwinRedis.name, attempt: 1)], epoch: epoch), from: 0) == .renewed([.lost]))
  }

  /// One of two who share it is dead: the other has it as before.
  @Test func ofThoseWhoShareItOnlyTheDeadAreLeftOut() throws {
    #expect(try isGranted(acquire(1, .shared, from: 0)))
    #expect(try isGranted(acquire(1, .shared, from: 1)))
    try putLife(isDead: true)
    #expect(try !isGranted(acquire(1, .exclusive, from: 2)))
    #expect(twin.lock?.contains("b/1f:1:") == true)
    try twin.execute(.release(name: TwinRedis.name, attempt: 1, unused: .all, terms: GrantTerms(epoch: epoch)), from: 1)
    #expect(try isGranted(acquire(1, .exclusive, from: 2)))
  }

  @Test func aDeadHostThatWaitsIsPassedOver() throws {
    for host in 0...2 { try twin.subscribe(host) }
    #expect(try isGranted(acquire(from: 2)))
    #expect(try !isGranted(acquire(from: 0)))
    #expect(try !isGranted(acquire(from: 1)))
    try putLife(isDead: true)
    try twin.execute(.release(name: TwinRedis.name, attempt: 1, unused: .all, terms: GrantTerms(epoch: epoch)), from: 2)
    #expect(twin.lock?.contains(";x;b/1f:1:") == true)
    #expect(twin.queue == nil)
  }

  /// It looks once a second, and asks when the look tells it to.
  @Test func whoWaitsIsToldToAsk() throws {
    let look = LeaseCommand.checkPlaces(
      [WaitingPlace(name: TwinRedis.name, attempt: 1, mode: .exclusive, leaseMilliseconds: 10_000)], epoch: epoch)
    for host in 0...1 { try twin.subscribe(host) }
    #expect(try isGranted(acquire(from: 0)))
    #expect(try !isGranted(acquire(from: 1)))
    try putLife(isDead: false)
    #expect(try twin.execute(look, from: 1) == .lostPlaces([]))
    try putLife(isDead: true)
    #expect(try twin.execute(look, from: 1) == .lostPlaces([0]))
    #expect(try isGranted(acquire(from: 1)))
  }
}
