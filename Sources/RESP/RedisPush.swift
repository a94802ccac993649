/// What a push says, by its kind.
enum RedisPush: Hashable, Sendable {
  /// A message to a channel.
  case message(channel: [UInt8], payload: [UInt8])
  /// A channel is subscribed to.
  case subscribed(channel: [UInt8])
  /// A channel is no longer subscribed to; nil: there was none.
  case unsubscribed(channel: [UInt8]?)
  /// A kind that nothing here asks for.
  case other
  /// No kind, or one of the above with other parts than it has.
  case malformed

  /// Reads the parts of a push.
  init(parts: [RESPValue]) {
    guard let kind = parts.first?.string else {
      self = .malformed
      return
    }
    switch kind {
    case "message":
      guard parts.count == 3, let channel = parts[1].bytes, let payload = parts[2].bytes else {
        self = .malformed
        return
      }
      self = .message(channel: channel, payload: payload)
    case "subscribe":
      guard parts.count == 3, let channel = parts[1].bytes, parts[2].integer != nil else {
        self = .malformed
        return
      }
      self = .subscribed(channel: channel)
    case "unsubscribe":
      guard parts.count == 3, parts[1] == .null || parts[1].bytes != nil else {
        self = .malformed
        return
      }
      self = .unsubscribed(channel: parts[1].bytes)
    default:
      self = .other
    }
  }
}
