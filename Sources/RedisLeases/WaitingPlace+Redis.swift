import LockEngine
import RESP

// How a host looks at its own places in the queues; see Scripts/places.lua.
extension LeaseCommandEncoder {
  func checkPlaces(_ places: [WaitingPlace], _ epoch: EpochID) -> RedisCommand {
    var capacity =
      BlobWriter.capacity(inboxPrefix.count) + BlobWriter.capacity(epochKey.count) + epoch.openingCapacity
    for place in places {
      capacity += 2 * BlobWriter.capacity(keys.prefix.count + 2 + 3 * place.name.bytes.count + 6)
      capacity += BlobWriter.capacity(2 + me.count + 3 * BlobWriter.decimalCapacity + 3)
    }
    return RedisCommand(
      script: .places, keyCount: 2 * places.count, argumentCount: places.count + 3, capacity: capacity
    ) {
      for place in places {
        let tagged = KeyOfLock(place.name)
        tagged.write(after: keys.prefix, suffix: "", to: &$0)
        tagged.write(after: keys.prefix, suffix: ":queue", to: &$0)
      }
      for place in places { $0.write(entry(of: place)) }
      $0.write(inboxPrefix)
      $0.write(epochKey)
      epoch.writeOpening(to: &$0)
    }
  }

  /// The entry of a place in its queue; acquire.lua writes it.
  private func entry(of place: WaitingPlace) -> [UInt8] {
    Array("1;".utf8) + me + Array(":\(place.attempt):\(place.leaseMilliseconds):".utf8) + place.mode.word
  }
}

extension LeaseReplyDecoder {
  /// The reply, for so many places.
  static func lostPlaces(_ reply: RESPValue, among count: Int) -> LeaseReply {
    let numbers = reply.elements?.map { $0.integer.flatMap { Int(exactly: $0 &- 1) } ?? -1 }
    guard let numbers, numbers.allSatisfy((0..<count).contains) else {
      return .failed(.transient("Redis gave a reply to places.lua that is not understood"))
    }
    return .lostPlaces(numbers)
  }
}
