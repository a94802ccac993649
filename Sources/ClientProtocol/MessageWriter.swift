public import LockTypes

/// Writes the daemon's messages, one a line, into a reused buffer.
///
/// The caller takes ``bytes`` and calls ``removeAll()``. A reply of a fixed form stays within ``Limits/lineBytesMax``
/// bytes. A caller that adds lists (holders, waiters, locks, figures) watches ``lineCount``, or uses ``listEntry(_:)``
/// and ``inspected(id:_:)``, which do.
public struct MessageWriter: Sendable {
  /// The JSON under the messages.
  public internal(set) var json: JSONWriter
  /// The start of the line that is being written, or was written last.
  private var lineStart = 0

  /// A writer with room for `capacity` bytes.
  public init(capacity: Int = 4_096) {
    json = JSONWriter(capacity: capacity)
  }

  /// The lines written so far.
  public var bytes: [UInt8] { json.bytes }
  /// Bytes of all lines so far.
  public var count: Int { json.count }
  /// Bytes of the line that is being written, or was written last.
  public var lineCount: Int { json.count - lineStart }

  /// Forgets what was written and keeps the memory.
  public mutating func removeAll() {
    json.removeAll()
    lineStart = 0
  }

  // MARK: The envelope

  /// Writes the reply to a request that succeeded; `body` writes the one value that is the result.
  @inlinable
  public mutating func success(id: MessageID, _ body: (inout JSONWriter) -> Void) {
    beginSuccess(id: id)
    withJSON(body)
    endMessage()
  }

  /// Writes the reply to a request that failed; `body` writes further members of the error's `data`.
  ///
  /// `id` nil: it could not be read. `message` nil: the error's own.
  @inlinable
  public mutating func failure(
    id: MessageID?, _ code: ErrorCode, message: String? = nil, _ body: (inout JSONWriter) -> Void = { _ in }
  ) {
    beginFailure(id: id, code, message: message)
    withJSON(body)
    endFailure()
  }

  /// Writes a notification; `body` writes the members of its params.
  @inlinable
  public mutating func notification(_ method: StaticString, _ body: (inout JSONWriter) -> Void = { _ in }) {
    beginNotification(method)
    withJSON(body)
    endNotification()
  }

  /// Writes a refusal of a line.
  public mutating func refusal(_ refusal: RequestRefusal) {
    failure(id: refusal.id, refusal.code, message: refusal.message) { json in
      for detail in refusal.details {
        json.key(detail.key)
        switch detail.value {
        case .text(let text): json.value(text)
        case .texts(let texts): json.array { for text in texts { $0.value(text) } }
        case .integer(let number): json.value(number)
        }
      }
    }
  }

  @usableFromInline
  mutating func withJSON(_ body: (inout JSONWriter) -> Void) {
    body(&json)
  }

  @usableFromInline
  mutating func beginSuccess(id: MessageID) {
    beginReply(id)
    json.key("result")
  }

  @usableFromInline
  mutating func beginFailure(id: MessageID?, _ code: ErrorCode, message: String?) {
    beginReply(id)
    json.key("error")
    json.beginObject()
    json.member("code", Int64(code.rawValue))
    json.key("message")
    if let message { json.value(message) } else { json.value(escaping: code.defaultMessage) }
    json.key("data")
    json.beginObject()
    json.member("reason", literal: code.reason)
  }

  @usableFromInline
  mutating func endFailure() {
    json.endObject()
    json.endObject()
    endMessage()
  }

  @usableFromInline
  mutating func beginNotification(_ method: StaticString) {
    lineStart = json.count
    json.beginLine("{\"jsonrpc\":\"2.0\",\"method\":")
    json.value(literal: method)
    json.key("params")
    json.beginObject()
  }

  @usableFromInline
  mutating func endNotification() {
    json.endObject()
    endMessage()
  }

  @usableFromInline
  mutating func endMessage() {
    json.endObject()
    json.endLine()
  }

