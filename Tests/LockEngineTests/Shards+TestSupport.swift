import LockTypes
import Testing

@testable import LockEngine

/// An engine over several shards. Names are in cells by their first letter: `d` and `h` in 0, `a` in 1, `b` in 2, `c` in 3.
/// Half of the cells begin in shard 0; shard 1 has the other half, or one cell, where there is a shard 2 for the last one.
final class Shards: EngineDriving {
  let engine: LockEngine
  var now = BootInstant(nanoseconds: 1_000_000_000_000)
  /// What each shard says of its epoch; nil: it does not answer.
  var epochs: [ShardID: EpochSight] = [:]
  /// The questions for epochs, and those that are not answered.
  private(set) var claims: [(shard: ShardID, claim: EpochClaim)] = []
  private var open: [(shard: ShardID, id: CommandID)] = []
  private var effects: [Effect] = []
  private var lastRequest: UInt64 = 0
  private var records: [SavedState.Kind: [UInt64: [UInt8]]] = [:]

  static func configuration(_ change: (inout EngineConfiguration) -> Void = { _ in }) -> EngineConfiguration {
    EngineConfiguration(tier: .store) {
      $0.cells = LockCells(count: 4) { Int($0.bytes.first ?? 0) % 4 }
      change(&$0)
    }
  }

  init(_ count: Int, _ configuration: EngineConfiguration = Shards.configuration(), isConnected: Bool = true) {
    engine = LockEngine(configuration: configuration)
    engine.recordChanges()
    for number in 0..<UInt32(count) { epochs[ShardID(number)] = .epoch(UInt64(number) + 1, of: "h/\(number)") }
    for session in [alice, bob, carol, dave] { feed(.sessionOpened(session)) }
    guard isConnected else { return }
    feed(.homesMoved(Self.homes(count)))
    for number in 0..<UInt32(count) { feed(.linkUp(ShardID(number))) }
    #expect(take().isEmpty)
  }

  static func homes(_ count: Int) -> [HomeMove] {
    var homes = [HomeMove(cells: 0..<2, shard: .only), HomeMove(cells: 2..<4, shard: one)]
    if count > 2 { homes.append(HomeMove(cells: 3..<4, shard: two)) }
    return homes
  }

  static let one = ShardID(1)
  static let two = ShardID(2)

  func feed(_ event: Event) {
    if case .linkDown(let shard) = event { open.removeAll { $0.shard == shard } }
    tell(event)
    while let question = open.first(where: { epochs[$0.shard] != nil }), let epoch = epochs[question.shard] {
      open.removeAll { $0.id == question.id }
      tell(.replyReceived(question.shard, question.id, .epoch(epoch)))
    }
  }

  private func tell(_ event: Event) {
    var added: [Effect] = []
    engine.handle(event, now: now, into: &added)
    engine.handle(.turnEnded, now: now, into: &added)
    for effect in added {
      if case .send(let shard, let id, .confirmEpoch(let claim)) = effect {
        claims.append((shard, claim))
        open.append((shard, id))
      } else {
        effects.append(effect)
      }
    }
  }

  /// The cell of that first letter has its home in `shard` from now on.
  func move(_ letter: String, to shard: ShardID) {
    let cell = Int(letter.utf8.first ?? 0) % 4
    feed(.homesMoved([HomeMove(cells: cell..<cell + 1, shard: shard)]))
    // What one turn has no room for.
    pass(milliseconds: 0)
  }

  @discardableResult
  func acquire(
    _ session: SessionID, _ names: String..., mode: HoldMode = .exclusive, wait: Int64? = nil,
    need: ReplicaNeed = .none
  ) -> RequestID {
    lastRequest += 1
    let target =
      names.count == 1 ? AcquireTarget.one(LockName(names[0])) : .several(names.map { LockName($0) })
    feed(
      .acquireRequested(
        AcquireRequest(
          session: session, request: RequestID(lastRequest), target: target, mode: mode, waitMilliseconds: wait,
          need: need)))
    return RequestID(lastRequest)
  }

  func release(_ session: SessionID, _ name: String) {
    lastRequest += 1
    feed(.releaseRequested(session, RequestID(lastRequest), name: LockName(name), token: nil))
  }

  /// Has a session hold a lock, by a grant of its home.
  func hold(_ session: SessionID, _ name: String, token: Token = 100) {
    acquire(session, name)
    let asked = sent()
    #expect(asked.count == 1)
    reply(granted(token), to: asked[0])
    #expect(take().contains { $0.grantedToken == token })
  }

  func take() -> [Effect] {
    defer { effects = [] }
    return effects
  }

  struct Sent {
    var shard: ShardID
    var id: CommandID
    var command: LeaseCommand
  }

  /// What was sent since the last time; everything else is dropped.
  func sent() -> [Sent] {
    take().compactMap {
      if case .send(let shard, let id, let command) = $0 { Sent(shard: shard, id: id, command: command) } else { nil }
    }
  }

  func reply(_ reply: LeaseReply, to sent: Sent) { feed(.replyReceived(sent.shard, sent.id, reply)) }

  /// Notes what changed, as at the end of a turn of the event loop.
  func commit() {
    for change in engine.takeChanges(isKept: { _ in true }) {
      switch change {
      case .put(let kind, let id, let bytes): records[kind, default: [:]][id] = bytes
      case .remove(let kind, let id): records[kind]?[id] = nil
      }
    }
  }

  /// What a successor finds.
  func saved() throws -> SavedState {
    commit()
    var state = SavedState()
    for (kind, all) in records {
      for (id, bytes) in all { try state.add(kind, id: id, bytes, now: now) }
    }
    return state
  }
}
