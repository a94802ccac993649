import LockEngine
import LockTypes
import RESP

// The epoch of the data set, in Redis' words; see Scripts/confirm_epoch.lua and Scripts/reclaim.lua.

extension EpochID {
  /// What the value of the epoch's key begins with when this one is open: `1;<name>;o;`.
  var opening: [UInt8] { Array("1;\(text);o;".utf8) }

  /// The room for ``writeOpening(to:)``.
  var openingCapacity: Int { BlobWriter.capacity(text.utf8.count + 5) }

  /// Writes ``opening`` as a blob string. It goes with every command that may grant something, so it allocates nothing.
  func writeOpening(to writer: inout BlobWriter) {
    writer.begin(byteCount: text.utf8.count + 5)
    writer.append("1;" as StaticString)
    writer.append(text)
    writer.append(";o;" as StaticString)
    writer.end()
  }
}

extension LifeSign {
  /// The word for it in confirm_epoch.lua.
  var word: [UInt8] {
    switch self {
    case .none: Array("0".utf8)
    case .dead(let milliseconds): Array(String(milliseconds).utf8)
    case .never: Array("never".utf8)
    }
  }
}

extension LeaseCommandEncoder {
  func confirm(_ claim: EpochClaim) -> RedisCommand {
    let numbers = [claim.longestLeaseMilliseconds, claim.graceMilliseconds, claim.tokenFloor].map {
      Array(String($0).utf8)
    }
    return .script(
      name: .confirmEpoch, keys: [epochKey],
      arguments: [
        me, Array(claim.known.text.utf8), Array(String(claim.known.number).utf8), Array(String(claim.attempt).utf8),
      ] + numbers + [
        inboxPrefix, [claim.isFirstOfLink ? 0x31 : 0x30], Array(String(claim.waitedMilliseconds).utf8),
        [claim.mayBeFirst ? 0x31 : 0x30], Array(String(claim.tokenFloorOfNew).utf8), claim.lifeSign.word,
      ])
  }

  func reclaim(_ leases: [ReclaimedLease], _ leaseMilliseconds: Int64, _ epoch: EpochID) -> RedisCommand {
    var capacity =
      BlobWriter.capacity(me.count) + BlobWriter.capacity(epochKey.count) + epoch.openingCapacity
      + (3 + 5 * leases.count) * BlobWriter.decimalCapacity
    for lease in leases { capacity += KeyOfLock(lease.name).capacityOfAll(after: keys.prefix) }
    return RedisCommand(
      script: .reclaim, keyCount: 3 * leases.count, argumentCount: 6 + 5 * leases.count, capacity: capacity
    ) {
      for lease in leases {
        KeyOfLock(lease.name).writeAll(after: keys.prefix, to: &$0)
      }
      $0.write(me)
      $0.write(decimal: leaseMilliseconds)
      $0.write(epochKey)
      epoch.writeOpening(to: &$0)
      $0.write(decimal: tokenCount)
      $0.write(decimal: fenceMilliseconds)
      for lease in leases {
        $0.write(decimal: lease.attempt)
        lease.mode.write(to: &$0)
        $0.write(decimal: lease.firstToken)
        $0.write(decimal: lease.tokenCount)
        $0.write(byte: lease.mayReplace ? 0x31 : 0x30)
      }
    }
  }
}

extension LeaseReplyDecoder {
  /// The longest time that an epoch's value tells, in milliseconds: far more than the longest lease.
  static let epochMillisecondsMax: Int64 = 1 << 31

  /// Whether nothing was done because the epoch was another one than that of the command.
  static func isOfOtherEpoch(_ reply: RESPValue, to command: LeaseCommand) -> Bool {
    switch command {
    case .acquire, .downgrade, .reserve, .renew, .checkPlaces, .reclaim:
      guard let parts = reply.elements, parts.count == 1 else { return false }
      return parts[0].isText("other_epoch")
    case .release, .confirmEpoch, .answerInUse, .heartbeat, .clock, .look, .hostMessage: return false
    }
  }

  /// The reply of confirm_epoch.lua; nil when it is not understood.
  static func epochSight(_ reply: RESPValue) -> EpochSight? {
    guard let parts = reply.elements, parts.count == 9, parts[0].isText("epoch"),
      let number = parts[1].integer.flatMap({ UInt64(exactly: $0) }), let text = parts[2].string,
      text.utf8.starts(with: "\(number):".utf8),
      let grace = parts[4].integer, let longest = parts[5].integer, let floor = parts[6].integer, floor >= 0,
      let seconds = parts[7].integer, let microseconds = parts[8].integer,
      let clock = clock(seconds: seconds, microseconds: microseconds)
    else { return nil }
    guard 0...epochMillisecondsMax ~= grace, 0...epochMillisecondsMax ~= longest, floor < 1 << 53 else { return nil }
    let (id, isOpen) = (EpochID(number: number, text: text), parts[3].isText("o"))
    guard id.isSound, isOpen || parts[3].isText("g") else { return nil }
    return EpochSight(
      id: id, isOpen: isOpen, graceMilliseconds: grace,
      longestLeaseMilliseconds: longest, tokenFloor: floor, clock: clock)
  }
}