  private mutating func beginReply(_ id: MessageID?) {
    lineStart = json.count
    json.beginLine("{\"jsonrpc\":\"2.0\",\"id\":")
    if let id { Self.write(id, to: &json) } else { json.null() }
  }

  private static func write(_ id: MessageID, to json: inout JSONWriter) {
    switch id {
    case .integer(let number): json.value(number)
    case .string(let text): json.value(utf8: text)
    }
  }
}

// MARK: - Replies

extension MessageWriter {
  /// Answers `acquire`: the lock is the client's. `validMilliseconds` nil, told as null: without Redis it does not end
  /// by itself.
  public mutating func acquired(
    id: MessageID, name: LockName, token: Int64, mode: HoldMode = .exclusive, waitedMilliseconds: Int64,
    validMilliseconds: Int64?
  ) {
    success(id: id) { json in
      json.object { json in
        json.member("name", utf8: name.bytes)
        json.member("token", token)
        Self.write(mode, to: &json)
        json.member("waited_ms", waitedMilliseconds)
        json.member("valid_ms", orNull: validMilliseconds)
      }
    }
  }

  /// Answers `acquire` of several locks, in the order in which they were asked for. `validMilliseconds`: the shortest
  /// of all of them.
  public mutating func acquiredSeveral(
    id: MessageID, locks: [GrantedLock], mode: HoldMode, waitedMilliseconds: Int64, validMilliseconds: Int64?
  ) {
    success(id: id) { json in
      json.object { json in
        json.array("locks") { json in
          for lock in locks {
            json.object { json in
              json.member("name", utf8: lock.name.bytes)
              json.member("token", lock.token)
            }
          }
        }
        Self.write(mode, to: &json)
        json.member("waited_ms", waitedMilliseconds)
        json.member("valid_ms", orNull: validMilliseconds)
      }
    }
  }

  /// Answers `release`. `remaining`: holds of the same owner that are left.
  public mutating func released(id: MessageID, name: LockName, token: Int64, remaining: Int64) {
    success(id: id) { json in
      json.object { json in
        json.member("name", utf8: name.bytes)
        json.member("token", token)
        json.member("remaining", remaining)
      }
    }
  }

  /// Answers `extend`. nil, told as null: no limit.
  public mutating func extended(id: MessageID, name: LockName, token: Int64, maxHoldMilliseconds: Int64?) {
    success(id: id) { json in
      json.object { json in
        json.member("name", utf8: name.bytes)
        json.member("token", token)
        json.member("max_hold_ms", orNull: maxHoldMilliseconds)
      }
    }
  }

  /// Answers `downgrade`.
  public mutating func downgraded(id: MessageID, name: LockName, token: Int64) {
    success(id: id) { json in
      json.object { json in
        json.member("name", utf8: name.bytes)
        json.member("token", token)
        Self.write(.shared, to: &json)
      }
    }
  }

  /// Answers `transfer`: the hold is that session's, under a fresh token.
  public mutating func transferred(id: MessageID, name: LockName, token: Int64, session: String) {
    success(id: id) { json in
      json.object { json in
        json.member("name", utf8: name.bytes)
        json.member("token", token)
        json.member("session", session)
      }
    }
  }

  /// Answers `break` with the tokens of the lost holds, and with the holders from whom the lock was taken away unasked;
  /// as many as fit.
  public mutating func broken(id: MessageID, name: LockName, tokens: [Int64], taken: [TakenInfo] = []) {
    success(id: id) { json in
      json.object { json in
        json.member("name", utf8: name.bytes)
        json.array("broken") { json in
          for token in tokens.prefix(Limits.toldTokensMax) { json.value(token) }
        }
        json.array("taken") { json in
          for one in taken.prefix(Limits.toldTakenMax) {
            json.object { json in
              if let host = one.host { json.member("host", host) } else { json.member("foreign", true) }
              json.member("reason", one.reason.rawValue)
              json.member("might_run_ms", orNull: one.mightRunMilliseconds)
            }
          }
        }
      }
    }
  }

