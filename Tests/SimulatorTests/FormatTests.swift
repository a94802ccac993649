import LockEngine
import LockTypes
import RESP
import RedisLeases
import Testing

/// What stands in Redis and goes between hosts, byte for byte: see protocol/formats.md before anything here changes.
@Suite struct FormatTests {
  private let model = RedisModel()
  private let encoders = ["a", "b"].map { LeaseCommandEncoder(keyPrefix: "t:", host: $0, instance: "1f") }
  private let connections: [Int64]
  private let name = LockName("x y")

  init() throws {
    connections = [model.connect(), model.connect()]
    for (encoder, connection) in zip(encoders, connections) {
      try model.execute(["HELLO", "3"], from: connection)
      try model.execute(["SUBSCRIBE", Bytes(encoder.inboxChannel)], from: connection)
    }
    _ = model.takeOutput()
    model.beginEpoch()
    model.wallMicroseconds = 1_700_000_000_000_000
  }

  /// Carries out a command, and gives the messages that it has sent.
  @discardableResult
  private func execute(_ command: LeaseCommand, from host: Int) throws -> [String] {
    let command = encoders[host].encode(command)
    let script = RedisScript.leases.first { $0.name == command.script }?.source ?? []
    try model.execute(["EVAL", Bytes(script)] + command.parts.map { Bytes($0) }, from: connections[host])
    return model.takeOutput().compactMap {
      guard case .send(_, .push(let parts)) = $0, parts.count == 3, case .bulk(let text) = parts[2] else { return nil }
      return text.text
    }
  }

  private func acquire(_ host: Int, _ mode: HoldMode) throws -> [String] {
    try execute(
      .acquire(name: name, attempt: 7, ask: 9, isTry: false, terms: .tested, mode: mode), from: host)
  }

  private func string(_ key: [UInt8]) -> String? {
    guard case .string(let text)? = model.peek(Bytes(key))?.value else { return nil }
    return text.text
  }

  private var lock: String? { string(encoders[0].keys.lockKey(name)) }

  @Test func aLockThatOneHostHasAlone() throws {
    _ = try acquire(0, .exclusive)
    #expect(lock == "sidelock1;x;a/1f:7:1700000000000001")
    #expect(string(encoders[0].keys.fenceKey(name)) == "1700000000065536")
  }

