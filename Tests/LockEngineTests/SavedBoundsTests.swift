import LockTypes
import Testing

@testable import LockEngine

/// Records that are whole and make no sense.
@Suite struct SavedBoundsTests {
  private static let now = BootInstant(nanoseconds: 1_000_000_000_000)
  private static let centuries = BootInstant(nanoseconds: 9_223_372_036_000_000_000)
  private static let negative = BootInstant(nanoseconds: .min)

  private static let lease = SavedLease(
    name: x, attempt: 7, mode: .shared, milliseconds: 10_000, stage: .held,
    validUntil: now.adding(milliseconds: 8_500), graceEnds: now.adding(milliseconds: 9_900), nextToken: 5,
    tokenEnd: 1005, contendedSince: now, isSharingUnconfirmed: false, tokenStart: 3)
  private static let epoch = SavedEpoch(
    id: EpochID(number: 2, text: "2:h/1:5"), isOpen: false, graceMilliseconds: 10_000, longestLeaseMilliseconds: 5_000,
    learnedAt: now, clock: StoreInstant(microseconds: 9), clockSentAt: now,
    life: HostLife.Term(sentAt: now, deadHostMilliseconds: 2_000))
  private static let releases = SavedReleases(
    name: x,
    releases: [
      .init(attempt: 6, unused: .from(8), worthUntil: now.adding(milliseconds: 10_000), isExact: true)
    ])
  private static let hold = SavedHold(
    session: alice, name: x, token: 5, since: now, owner: "o", meta: "m", progress: false, onLost: .kill, attempt: 7,
    mode: .shared, count: 2, endsAt: now.adding(milliseconds: 31_536_000_000), isPartial: false)
  private static let wait = SavedWait(
    place: 1, session: bob, request: RequestID(9), names: [x, LockName("y")], isSeveral: true, mode: .permit(of: 3),
    waitMilliseconds: 1000, maxHoldMilliseconds: 1000, owner: "o", meta: "m", progress: true, onLost: .notify,
    since: now, deadline: now.adding(milliseconds: 1000), taken: [.init(name: x, token: 4, isReentered: false)],
    need: ReplicaNeed(replicas: 2, durability: .disk))

  private static func changed<Record>(_ record: Record, _ body: (inout Record) -> Void) -> Record {
    var record = record
    body(&record)
    return record
  }

  private static func isTaken(_ kind: SavedState.Kind, id: UInt64, _ write: (inout StateWriter) -> Void) -> Bool {
    var writer = StateWriter()
    write(&writer)
    var state = SavedState()
    return (try? state.add(kind, id: id, writer.bytes, now: now)) != nil
  }