  /// Answers `watch` with the number of the watch.
  public mutating func watching(id: MessageID, watch: Int64) {
    success(id: id) { $0.object { $0.member("watch", watch) } }
  }

  /// Answers a request that was carried out and has no result.
  public mutating func done(id: MessageID) {
    success(id: id) { $0.object { _ in } }
  }

  /// Answers `cancel`: whether there was such a request, still waiting.
  public mutating func cancelled(id: MessageID, _ cancelled: Bool) {
    success(id: id) { $0.object { $0.member("cancelled", cancelled) } }
  }

  /// Answers `ping`. `validMilliseconds`: for how long everything that the session holds is safe; nil, which is left
  /// out, when nothing of it ends by itself.
  public mutating func pong(id: MessageID, validMilliseconds: Int64? = nil) {
    guard let validMilliseconds else { return done(id: id) }
    success(id: id) { json in
      json.object { $0.member("valid_ms", validMilliseconds) }
    }
  }

  /// Answers `rpc.discover` with the OpenRPC document, which is JSON without line feeds.
  public mutating func discovered(id: MessageID, document: [UInt8]) {
    success(id: id) { $0.raw(document) }
  }

  /// Answers `initialize`.
  public mutating func initialized(id: MessageID, _ server: ServerInfo) {
    success(id: id) { json in
      json.object { json in
        json.member("protocol", Limits.protocolVersion)
        json.object("server") { json in
          json.member("name", literal: "sidelock")
          json.member("version", server.version)
        }
        json.member("instance", server.instance)
        json.member("session", server.session)
        json.member("host", server.host)
        json.member("backend", server.backend.rawValue)
        json.member("lease_ms", orNull: server.leaseMilliseconds)
        json.object("limits") { json in
          for (name, limit) in Limits.told {
            // The only one that is a setting of the daemon.
            let isSetting = name.utf8Start == Limits.requestsInFlightName.utf8Start
            json.member(name, isSetting ? server.requestsInFlightMax : limit)
          }
        }
      }
    }
  }

  /// Answers `stats`.
  public mutating func stats(id: MessageID, _ stats: [Stat]) {
    success(id: id) { Self.write(stats, to: &$0) }
  }

  private static func write(_ stats: [Stat], to json: inout JSONWriter) {
    json.beginObject()
    for stat in stats {
      json.key(stat.name)
      switch stat.value {
      case .integer(let number): json.value(number)
      case .text(let text): json.value(text)
      case .flag(let flag): json.value(flag)
      case .group(let group): write(group, to: &json)
      }
    }
    json.endObject()
  }
}

// MARK: - Notifications

extension MessageWriter {
  /// Tells that a hold is lost. `reason`: `lease_expired`, `broken`, `max_hold`, `data_loss`, `half_closed` or
  /// `shutdown`; `graceMilliseconds`: how long from now until another could be granted the lock; `detail`: with
  /// `broken`, the administrator's words.
  public mutating func lost(
    name: LockName, token: Int64, reason: LostReason, graceMilliseconds: Int64, detail: String? = nil,
    isEnforced: Bool = true
  ) {
    notification("lost") { json in
      json.member("name", utf8: name.bytes)
      json.member("token", token)
      json.member("reason", reason.rawValue)
      json.member("grace_ms", graceMilliseconds)
      Self.text("detail", detail, bytesMax: Limits.breakReasonBytesMax, to: &json)
      if !isEnforced { json.member("enforced", false) }
    }
  }

  /// Tells that the request `id` waits, at `position`, from 1 on, in this host's queue. `detail`: what is wrong with
  /// Redis, if that is why it waits; `retryMilliseconds`: for how long at least.
  public mutating func waiting(
    id: MessageID, name: LockName, position: Int64, holders: [HolderInfo], detail: String? = nil,
    retryMilliseconds: Int64? = nil
  ) {
    notification("waiting") { json in
      json.key("id")
      Self.write(id, to: &json)
      json.member("name", utf8: name.bytes)
      json.member("position", position)
      Self.writeHolders(holders, to: &json)
      if let detail { json.member("detail", detail) }
      if let retryMilliseconds { json.member("retry_ms", retryMilliseconds) }
    }
  }