  @Test func aLockThatHostsShare() throws {
    _ = try acquire(0, .shared)
    _ = try acquire(1, .shared)
    #expect(
      lock == "sidelock1;s;a/1f:7:1700000000000001:4096:1700000010000;b/1f:7:1700000000004097:4096:1700000010000")
  }

  @Test func aSemaphore() throws {
    _ = try acquire(0, .permit(of: 2))
    _ = try acquire(1, .permit(of: 2))
    #expect(lock == "sidelock1;p2;a/1f:7:1700000000000001:64:1700000010000;b/1f:7:1700000000000065:64:1700000010000")
  }

  @Test(arguments: [(HoldMode.exclusive, "x"), (.shared, "s"), (.permit(of: 3), "p3")])
  func anEntryOfTheQueueAndWhatItsHolderIsTold(_ mode: HoldMode, _ word: String) throws {
    _ = try acquire(0, .exclusive)
    let isTry = mode.isSameKind(as: .exclusive) ? 0 : 1
    #expect(try acquire(1, mode) == ["1;contended 7 9 \(isTry) b/1f \(word);x y"])
    guard case .list(let entries)? = model.peek(Bytes(encoders[0].keys.queueKey(name)))?.value else {
      Issue.record("no queue")
      return
    }
    #expect(entries.map(\.text) == ["1;b/1f:7:10000:\(word)"])
  }

  @Test func aGrantThatIsPushed() throws {
    _ = try acquire(0, .exclusive)
    _ = try acquire(1, .exclusive)
    let release = LeaseCommand.release(name: name, attempt: 7, unused: .from(1_700_000_000_000_005), terms: .tested)
    #expect(try execute(release, from: 0) == ["1;granted 7 1700000000000005 65536 0;x y"])
    #expect(lock == "sidelock1;x;b/1f:7:1700000000000005")
  }

  private let claim = EpochClaim(
    attempt: 7, known: EpochID(number: 5, text: "5:b/1f:3"), isFirstOfLink: true, longestLeaseMilliseconds: 10_000,
    graceMilliseconds: 60_000, tokenFloor: 1_700_000_000_000_005, waitedMilliseconds: 0, mayBeFirst: false)

  @Test func anEpoch() throws {
    model.putEpoch(nil)
    try execute(.confirmEpoch(claim), from: 0)
    let run = "\(model.runID)-\(model.secondReplicationID)"
    #expect(
      string(encoders[0].keys.epochKey) == "1;6:a/1f:7;g;\(run);1700000000000;60000;10000;1700000000000005")
    var opener = claim
    opener.known = EpochID(number: 6, text: "6:a/1f:7")
    opener.waitedMilliseconds = 60_000
    try execute(.confirmEpoch(opener), from: 0)
    #expect(
      string(encoders[0].keys.epochKey) == "1;6:a/1f:7;o;\(run);1700000000000;60000;10000;1700000000000005")
  }

  @Test func aSignOfLife() throws {
    var alive = claim
    alive.lifeSign = .dead(afterMilliseconds: 2000)
    try execute(.confirmEpoch(alive), from: 0)
    let key = encoders[0].keys.epochKey + Array(":a/1f".utf8)
    #expect(string(key) == "1;1700000002000;7")
    alive.lifeSign = .never
    try execute(.confirmEpoch(alive), from: 0)
    #expect(string(key) == "1;9007199254740991;7")
  }

  @Test func whatIsSaidAboutAnEpoch() {
    func words(_ command: LeaseCommand) -> [String] {
      encoders[0].encode(command).parts.map { String(decoding: $0, as: UTF8.self) }
    }
    #expect(
      words(.confirmEpoch(claim))
        == [
          "1", "t:epoch", "a/1f", "5:b/1f:3", "5", "7", "10000", "60000", "1700000000000005", "t:inbox:", "1", "0", "0",
          "0", "0",
        ])
    var alive = claim
    for (sign, word) in [(LifeSign.dead(afterMilliseconds: 2000), "2000"), (.never, "never")] {
      alive.lifeSign = sign
      #expect(words(.confirmEpoch(alive)).last == word)
    }
    let terms = GrantTerms(epoch: claim.known, tokenFloor: 9)
    for command in [
      LeaseCommand.acquire(name: name, attempt: 7, ask: 9, isTry: false, terms: terms),
      .release(name: name, attempt: 7, unused: .all, terms: terms),
      .downgrade(name: name, attempt: 7, tokenEnd: 5, terms: terms),
      .reserve(name: name, attempt: 7, tokenEnd: 5, terms: terms),
    ] {
      #expect(words(command)[9..<14] == ["65536", "60000", "9", "t:epoch", "1;5:b/1f:3;o;"])
    }
    let taken = encoders[0].takeAway(name, seen: [], token: nil, terms: terms).parts
    #expect(
      taken[9..<14].map { String(decoding: $0, as: UTF8.self) } == ["65536", "60000", "9", "t:epoch", "1;5:b/1f:3;o;"])
    let place = WaitingPlace(name: name, attempt: 7, mode: .shared, leaseMilliseconds: 10_000)
    #expect(
      words(.checkPlaces([place], epoch: claim.known)).suffix(4)
        == ["1;a/1f:7:10000:s", "t:inbox:", "t:epoch", "1;5:b/1f:3;o;"])
    let lease = ReclaimedLease(
      name: name, attempt: 7, mode: .permit(of: 3), firstToken: 11, tokenCount: 64, mayReplace: true)
    #expect(
      words(.reclaim([lease], leaseMilliseconds: 10_000, epoch: claim.known)) == [
        "3", "t:{x y}", "t:{x y}:queue", "t:{x y}:fence", "a/1f", "10000", "t:epoch", "1;5:b/1f:3;o;", "65536", "60000",
        "7", "p3", "11", "64", "1",
      ])
  }

  @Test func messagesThatHostsSendThemselves() {
    func message(_ command: RedisCommand) -> String { String(decoding: command.parts[2], as: UTF8.self) }
    let encoder = encoders[0]
    #expect(message(encoder.encode(.answerInUse(name: name, ask: 9, inbox: "b/1f"))) == "1;inuse 9;x y")
    #expect(String(decoding: encoder.trial.message, as: UTF8.self) == "1;trial;")
    #expect(InboxMessage(encoder.trial.message) == .trial)
    #expect(message(encoder.call(Array("?".utf8), id: 5, inbox: "b/1f")) == "1;call 5 a/1f;?")
    #expect(message(encoder.answer(Array("!".utf8), id: 5, inbox: "b/1f")) == "1;answer 5;!")
    let step = DeadlockStep(
      host: "b", inbox: "b/1f", session: 3, request: 4, pid: 12, command: "cron", owner: nil, waitsFor: name,
      holds: nil,
      token: 0, began: StoreInstant(microseconds: 5))
    #expect(
      message(encoder.encode(.hostMessage(inbox: "b/1f", .probe(DeadlockProbe(number: 2, path: [step])))))
        == "1;tell;5:probe1:21:140:1:b4:b/1f1:31:42:124:cron0:3:x y0:1:01:5")
  }

  /// Fields of a later release behind the known ones are passed over; a probe's step keeps them when it is forwarded.
  @Test func fieldsOfALaterRelease() throws {
    #expect(
      InboxMessage(Array("1;granted 7 1700000000000005 65536 0 later;x y".utf8))
        == InboxMessage(Array("1;granted 7 1700000000000005 65536 0;x y".utf8)))
    let sent = Array("1;tell later;5:probe1:21:147:1:b4:b/1f1:31:42:124:cron0:3:x y0:1:01:55:later5:later".utf8)
    guard case .lease(.hostMessage(.probe(let probe)))? = InboxMessage(sent) else {
      Issue.record("not understood")
      return
    }
    #expect(probe.path.map(\.more) == [Array("5:later".utf8)])
    let forwarded = encoders[0].encode(.hostMessage(inbox: "c/1f", .probe(probe))).parts[2]
    #expect(
      String(decoding: forwarded, as: UTF8.self)
        == "1;tell;5:probe1:21:147:1:b4:b/1f1:31:42:124:cron0:3:x y0:1:01:55:later")
    #expect(InboxMessage(Array("2;granted 7 1700000000000005 65536 0;x y".utf8)) == nil)
  }
}
