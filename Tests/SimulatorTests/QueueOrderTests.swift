import LockEngine
import LockTypes
import RedisLeases
import Testing

/// Where a host stands that had a place in the queue of an earlier epoch.
@Suite struct QueueOrderTests {
  private let twin: TwinRedis

  init() throws {
    twin = try TwinRedis()
    for host in 0...2 { try twin.subscribe(host) }
    try twin.putEpoch(Self.grace)
  }

  private static let open = "1;\(EpochID.tested.text);o;run;0;10000;10000;0"
  private static let grace = "1;\(EpochID.tested.text);g;run;0;10000;10000;0"
  private static let own = "sidelock1;x;d/1f:7:8000000000000001"
  /// In the order in which they were there: an epoch before lies before all of a later one, whatever clocks show.
  private static let moments = [
    PlaceMoment(epoch: 2, clock: StoreInstant(microseconds: 9_000_000_000_000_000)),
    PlaceMoment(epoch: 3, clock: StoreInstant(microseconds: 0)),
    PlaceMoment(epoch: 3, clock: StoreInstant(microseconds: 1)),
  ]
  private static let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
  private static let inOrder = "1;a/1f:7:10000:x 1;b/1f:7:10000:x 1;c/1f:7:10000:x"

  private func acquire(_ since: PlaceMoment?, mode: HoldMode = .exclusive) -> LeaseCommand {
    .acquire(name: TwinRedis.name, attempt: 7, ask: 1, isTry: false, terms: .tested, mode: mode, since: since)
  }

  /// Whether the place that a host was told of is new.
  @discardableResult
  private func ask(_ host: Int, since: PlaceMoment?) throws -> Bool? {
    switch try twin.execute(acquire(since), from: host) {
    case .queued(_, _, _, let place): place?.isNew
    case .foreign(_, let place): place?.isNew
    default: nil
    }
  }

