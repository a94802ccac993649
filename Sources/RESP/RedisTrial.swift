/// What a connection does before it serves commands, to find out whether a plain primary is behind it.
///
/// A proxy that shards, a cluster that calls itself something else, or pub/sub that is not the server's own would take
/// the commands, and break later what rests on them: that a script sees what others wrote, and that what it publishes
/// comes on this connection in the order in which it was executed.
public struct RedisTrial: Hashable, Sendable {
  /// A script that takes one key, a channel and a message. It publishes the message, does with the key what the other
  /// scripts do with theirs, and replies how many heard the message, and which command had another effect, with what it
  /// replied; two empty texts for none.
  package var script: [UInt8]
  /// A key that nobody uses.
  package var key: [UInt8]
  /// What is published; no other message is like it.
  package var message: [UInt8]

  /// A trial.
  public init(script: [UInt8], key: [UInt8], message: [UInt8]) {
    self.script = script
    self.key = key
    self.message = message
  }

  /// The name of the script in Redis.
  package var digest: [UInt8] { SHA1.hexDigits(of: script) }
}

/// What a trial has found out so far.
struct TrialFindings {
  /// The message came on this connection.
  var cameBack = false
  private var heard: Int64?
  private var command = ""
  private var words: [UInt8] = []

  /// Takes the script's reply; false if it is none.
  mutating func take(_ reply: RESPValue) -> Bool {
    guard let parts = reply.elements, parts.count == 3, let heard = parts[0].integer, let command = parts[1].bytes,
      let words = parts[2].bytes
    else { return false }
    self.heard = heard
    self.command = RedisErrorReply.text(of: command)
    self.words = words
    return true
  }

  /// Why the server is of no use; nil if it is, or where the script could not be run. `isInCluster`: it is known to have only
  /// some of the keys, all of the script's, unless their slot is on its way.
  func failure(isInCluster: Bool) -> RedisHandshakeFailure? {
    guard let heard else { return nil }
    if !command.isEmpty {
      if Self.isAboutCluster(words) { return isInCluster ? nil : Self.isCluster }
      if !RedisErrorReply.isStateOfServer(error: words) {
        return RedisHandshakeFailure(
          noPlainPrimary: "\(command) did something else than in Redis: \(RedisErrorReply.text(of: words))")
      }
    }
    if heard == 0, command != "PUBLISH" {
      return RedisHandshakeFailure(
        noPlainPrimary: "what a script published to the inbox that this connection listens to was heard by nobody")
    }
    guard cameBack || command == "PUBLISH" else {
      return RedisHandshakeFailure(
        noPlainPrimary: "what a script published to the inbox that this connection listens to did not come at once")
    }
    return nil
  }

  /// For a cluster that does not call itself one.
  static let isCluster = RedisHandshakeFailure(noPlainPrimary: "it has only some of the keys, as a node of a cluster")

  /// Whether an error is one that only a node of a cluster gives; servers say it in several ways.
  static func isAboutCluster(_ error: [UInt8]) -> Bool {
    let codes = ["MOVED", "ASK", "CROSSSLOT", "CLUSTERDOWN"]
    if codes.contains(where: { $0 == RedisErrorReply.significantCode(of: error) }) { return true }
    let words = String(decoding: error.prefix(500), as: UTF8.self)
    return ["non local key", "in a cluster", "same slot", "slot not served"].contains { words.contains($0) }
  }
}
