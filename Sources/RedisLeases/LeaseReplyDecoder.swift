public import LockEngine
import LockTypes
public import RESP

/// Puts Redis' replies to lease commands into the engine's words. Nothing that Redis sends can trap here; what does not fit
/// is a failure.
public enum LeaseReplyDecoder {
  /// What a reply to `command` means.
  public static func decode(_ reply: RESPValue, to command: LeaseCommand) -> LeaseReply {
    if let error = reply.error { return .failed(LeaseFailure(error: error)) }
    if isOfOtherEpoch(reply, to: command) { return .otherEpoch }
    switch command {
    case .acquire:
      return acquireReply(reply) ?? .failed(.transient("Redis gave a reply to acquire.lua that is not understood"))
    case .release, .answerInUse, .heartbeat, .downgrade, .hostMessage:
      return .done
    case .checkPlaces(let places, _):
      return lostPlaces(reply, among: places.count)
    case .confirmEpoch:
      return epochSight(reply).map { .epoch($0) }
        ?? .failed(.transient("Redis gave a reply to confirm_epoch.lua that is not understood"))
    case .clock:
      guard let parts = reply.elements, parts.count == 2, let seconds = parts[0].integer,
        let microseconds = parts[1].integer, let clock = Self.clock(seconds: seconds, microseconds: microseconds)
      else { return .failed(.fatal("Redis gave a reply to TIME that is not understood")) }
      return .clock(clock)
    case .reserve:
      if reply.integer == 0 { return .reserved(nil) }
      if let grant = grant(reply) { return .reserved(grant) }
      return acquireReply(reply) ?? .failed(.transient("Redis gave a reply to reserve.lua that is not understood"))
    case .look:
      return leaseSight(reply).map { .seen($0) }
        ?? .failed(.transient("Redis gave a reply to inspect.lua that is not understood"))
    case .renew(let leases, _, _):
      return standings(reply, count: leases.count)
        ?? .failed(.transient("Redis gave a reply to renew.lua that is not understood"))
    case .reclaim(let leases, _, _):
      return standings(reply, count: leases.count)
        ?? .failed(.transient("Redis gave a reply to reclaim.lua that is not understood"))
    }
  }

  /// What became of so many leases.
  private static func standings(_ reply: RESPValue, count: Int) -> LeaseReply? {
    guard let results = reply.elements, results.count == count else { return nil }
    return .renewed(
      results.map {
        switch $0.integer {
        case 1: .held
        case 2: .missing
        default: .lost
        }
      })
  }

  /// `granted`, and the block of tokens.
  private static func grant(_ reply: RESPValue) -> LeaseGrant? {
    guard let parts = reply.elements, parts.count == 4, parts[0].isText("granted"), let token = parts[1].integer,
      let count = parts[2].integer, let waiting = parts[3].integer
    else { return nil }
    return LeaseGrant(token: token, tokenCount: count, othersWait: waiting > 0)
  }

  private static func acquireReply(_ reply: RESPValue) -> LeaseReply? {
    // Nearly every reply is this one.
    if let grant = grant(reply) { return .granted(grant) }
    guard let parts = reply.elements, let outcome = parts.first?.string else { return nil }
    switch (outcome, parts.count) {
    case ("queued", 6...7):
      guard let holder = parts[1].bytes, let expires = parts[2].integer, let receivers = parts[3].integer,
        let place = place(parts[4...])
      else { return nil }
      return .queued(
        holderHost: host(ofInstance: holder), holderExpiresInMilliseconds: max(0, expires),
        listeners: Int(clamping: receivers), place: place)
    case ("foreign", 2), ("foreign", 4...5):
      guard let expires = parts[1].integer else { return nil }
      return .foreign(expiresInMilliseconds: expires < 0 ? nil : expires, place: place(parts[2...]))
    case ("conflict", 3):
      guard let mode = parts[1].bytes.flatMap({ HoldMode(word: $0) }), let listeners = parts[2].integer else {
        return nil
      }
      return .conflict(mode, listeners: Int(clamping: listeners))
    case ("stale", 2):
      return parts[1].integer.flatMap { UInt64(exactly: $0) }.map { .stale(attempt: $0) }
    default:
      return nil
    }
  }

  /// Where this host stands in the queue: TIME, and one more where the place is not new. Nil where that is not told.
  private static func place(_ parts: ArraySlice<RESPValue>) -> PlaceSight? {
    guard let seconds = parts.first?.integer, let microseconds = parts.dropFirst().first?.integer,
      let clock = clock(seconds: seconds, microseconds: microseconds)
    else { return nil }
    return PlaceSight(clock: clock, isNew: parts.count == 2)
  }

  /// A moment by Redis' TIME; nil where it is none.
  static func clock(seconds: Int64, microseconds: Int64) -> StoreInstant? {
    guard 0..<(1 << 42) ~= seconds, 0..<1_000_000 ~= microseconds else { return nil }
    return StoreInstant(microseconds: seconds * 1_000_000 + microseconds)
  }

  /// The host's name in `<host>/<instance>`.
  static func host(ofInstance instance: [UInt8]) -> String {
    String(decoding: instance.prefix { $0 != 0x2F }, as: UTF8.self)
  }

  private static func leaseSight(_ reply: RESPValue) -> LeaseSight? {
    guard let found = inspections(reply, count: 1, me: [])?.first else { return nil }
    return LeaseSight(
      holders: found.holders.map(\.inbox), waiting: found.waiting.map { .init(inbox: $0.inbox, mode: $0.mode) })
  }
}