  /// Tells a holder how many wait for its lock.
  public mutating func contended(name: LockName, token: Int64, waiters: Int64) {
    notification("contended") { json in
      json.member("name", utf8: name.bytes)
      json.member("token", token)
      json.member("waiters", waiters)
    }
  }

  /// Tells that the session `from` has handed its hold to this one, under this token.
  public mutating func transferred(name: LockName, token: Int64, mode: HoldMode, from: String) {
    notification("transferred") { json in
      json.member("name", utf8: name.bytes)
      json.member("token", token)
      Self.write(mode, to: &json)
      json.member("from", from)
    }
  }

  /// Tells the watch of that number what happened to a lock. `by`: the session that it happened to, where that is one of
  /// this host; `host`: where, for a watch of all hosts; `ageMilliseconds`: how long ago, for what happened on another one.
  public mutating func event(
    watch: Int64, name: LockName, _ event: LockEvent, by session: SessionInfo? = nil, on host: String? = nil,
    ageMilliseconds: Int64? = nil
  ) {
    notification("event") { json in
      json.member("watch", watch)
      switch event {
      case .acquired(let session, let token, let mode):
        Self.write("acquired", name, session, to: &json)
        json.member("token", token)
        Self.write(mode, to: &json)
      case .released(let session, let token):
        Self.write("released", name, session, to: &json)
        json.member("token", token)
      case .lost(let session, let token, let reason):
        Self.write("lost", name, session, to: &json)
        json.member("token", token)
        json.member("reason", reason.rawValue)
      case .waiting(let session, let waiters):
        Self.write("waiting", name, session, to: &json)
        json.member("waiters", Int64(waiters))
      case .gaveUp(let session, let waiters):
        Self.write("gave_up", name, session, to: &json)
        json.member("waiters", Int64(waiters))
      case .remote(let host):
        Self.write("remote", name, nil, to: &json)
        Self.text("host", host, to: &json)
      }
      if let session { Self.writePeer(of: session, to: &json) }
      if let host { Self.text("host", host, to: &json) }
      if let ageMilliseconds { json.member("age_ms", ageMilliseconds) }
    }
  }

  private static func write(_ kind: StaticString, _ name: LockName, _ session: SessionID?, to json: inout JSONWriter) {
    json.member("kind", literal: kind)
    json.member("name", utf8: name.bytes)
    if let session { json.member("session", "\(session.rawValue)") }
  }

  /// Tells whether Redis can be reached. `retryMilliseconds`: how long it grants nothing.
  public mutating func backend(_ state: BackendState, retryMilliseconds: Int64? = nil) {
    notification("backend") { json in
      json.member("state", state.rawValue)
      if let retryMilliseconds { json.member("retry_ms", retryMilliseconds) }
    }
  }

  /// Tells how many notifications were left out while the session did not read, or how many events of `host` did not
  /// come from there.
  public mutating func missed(count: Int64, of host: String? = nil) {
    notification("missed") { json in
      json.member("count", count)
      if let host { Self.text("host", host, to: &json) }
    }
  }

  /// Tells whether a host is heard that is watched from here.
  public mutating func host(_ host: String, _ state: HeardState) {
    notification("host") { json in
      Self.text("host", host, to: &json)
      json.member("state", state.rawValue)
    }
  }

  /// Tells that the daemon stops: it grants nothing more, and holders should finish.
  public mutating func draining() {
    notification("draining")
  }
}

extension String {
  /// The text, or its beginning and `…`: at most `count` bytes of UTF-8, cut between characters.
  func cut(toBytes count: Int) -> String {
    if utf8.count <= count { return self }
    var end = utf8.index(startIndex, offsetBy: count)
    while end > startIndex, utf8[end] & 0xC0 == 0x80 { end = utf8.index(before: end) }
    return String(self[..<end]) + "…"
  }
}
