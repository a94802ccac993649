import LockEngine
import LockTypes
import RESP
import RedisLeases

// What the driver asks besides the engine's commands, in Redis' words.
extension RedisLink: LeaseStore {
  /// Keys that one step of SCAN looks at.
  private static let scanCount = 1000
  /// How many commands such a step counts for: its answer can be half a megabyte, and Redis ends connections that have much
  /// unread.
  private static let scanWeight = 256

  var clusterStanding: ClusterStanding? { nil }

  func key(of other: OtherData, in name: LockName) -> [UInt8] { encoders[.only].keys.key(other, of: name) }

  func inspect(
    _ names: [LockName], waitingHostsMax: Int, of user: UInt32?,
    _ completion: @escaping StoreCompletion<[LockInspection]>
  ) {
    inspect(names, in: .only, waitingHostsMax: waitingHostsMax, of: user, completion)
  }

  /// The same, about locks of one shard.
  func inspect(
    _ names: [LockName], in shard: ShardID, waitingHostsMax: Int, of user: UInt32?,
    _ completion: @escaping StoreCompletion<[LockInspection]>
  ) {
    let encoder = encoders[shard]
    let command = encoder.inspect(names, waitingHostsMax: waitingHostsMax)
    query(command, of: user, weight: max(1, names.count / 4)) { reply in
      completion(StoreAnswer(reply) { LeaseReplyDecoder.inspections($0, count: names.count, me: encoder.me) })
    }
  }

  func page(
    at cursor: [UInt8], namePrefix: [UInt8], of user: UInt32?, _ completion: @escaping StoreCompletion<LockPage>
  ) {
    let command = encoders.scan(cursor: cursor, namePrefix: namePrefix, count: Self.scanCount)
    query(command, of: user, weight: Self.scanWeight) { reply in
      completion(
        StoreAnswer(reply) { self.encoders.scanned($0).map { LockPage(next: $0.cursor, names: $0.names) } })
    }
  }

  func hosts(of user: UInt32?, _ completion: @escaping StoreCompletion<[String]>) {
    query(encoders[.only].hosts, of: user, weight: Self.scanWeight) { reply in
      completion(StoreAnswer(reply) { self.encoders[.only].hosts($0) })
    }
  }

  func info(of user: UInt32?, _ completion: @escaping StoreCompletion<String>) {
    query(.plain([Array("INFO".utf8)]), of: user, weight: Self.scanWeight) { reply in
      // The rest is about commands, databases and modules.
      completion(StoreAnswer(reply) { $0.bytes.map { String(decoding: $0.prefix(10_000), as: UTF8.self) } })
    }
  }

  func keyPrefixes(of user: UInt32?, _ completion: @escaping StoreCompletion<[String]>) {
    let encoder = encoders[.only]
    query(encoder.hostsOfAllPrefixes, of: user, weight: Self.scanWeight) { reply in
      completion(StoreAnswer(reply) { encoder.prefixes($0) })
    }
  }

  func foreignValue(of name: LockName, of user: UInt32?, _ completion: @escaping StoreCompletion<ForeignValue?>) {
    foreignValue(of: name, in: .only, of: user, completion)
  }

  /// The same, of a lock of that shard.
  func foreignValue(
    of name: LockName, in shard: ShardID, of user: UInt32?, _ completion: @escaping StoreCompletion<ForeignValue?>
  ) {
    query(encoders[shard].value(of: name), of: user) {
      completion(StoreAnswer($0) { .some($0.bytes.map(LeaseReplyDecoder.foreignValue)) })
    }
  }

  func takeAway(
    _ name: LockName, seen: [[UInt8]], token: Token?, terms: GrantTerms, of user: UInt32?,
    _ completion: @escaping StoreCompletion<[TakenLease]>
  ) {
    takeAway(name, in: .only, seen: seen, token: token, terms: terms, of: user, completion)
  }

  /// The same, from a lock of that shard.
  func takeAway(
    _ name: LockName, in shard: ShardID, seen: [[UInt8]], token: Token?, terms: GrantTerms, of user: UInt32?,
    _ completion: @escaping StoreCompletion<[TakenLease]>
  ) {
    query(encoders[shard].takeAway(name, seen: seen, token: token, terms: terms), of: user) { reply in
      completion(StoreAnswer(reply) { LeaseReplyDecoder.taken($0) })
    }
  }

  func call(_ payload: [UInt8], id: UInt64, inbox: String, _ completion: @escaping (Int64?) -> Void) {
    query(encoders[.only].call(payload, id: id, inbox: inbox)) { completion($0?.integer) }
  }

  func answer(_ payload: [UInt8], id: UInt64, inbox: String) {
    answer(payload, id: id, inbox: inbox) { _ in }
  }

  /// The same; the completion is told how many were there to hear it.
  func answer(_ payload: [UInt8], id: UInt64, inbox: String, _ completion: @escaping (Int64?) -> Void) {
    query(encoders[.only].answer(payload, id: id, inbox: inbox)) { completion($0?.integer) }
  }

  func ping(_ completion: @escaping (_ isAnswered: Bool) -> Void) {
    query(.plain([Array("PING".utf8)])) { completion($0 != nil) }
  }
}

extension StoreAnswer {
  /// What `reply` says; `decode` gives nil for what is not understood.
  fileprivate init(_ reply: RESPValue?, _ decode: (RESPValue) -> Answer?) {
    guard let reply else {
      self = .none
      return
    }
    if let error = reply.error {
      let words = RedisErrorReply.words(of: error)
      switch LeaseFailure(error: error) {
      case .wrongType(let other): self = .wrongType(other, words)
      case .transient, .fatal: self = .refused(words)
      }
    } else {
      self = decode(reply).map { .answer($0) } ?? .senseless
    }
  }
}