  @Test(arguments: orders, [grace, open]) func eachStandsWhereItStoodWhoeverComesFirst(
    _ order: [Int], _ epoch: String
  ) throws {
    try twin.putEpoch(epoch)
    try twin.putLock(Self.own)
    for host in order { #expect(try ask(host, since: Self.moments[host]) == false) }
    #expect(twin.queue == Self.inOrder)
    // Asked again, they stay.
    for host in order {
      #expect(try ask(host, since: Self.moments[host]) == false)
      #expect(try ask(host, since: nil) == false)
    }
    #expect(twin.queue == Self.inOrder)
  }

  @Test(arguments: orders) func theSameBehindAForeignHolder(_ order: [Int]) throws {
    try twin.putEpoch(Self.open)
    try twin.putLock("foreign")
    for host in order { #expect(try ask(host, since: Self.moments[host]) == false) }
    #expect(twin.queue == Self.inOrder)
  }

  @Test func whoComesInTheGraceStandsBehindThoseWhoStoodBefore() throws {
    #expect(try ask(2, since: nil) == true)
    #expect(try ask(1, since: Self.moments[1]) == false)
    #expect(try ask(0, since: Self.moments[0]) == false)
    #expect(twin.queue == Self.inOrder)
  }

  @Test func inAnEpochThatIsOpenANewPlaceIsTheLast() throws {
    try twin.putEpoch(Self.open)
    try twin.putLock(Self.own)
    #expect(try ask(1, since: nil) == true)
    #expect(try ask(0, since: nil) == true)
    #expect(try ask(1, since: nil) == false)
    #expect(twin.queue == "1;b/1f:7:10000:x 1;a/1f:7:10000:x")
    #expect(twin.text(key) == nil)
  }

  /// Whose host has not come back was before those whom the older data do not have, and stays where he is.
  @Test func olderDataKeepTheirOrder() throws {
    try twin.putInQueue("1;d/1f:7:10000:x", "1;b/1f:7:10000:x")
    try ask(2, since: Self.moments[2])
    try ask(1, since: Self.moments[1])
    #expect(twin.queue == "1;d/1f:7:10000:x 1;b/1f:7:10000:x 1;c/1f:7:10000:x")
    try ask(0, since: Self.moments[0])
    #expect(twin.queue == "1;d/1f:7:10000:x 1;a/1f:7:10000:x 1;b/1f:7:10000:x 1;c/1f:7:10000:x")
  }

  @Test func whoStandsInTheWrongPlaceIsMoved() throws {
    try twin.putInQueue("1;c/1f:7:10000:x", "1;a/1f:7:10000:x", "1;b/1f:7:10000:x")
    for host in [2, 1, 0] { try ask(host, since: Self.moments[host]) }
    #expect(twin.queue == Self.inOrder)
  }

  /// Who came when the grace was over and nobody else came back any more.
  @Test func whoComesBackLateStandsAheadOfThoseWhoCameLater() throws {
    try ask(0, since: Self.moments[0])
    try ask(2, since: Self.moments[2])
    try twin.putEpoch(Self.open)
    try twin.putLock(Self.own)
    try twin.putInQueue("1;d/1f:8:10000:x")
    try ask(1, since: Self.moments[1])
    #expect(twin.queue == Self.inOrder + " 1;d/1f:8:10000:x")
  }

  /// Whoever stands there asks again, and keeps what tells since when for whoever comes back later.
  @Test func itLastsAsLongAsWhoStandsThere() throws {
    try ask(0, since: Self.moments[0])
    try twin.putEpoch(Self.open)
    try twin.putLock(Self.own)
    for (left, kept) in [(5_000, 1_800_000), (3_000_000, 3_000_000)] as [(Int64, Int64)] {
      try twin.tell(["PEXPIRE", Bytes(key), Bytes("\(left)")])
      #expect(try ask(0, since: nil) == false)
      #expect(try twin.timeLeft(key) == kept)
    }
  }

  private var key: [UInt8] { twin.encoders[0].keys.queueKey(TwinRedis.name) + Array(":since".utf8) }

  /// It belongs to sidelock, and can be lost, or be other data, at any time.
  @Test(arguments: [
    "", "1;", "rubbish", "1;rubbish\n", "2;00000000000000030000000000000000 1;a/1f:7:10000:x\n", "list",
  ])
  func whatTellsSinceWhenTheyStandMayBeAnything(_ text: String) throws {
    try ask(1, since: Self.moments[1])
    if text == "list" {
      try twin.put(key, nil)
      try twin.tell(["RPUSH", Bytes(key), "x"])
    } else {
      try twin.put(key, text)
    }
    try ask(0, since: Self.moments[0])
    #expect(Set((twin.queue ?? "").split(separator: " ")) == ["1;a/1f:7:10000:x", "1;b/1f:7:10000:x"])
    try ask(1, since: Self.moments[1])
    try ask(0, since: Self.moments[0])
    #expect(twin.queue == "1;a/1f:7:10000:x 1;b/1f:7:10000:x")
  }

  @Test func itEndsWithTheQueue() throws {
    try ask(1, since: Self.moments[1])
    #expect(try twin.timeLeft(key) == 20_000)
    #expect(try twin.timeLeft(twin.encoders[0].keys.queueKey(TwinRedis.name)) == 20_000)
    #expect(twin.text(key) == "1;00000000000000030000000000000000 1;b/1f:7:10000:x\n")
  }

  /// Whatever is refused half way, nobody else loses his place or stands there twice.
  @Test(arguments: ["SET", "LREM", "RPUSH", "LRANGE", "LPOS", "PEXPIRE", "GET"])
  func aRefusalTakesNobodysPlace(_ command: String) throws {
    for host in [1, 2] { try ask(host, since: Self.moments[host]) }
    try twin.deny(command)
    try ask(0, since: Self.moments[0])
    try twin.deny("")
    let entries = (twin.queue ?? "").split(separator: " ").filter { !$0.hasPrefix("1;a") }
    #expect(entries == ["1;b/1f:7:10000:x", "1;c/1f:7:10000:x"])
  }
}