  /// The formats, byte for byte: see protocol/formats.md before anything here changes.
  @Test func theFormatsOfTheRecords() {
    func hex(_ write: (inout StateWriter) -> Void) -> String {
      var writer = StateWriter()
      write(&writer)
      return writer.bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }
    let (name, now) = ("010000000000000078", "0010a5d4e8000000")
    let (owner, meta) = ("0101000000000000006f", "0101000000000000006d")
    #expect(
      hex { Self.lease.write(to: &$0) }
        == name + "0700000000000000" + "01" + "1027000000000000" + "01" + "00c548cfea000000" + "0013bb22eb000000"
        + "0500000000000000" + "ed03000000000000" + "01" + now + "00"
        + "0300000000000000")
    #expect(
      hex { Self.epoch.write(to: &$0) }
        == "0200000000000000" + "0700000000000000" + "323a682f313a35" + "00" + "1027000000000000" + "8813000000000000"
        + now + "0900000000000000" + now + "01" + "0001f939e9000000" + "0077a94ae9000000")
    #expect(
      hex { Self.releases.write(to: &$0) }
        == name + "0100000000000000" + "0600000000000000" + "01" + "0800000000000000" + "00f4b028eb000000" + "01")
    #expect(
      hex { Self.hold.write(to: &$0) }
        == "0100000000000000" + name + "0500000000000000" + now + owner + meta + "00" + "04000000000000006b696c6c"
        + "0700000000000000" + "01" + "0200000000000000" + "01" + "00104802bc0a7000" + "00")
    #expect(
      hex { Self.wait.write(to: &$0) }
        == "0100000000000000" + "0200000000000000" + "0900000000000000" + "0200000000000000" + name
        + "010000000000000079" + "01" + "02" + "0300000000000000" + "01" + "e803000000000000" + "01"
        + "e803000000000000" + owner + meta + "01" + "06000000000000006e6f74696679" + now + "01" + "00da3f10e9000000"
        + "0100000000000000" + name + "0400000000000000" + "00" + "02" + "01" + "0000000000000000")
  }

  /// What is taken for one lock stands behind what the formats before 9 read, which let nothing be taken for one.
  @Test func aWaitForReplicasIsAPlainOneToTheFormatsBefore() throws {
    let one = Self.changed(Self.wait) {
      $0.names = [x]
      $0.isSeveral = false
    }
    var writer = StateWriter()
    one.write(to: &writer)
    var state = SavedState()
    try state.add(.wait, id: 9, writer.bytes, now: Self.now)
    // Behind an empty list: the need, and one lock with its name, its token and whether it was entered.
    try state.add(.wait, id: 9, Array(writer.bytes.dropLast(2 + 8 + 9 + 8 + 1)), now: Self.now)
    #expect(state.waits.map(\.taken.count) == [1, 0])
    #expect(state.waits.map(\.need) == [one.need, .none])
    for (at, byte) in [(28, 17 as UInt8), (27, 2), (26, 2)] {
      var damaged = writer.bytes
      damaged[damaged.count - at] = byte
      #expect(throws: StateDamage.self, "\(at)") { try state.add(.wait, id: 9, damaged, now: Self.now) }
    }
  }

  /// A record of a later format may have more behind what is known; one of this format may not.
  @Test func moreIsReadOnlyFromALaterFormat() {
    var writer = StateWriter()
    Self.hold.write(to: &writer)
    writer.write(UInt64(9))
    var state = SavedState()
    #expect(throws: StateDamage.self) { try state.add(.hold, id: 1, writer.bytes, now: Self.now) }
    #expect(throws: Never.self) {
      try state.add(.hold, id: 1, writer.bytes, now: Self.now, isOfLaterFormat: true)
    }
    #expect(state.holds.last == Self.hold)
  }

  /// The first format did not have the first token of a block.
  @Test(arguments: [(5, 4), (1, 1)] as [(Token, Token)]) func aLeaseOfTheFirstFormatIsTaken(
    _ next: Token, _ start: Token
  ) throws {
    var writer = StateWriter()
    Self.changed(Self.lease) { ($0.nextToken, $0.tokenStart) = (next, 1) }.write(to: &writer)
    var state = SavedState()
    try state.add(.lease, id: 7, Array(writer.bytes.dropLast(8)), now: Self.now)
    #expect(state.leases.map(\.tokenStart) == [start])
  }

  @Test func whatAnEngineWritesIsTaken() {
    #expect(Self.isTaken(.epoch, id: 0) { Self.epoch.write(to: &$0) })
    #expect(Self.isTaken(.lease, id: 7) { Self.lease.write(to: &$0) })
    #expect(Self.isTaken(.releases, id: 1) { Self.releases.write(to: &$0) })
    #expect(Self.isTaken(.hold, id: 1) { Self.hold.write(to: &$0) })
    #expect(Self.isTaken(.wait, id: 9) { Self.wait.write(to: &$0) })
    let wanted = Self.changed(Self.lease) {
      $0.stage = .wanted
      ($0.tokenStart, $0.nextToken, $0.tokenEnd) = (0, 0, 0)
      ($0.validUntil, $0.graceEnds) = (BootInstant(nanoseconds: 0), BootInstant(nanoseconds: 0))
    }
    #expect(Self.isTaken(.lease, id: 7) { wanted.write(to: &$0) })
  }

  private static let leases: [(String, SavedLease)] = [
    ("too short", changed(lease) { $0.milliseconds = 1 }),
    ("so short that no time is between renewals", changed(lease) { $0.milliseconds = 3 }),
    ("too long", changed(lease) { $0.milliseconds = 1 << 31 }),
    ("negative", changed(lease) { $0.milliseconds = -10_000 }),
    ("valid for centuries", changed(lease) { $0.validUntil = centuries }),
    ("valid for a little longer than its length", changed(lease) { $0.validUntil = now.adding(milliseconds: 8_501) }),
    ("valid until before the boot", changed(lease) { $0.validUntil = negative }),
    ("a grace of centuries", changed(lease) { $0.graceEnds = centuries }),
    ("contended later", changed(lease) { $0.contendedSince = now.adding(milliseconds: 1) }),
    ("contended before the boot", changed(lease) { $0.contendedSince = negative }),
    ("tokens that are used up", changed(lease) { $0.nextToken = 1006 }),
    ("tokens beyond what is exact", changed(lease) { $0.tokenEnd = 1 << 53 + 1 }),
    ("a negative token", changed(lease) { $0.nextToken = -1 }),
    ("no first token", changed(lease) { $0.tokenStart = 0 }),
    ("a first token above those that were issued", changed(lease) { $0.tokenStart = 6 }),
    ("another's attempt", changed(lease) { $0.attempt = 8 }),
    ("no name", changed(lease) { $0.name = LockName("") }),
    ("a name that is too long", changed(lease) { $0.name = LockName(String(repeating: "x", count: 513)) }),
    ("a name that is no text", changed(lease) { $0.name = LockName(bytes: [0xFF]) }),
    ("too many permits", changed(lease) { $0.mode = .permit(of: 1 << 40) }),
  ]

  @Test(arguments: leases.indices)
  func aLeaseThatCannotBeIsRefused(_ index: Int) {
    let (what, lease) = Self.leases[index]
    #expect(!Self.isTaken(.lease, id: 7) { lease.write(to: &$0) }, "\(what)")
  }

  private static let epochs: [(String, SavedEpoch)] = [
    ("no number", changed(epoch) { $0.id.number = 0 }),
    ("a number beyond what is exact", changed(epoch) { $0.id.number = 1 << 53 }),
    ("no name", changed(epoch) { $0.id.text = "" }),
    ("a name that is too long", changed(epoch) { $0.id.text = String(repeating: "1", count: 513) }),
    ("a grace of centuries", changed(epoch) { $0.graceMilliseconds = .max }),
    ("a negative grace", changed(epoch) { $0.graceMilliseconds = -1 }),
    ("leases of centuries", changed(epoch) { $0.longestLeaseMilliseconds = .max }),
    ("learned tomorrow", changed(epoch) { $0.learnedAt = now.adding(milliseconds: 1) }),
    ("learned before the boot", changed(epoch) { $0.learnedAt = negative }),
    ("a clock of centuries", changed(epoch) { $0.clock.microseconds = .max }),
    ("a clock before 1970", changed(epoch) { $0.clock.microseconds = -1 }),
    ("a life of hours", changed(epoch) { $0.life?.validUntil = now.adding(milliseconds: 3_600_001) }),
    ("a grace of hours behind it", changed(epoch) { $0.life?.graceEnds = now.adding(milliseconds: 3_600_001) }),
    ("a life before the boot", changed(epoch) { $0.life?.graceEnds = negative }),
    ("a clock seen tomorrow", changed(epoch) { $0.clockSentAt = now.adding(milliseconds: 1) }),
  ]

  @Test(arguments: epochs.indices)
  func anEpochThatCannotBeIsRefused(_ index: Int) {
    let (what, epoch) = Self.epochs[index]
    #expect(!Self.isTaken(.epoch, id: 0) { epoch.write(to: &$0) }, "\(what)")
  }

  private static let holds: [(String, SavedHold)] = [
    ("since tomorrow", changed(hold) { $0.since = now.adding(milliseconds: 1) }),
    ("since before the boot", changed(hold) { $0.since = negative }),
    ("for centuries", changed(hold) { $0.endsAt = centuries }),
    ("no token", changed(hold) { $0.token = 0 }),
    ("a token beyond what is exact", changed(hold) { $0.token = 1 << 53 }),
    ("counted to the end", changed(hold) { $0.count = .max }),
    ("an owner that is too long", changed(hold) { $0.owner = String(repeating: "x", count: 129) }),
    ("an empty owner", changed(hold) { $0.owner = "" }),
    ("a note that is too long", changed(hold) { $0.meta = String(repeating: "x", count: 1025) }),
    ("an attempt beyond what is exact", changed(hold) { $0.attempt = 1 << 53 }),
    ("a session beyond all", changed(hold) { $0.session = SessionID(.max) }),
    ("too many permits", changed(hold) { $0.mode = .permit(of: .max) }),
  ]

  @Test(arguments: holds.indices)
  func aHoldThatCannotBeIsRefused(_ index: Int) {
    let (what, hold) = Self.holds[index]
    #expect(!Self.isTaken(.hold, id: 1) { hold.write(to: &$0) }, "\(what)")
  }

  private static let waits: [(String, SavedWait)] = [
    ("since tomorrow", changed(wait) { $0.since = now.adding(milliseconds: 1) }),
    ("since before the boot", changed(wait) { $0.since = negative }),
    ("for centuries", changed(wait) { $0.deadline = centuries }),
    ("a wait of centuries", changed(wait) { $0.waitMilliseconds = .max }),
    ("a negative wait", changed(wait) { $0.waitMilliseconds = -1 }),
    ("a hold of centuries", changed(wait) { $0.maxHoldMilliseconds = .max }),
    ("a name twice", changed(wait) { $0.names = [x, x] }),
    ("too many names", changed(wait) { $0.names += (0..<64).map { LockName("\($0)") } }),
    ("another's request", changed(wait) { $0.request = RequestID(10) }),
    ("a place beyond all", changed(wait) { $0.place = .max }),
    ("taken what it does not want", changed(wait) { $0.taken[0].name = LockName("z") }),
    ("taken under no token", changed(wait) { $0.taken[0].token = 0 }),
    ("an owner that is too long", changed(wait) { $0.owner = String(repeating: "x", count: 129) }),
    ("too many permits", changed(wait) { $0.mode = .permit(of: 1_000_001) }),
  ]

  @Test(arguments: waits.indices)
  func aWaitThatCannotBeIsRefused(_ index: Int) {
    let (what, wait) = Self.waits[index]
    #expect(!Self.isTaken(.wait, id: 9) { wait.write(to: &$0) }, "\(what)")
  }

  private static let givenUp: [(String, SavedReleases)] = [
    ("worth something for centuries", changed(releases) { $0.releases[0].worthUntil = centuries }),
    ("worth something before the boot", changed(releases) { $0.releases[0].worthUntil = negative }),
    ("an attempt beyond what is exact", changed(releases) { $0.releases[0].attempt = 1 << 53 }),
    ("tokens beyond what is exact", changed(releases) { $0.releases[0].unused = .from(.max) }),
    ("no name", changed(releases) { $0.name = LockName("") }),
  ]

  @Test(arguments: givenUp.indices)
  func aReleaseThatCannotBeIsRefused(_ index: Int) {
    let (what, releases) = Self.givenUp[index]
    #expect(!Self.isTaken(.releases, id: 1) { releases.write(to: &$0) }, "\(what)")
  }

  @Test func aHoldThatStandsThereTwiceIsOne() {
    var state = SavedState()
    state.leases = [Self.lease]
    state.holds = [Self.hold, Self.hold]
    let script = Script(linkUp: false)
    script.open(alice)
    script.restore(state, numbers: [7, 1, 1, 1])
    #expect(script.engine.snapshot(of: x, waitersMax: 0, now: script.now)?.holders.map(\.token) == [5])
  }
}
