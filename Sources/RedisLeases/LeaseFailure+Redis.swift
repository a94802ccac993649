public import LockEngine
import RESP

extension LeaseFailure {
  /// What a command that Redis answered with `error` failed of. The words are Redis' own, made printable.
  ///
  /// Nobody knows all errors: servers, their modules and the proxies before them have their own. What is not known to
  /// stay may pass: a right is given again, a proxy finds its server, a key with strange contents goes away.
  public init(error: [UInt8]) {
    let words = RedisErrorReply.words(of: error)
    switch RedisErrorReply.significantCode(of: error) {
    case "WRONGTYPE":
      self = .wrongType(OtherData(error: error))
    case "CROSSSLOT":
      self = .fatal("this is a node of a Redis Cluster, and the URL is not redis-cluster://: \(words)")
    default:
      self = .transient(words)
    }
  }
}

extension OtherData {
  /// Which key holds what, where one of our scripts says so in an error.
  fileprivate init?(error: [UInt8]) {
    guard let space = error.firstIndex(of: 0x20) else { return nil }
    self.init(words: error[(space + 1)...])
  }

  /// As a script says it: `<key> <type>`.
  init?(words: ArraySlice<UInt8>) {
    let words = words.split(separator: 0x20, maxSplits: 1)
    guard words.count == 2, let part = Part(rawValue: String(decoding: words[0], as: UTF8.self)) else { return nil }
    self.init(part: part, type: words[1].elementsEqual([0x2D]) ? nil : RedisErrorReply.words(of: Array(words[1])))
  }
}
