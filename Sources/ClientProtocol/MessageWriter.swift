/// Writes the daemon's messages, each a whole line, one behind the other, into memory that is used again.
///
/// The caller takes ``bytes`` and calls ``removeAll()``. A single line stays within ``Limits/lineBytesMax`` bytes for
/// all replies of a fixed form; where the caller adds as much as it likes (holders, waiters, locks, figures), it watches
/// ``lineCount`` or uses ``listEntry(_:)`` and ``inspected(id:_:)``, which see to it.
public struct MessageWriter: Sendable {
  /// The JSON under the messages.
  public private(set) var json: JSONWriter
  /// Where the line begins that is being written, or was written last.
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

  /// Writes the reply to a request that had success; `body` writes the one value that is the result.
  @inlinable
  public mutating func success(id: MessageID, _ body: (inout JSONWriter) -> Void) {
    beginSuccess(id: id)
    withJSON(body)
    endMessage()
  }

  /// Writes the reply to a request that had none; `body` writes further members of the error's `data`.
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
    id: MessageID, name: [UInt8], token: Int64, mode: ModeInfo = .exclusive, waitedMilliseconds: Int64,
    validMilliseconds: Int64?
  ) {
    success(id: id) { json in
      json.object { json in
        json.member("name", utf8: name)
        json.member("token", token)
        Self.write(mode, to: &json)
        json.member("waited_ms", waitedMilliseconds)
        json.member("valid_ms", orNull: validMilliseconds)
      }
    }
  }

  /// Answers `acquire` of several locks, which are in the order in which they were asked for. `validMilliseconds`: of
  /// the one that is safe for the shortest time.
  public mutating func acquiredSeveral(
    id: MessageID, locks: [GrantInfo], mode: ModeInfo, waitedMilliseconds: Int64, validMilliseconds: Int64?
  ) {
    success(id: id) { json in
      json.object { json in
        json.array("locks") { json in
          for lock in locks {
            json.object { json in
              json.member("name", utf8: lock.name)
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
  public mutating func released(id: MessageID, name: [UInt8], token: Int64, remaining: Int64) {
    success(id: id) { json in
      json.object { json in
        json.member("name", utf8: name)
        json.member("token", token)
        json.member("remaining", remaining)
      }
    }
  }

  /// Answers `extend`. nil, told as null: no limit.
  public mutating func extended(id: MessageID, name: [UInt8], token: Int64, maxHoldMilliseconds: Int64?) {
    success(id: id) { json in
      json.object { json in
        json.member("name", utf8: name)
        json.member("token", token)
        json.member("max_hold_ms", orNull: maxHoldMilliseconds)
      }
    }
  }

  /// Answers `downgrade`.
  public mutating func downgraded(id: MessageID, name: [UInt8], token: Int64) {
    success(id: id) { json in
      json.object { json in
        json.member("name", utf8: name)
        json.member("token", token)
        Self.write(.shared, to: &json)
      }
    }
  }

  /// Answers `transfer`: the hold is that session's, under a fresh token.
  public mutating func transferred(id: MessageID, name: [UInt8], token: Int64, session: String) {
    success(id: id) { json in
      json.object { json in
        json.member("name", utf8: name)
        json.member("token", token)
        json.member("session", session)
      }
    }
  }

  /// Answers `break` with the tokens of the holds that are no more, and with those from whom the lock was taken unasked; as
  /// many as have room.
  public mutating func broken(id: MessageID, name: [UInt8], tokens: [Int64], taken: [TakenInfo] = []) {
    success(id: id) { json in
      json.object { json in
        json.member("name", utf8: name)
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

  /// Answers what has nothing more to say than that it was done.
  public mutating func done(id: MessageID) {
    success(id: id) { $0.object { _ in } }
  }

  /// Answers `cancel`: whether there was such a request, still waiting.
  public mutating func cancelled(id: MessageID, _ cancelled: Bool) {
    success(id: id) { $0.object { $0.member("cancelled", cancelled) } }
  }

  /// Answers `ping`. `validMilliseconds`: for how long everything that the session holds is safe; nil, which is not told,
  /// when nothing of it ends by itself.
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
            // The one that is a setting of the daemon.
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

// MARK: - Locks

extension MessageWriter {
  /// Room that is kept for the end of a page of `list`: its cursor with every byte escaped, and the brackets.
  private static let listEndBytesMax = Limits.cursorBytesMax * 6 + 64
  /// Room that is kept for the brackets that end a lock and its line.
  private static let lineEndBytesMax = 16
  /// How much of a line the holders of one lock may take.
  private static let holdersBytesMax = Limits.lineBytesMax / 2

  /// Answers `inspect`. Holders and waiters that would make the line too long are left out; `waiting` tells how many
  /// wait.
  public mutating func inspected(id: MessageID, _ lock: LockInfo) {
    beginSuccess(id: id)
    json.beginObject()
    Self.writeMembers(of: lock, to: &json)
    json.key("waiters")
    json.beginArray()
    let local = lock.waiters.prefix(Limits.shownWaitersMax).map { Self.json(of: $0) }
    for waiter in local + lock.toldWaiters.prefix(Limits.shownWaitersMax) {
      let mark = json.mark
      json.raw(waiter)
      if lineCount > Limits.lineBytesMax - Self.lineEndBytesMax {
        json.rewind(to: mark)
        break
      }
    }
    json.endArray()
    json.endObject()
    endMessage()
  }

  /// Begins the answer to `list`: ``listEntry(_:)`` and ``endList(cursor:)`` are to follow.
  public mutating func beginList(id: MessageID) {
    beginSuccess(id: id)
    json.beginObject()
    json.key("locks")
    json.beginArray()
  }

  /// Adds a lock, without its waiters, to the page; false, and nothing is added, when the page has no room for it. An
  /// empty page always has.
  public mutating func listEntry(_ lock: LockInfo) -> Bool {
    let mark = json.mark
    json.object { Self.writeMembers(of: lock, to: &$0) }
    if lineCount <= Limits.lineBytesMax - Self.listEndBytesMax { return true }
    json.rewind(to: mark)
    return false
  }

  /// Ends the page. `cursor` nil, told as null: there are no more; else at most ``Limits/cursorBytesMax`` bytes.
  public mutating func endList(cursor: String?) {
    json.endArray()
    json.key("cursor")
    if let cursor { json.value(cursor) } else { json.null() }
    json.endObject()
    endMessage()
  }

  /// Writes `holders`, as a member of the object that is open; as many as have room.
  public static func writeHolders(_ holders: [HolderInfo], to json: inout JSONWriter) {
    json.key("holders")
    json.beginArray()
    let start = json.count
    for holder in holders {
      let mark = json.mark
      if case .told(let object) = holder { json.raw(object) } else { json.object { Self.write(holder, to: &$0) } }
      if json.count - start > holdersBytesMax {
        json.rewind(to: mark)
        break
      }
    }
    json.endArray()
  }

  private static func writeMembers(of lock: LockInfo, to json: inout JSONWriter) {
    json.member("name", utf8: lock.name)
    if let mode = lock.mode {
      write(mode, to: &json)
    } else {
      json.key("mode")
      json.null()
    }
    writeHolders(lock.holders, to: &json)
    json.member("holding", lock.holdingCount)
    json.member("waiting", lock.waitingCount)
    json.object("lease") { json in
      json.member("state", lock.lease.rawValue)
      json.member("valid_ms", orNull: lock.leaseValidMilliseconds)
    }
  }

  private static func write(_ holder: HolderInfo, to json: inout JSONWriter) {
    switch holder {
    case .session(let session, let mode, let owner, let meta, let token, let count, let held):
      write(session, to: &json)
      if let mode { write(mode, to: &json) }
      text("owner", owner, to: &json)
      text("meta", meta, bytesMax: Limits.metaBytesMax, to: &json)
      json.member("token", token)
      integer("count", count, to: &json)
      integer("held_ms", held, to: &json)
    case .host(let name): text("host", name, to: &json)
    case .told: break
    case .foreign: json.member("foreign", true)
    }
  }

  /// A holder as `inspect` shows it: an object on one line.
  public static func json(of holder: HolderInfo) -> [UInt8] {
    var json = JSONWriter(capacity: 256)
    json.object { write(holder, to: &$0) }
    return Array(json.bytes)
  }

  /// A waiter as `inspect` shows it: an object on one line.
  public static func json(of waiter: WaiterInfo) -> [UInt8] {
    var json = JSONWriter(capacity: 256)
    json.object { write(waiter, to: &$0) }
    return Array(json.bytes)
  }

  private static func write(_ waiter: WaiterInfo, to json: inout JSONWriter) {
    write(waiter.session, to: &json)
    write(waiter.mode, to: &json)
    text("owner", waiter.owner, to: &json)
    text("meta", waiter.meta, bytesMax: Limits.metaBytesMax, to: &json)
    json.member("waited_ms", waiter.waitedMilliseconds)
  }

  /// Writes `mode` and, of a semaphore, `permits`.
  static func write(_ mode: ModeInfo, to json: inout JSONWriter) {
    switch mode {
    case .exclusive: json.member("mode", literal: "exclusive")
    case .shared: json.member("mode", literal: "shared")
    case .permit(let capacity):
      json.member("mode", literal: "permit")
      json.member("permits", capacity)
    }
  }

  /// Writes `held`, the way in which a name is in use, as a member of the object that is open.
  public static func writeHeld(_ mode: ModeInfo, to json: inout JSONWriter) {
    json.object("held") { json in
      switch mode {
      case .exclusive: json.member("mode", literal: "exclusive")
      case .shared: json.member("mode", literal: "shared")
      case .permit(let capacity): json.member("permits", capacity)
      }
    }
  }

  /// Writes `cycle`, the waits of a deadlock, as a member of the object that is open; as many as have room.
  public static func writeCycle(_ cycle: [DeadlockInfo], to json: inout JSONWriter) {
    json.key("cycle")
    json.beginArray()
    let start = json.count
    for step in cycle {
      let mark = json.mark
      json.object { json in
        if let session = step.session { write(session, to: &json) }
        text("owner", step.owner, to: &json)
        if let waitsFor = step.waitsFor { json.member("waits_for", utf8: waitsFor) }
        json.array("held") { json in
          if let held = step.held { json.value(utf8: held) }
        }
      }
      if json.count - start > holdersBytesMax {
        json.rewind(to: mark)
        break
      }
    }
    json.endArray()
  }

  private static func write(_ session: SessionInfo, to json: inout JSONWriter) {
    text("host", session.host, to: &json)
    text("session", session.session, to: &json)
    integer("pid", session.pid, to: &json)
    integer("uid", session.uid, to: &json)
    text("command", session.command, to: &json)
    text("unit", session.unit, to: &json)
  }

  /// Writes text that may have no bound of its own (a command line, a unit), cut to one.
  private static func text(
    _ key: StaticString, _ text: String?, bytesMax: Int = Limits.shownTextBytesMax, to json: inout JSONWriter
  ) {
    if let text { json.member(key, text.cut(toBytes: bytesMax)) }
  }

  private static func integer(_ key: StaticString, _ number: Int64?, to json: inout JSONWriter) {
    if let number { json.member(key, number) }
  }
}

// MARK: - Notifications

extension MessageWriter {
  /// Tells that a hold is no more. `reason`: `lease_expired`, `broken`, `max_hold`, `data_loss`, `half_closed` or `shutdown`;
  /// `graceMilliseconds`: how long from now until another could be granted the lock.
  /// `detail`: the administrator's words where one took it.
  public mutating func lost(
    name: [UInt8], token: Int64, reason: String, graceMilliseconds: Int64, detail: String? = nil,
    isEnforced: Bool = true
  ) {
    notification("lost") { json in
      json.member("name", utf8: name)
      json.member("token", token)
      json.member("reason", reason)
      json.member("grace_ms", graceMilliseconds)
      Self.text("detail", detail, bytesMax: Limits.breakReasonBytesMax, to: &json)
      if !isEnforced { json.member("enforced", false) }
    }
  }

  /// Tells that the request `id` waits, at `position`, from 1 on, in this host's queue.
  public mutating func waiting(id: MessageID, name: [UInt8], position: Int64, holders: [HolderInfo]) {
    notification("waiting") { json in
      json.key("id")
      Self.write(id, to: &json)
      json.member("name", utf8: name)
      json.member("position", position)
      Self.writeHolders(holders, to: &json)
    }
  }

  /// Tells that so many wait for what the client holds.
  public mutating func contended(name: [UInt8], token: Int64, waiters: Int64) {
    notification("contended") { json in
      json.member("name", utf8: name)
      json.member("token", token)
      json.member("waiters", waiters)
    }
  }

  /// Tells that the session `from` has handed its hold to this one, under this token.
  public mutating func transferred(name: [UInt8], token: Int64, mode: ModeInfo, from: String) {
    notification("transferred") { json in
      json.member("name", utf8: name)
      json.member("token", token)
      Self.write(mode, to: &json)
      json.member("from", from)
    }
  }

  /// Tells the watch of that number what happened to a lock.
  public mutating func event(watch: Int64, name: [UInt8], _ event: EventInfo) {
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
        json.member("reason", reason)
      case .waiting(let session, let waiters):
        Self.write("waiting", name, session, to: &json)
        json.member("waiters", waiters)
      case .gaveUp(let session, let waiters):
        Self.write("gave_up", name, session, to: &json)
        json.member("waiters", waiters)
      case .remote(let host):
        Self.write("remote", name, nil, to: &json)
        Self.text("host", host, to: &json)
      }
    }
  }

  private static func write(_ kind: StaticString, _ name: [UInt8], _ session: String?, to json: inout JSONWriter) {
    json.member("kind", literal: kind)
    json.member("name", utf8: name)
    if let session { json.member("session", session) }
  }

  /// Tells whether Redis can be reached.
  public mutating func backend(_ state: BackendStateWord) {
    notification("backend") { $0.member("state", state.rawValue) }
  }

  /// Tells how many notifications were left out while the session did not read.
  public mutating func missed(count: Int64) {
    notification("missed") { $0.member("count", count) }
  }

  /// Tells that the daemon stops: nothing more is granted, what is held should be finished.
  public mutating func draining() {
    notification("draining")
  }
}

extension String {
  /// The beginning of the text, at most `count` bytes of UTF-8 and no part of a character's bytes, and `…`.
  func cut(toBytes count: Int) -> String {
    if utf8.count <= count { return self }
    var end = utf8.index(startIndex, offsetBy: count)
    while end > startIndex, utf8[end] & 0xC0 == 0x80 { end = utf8.index(before: end) }
    return String(self[..<end]) + "…"
  }
}
