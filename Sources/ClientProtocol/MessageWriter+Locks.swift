// Locks as they are shown.

public import LockTypes

extension MessageWriter {
  /// Bytes reserved for the end of a page of `list`: its cursor with every byte escaped, and the brackets.
  private static let listEndBytesMax = Limits.cursorBytesMax * 6 + 64
  /// Bytes reserved for the brackets that end a lock and its line.
  private static let lineEndBytesMax = 16
  /// Bytes of a line that the holders of one lock may take.
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

  /// Begins the answer to `list`, or to another method that tells `items` page by page: an entry for each and
  /// ``endList(cursor:)`` are to follow.
  public mutating func beginList(id: MessageID, of items: StaticString = "locks") {
    beginSuccess(id: id)
    json.beginObject()
    json.key(items)
    json.beginArray()
  }

  /// Adds a lock, without its waiters, to the page. Returns false and adds nothing when the page has no room; an empty
  /// page always has.
  public mutating func listEntry(_ lock: LockInfo) -> Bool {
    entry { Self.writeMembers(of: lock, to: &$0) }
  }

  /// Adds a client to the page, with what it has; see ``listEntry(_:)``.
  public mutating func clientEntry(_ session: SessionInfo, holdCount: Int64, waitCount: Int64) -> Bool {
    entry { json in
      Self.write(session, to: &json)
      json.member("holds", holdCount)
      json.member("waits", waitCount)
    }
  }

  /// Adds a host to the page; see ``listEntry(_:)``. `isOwn`: it is the one that answers.
  public mutating func hostEntry(_ host: String, instance: String, version: String?, isOwn: Bool) -> Bool {
    entry { json in
      json.member("host", host)
      json.member("instance", instance)
      Self.text("version", version, bytesMax: Limits.clientTextBytesMax, to: &json)
      json.member("own", isOwn)
    }
  }

  private mutating func entry(_ body: (inout JSONWriter) -> Void) -> Bool {
    let mark = json.mark
    json.object(body)
    if lineCount <= Limits.lineBytesMax - Self.listEndBytesMax { return true }
    json.rewind(to: mark)
    return false
  }

  /// Ends the page. `cursor`: at most ``Limits/cursorBytesMax`` bytes; nil, told as null, on the last page.
  public mutating func endList(cursor: String?) {
    json.endArray()
    json.key("cursor")
    if let cursor { json.value(cursor) } else { json.null() }
    json.endObject()
    endMessage()
  }

  /// Writes `holders`, as many as fit, as a member of the open object.
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
    json.member("name", utf8: lock.name.bytes)
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

  static func write(_ holder: HolderInfo, to json: inout JSONWriter) {
    switch holder {
    case .session(let session, let mode, let owner, let meta, let token, let count, let held):
      write(session, to: &json)
      if let mode { write(mode, to: &json) }
      text("owner", owner, to: &json)
      text("meta", meta, bytesMax: Limits.metaBytesMax, to: &json)
      json.member("token", token)
      integer("count", count, to: &json)
      integer("held_ms", held, to: &json)
    case .host(let name, let isDead):
      text("host", name, to: &json)
      if isDead { json.member("dead", true) }
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
  static func write(_ mode: HoldMode, to json: inout JSONWriter) {
    switch mode {
    case .exclusive: json.member("mode", literal: "exclusive")
    case .shared: json.member("mode", literal: "shared")
    case .permit(let capacity):
      json.member("mode", literal: "permit")
      json.member("permits", capacity)
    }
  }

  /// Writes `held`, the mode in which a name is in use, as a member of the open object.
  public static func writeHeld(_ mode: HoldMode, to json: inout JSONWriter) {
    json.object("held") { json in
      switch mode {
      case .exclusive: json.member("mode", literal: "exclusive")
      case .shared: json.member("mode", literal: "shared")
      case .permit(let capacity): json.member("permits", capacity)
      }
    }
  }

  /// Writes `cycle`, the waits of a deadlock, as many as fit, as a member of the open object.
  public static func writeCycle(_ cycle: [DeadlockInfo], to json: inout JSONWriter) {
    json.key("cycle")
    json.beginArray()
    let start = json.count
    for step in cycle {
      let mark = json.mark
      json.object { json in
        if let session = step.session { write(session, to: &json) }
        text("owner", step.owner, to: &json)
        if let waitsFor = step.waitsFor { json.member("waits_for", utf8: waitsFor.bytes) }
        json.array("held") { json in
          if let held = step.held { json.value(utf8: held.bytes) }
        }
      }
      if json.count - start > holdersBytesMax {
        json.rewind(to: mark)
        break
      }
    }
    json.endArray()
  }

  static func write(_ session: SessionInfo, to json: inout JSONWriter) {
    text("host", session.host, to: &json)
    text("session", session.session, to: &json)
    writePeer(of: session, to: &json)
  }

  /// Writes what is known of the process that opened a session.
  static func writePeer(of session: SessionInfo, to json: inout JSONWriter) {
    integer("pid", session.pid, to: &json)
    integer("uid", session.uid, to: &json)
    text("command", session.command, to: &json)
    text("unit", session.unit, to: &json)
    text("client", session.client, to: &json)
  }

  /// Writes text that may have no limit of its own (a command line, a unit), cut to `bytesMax`.
  static func text(
    _ key: StaticString, _ text: String?, bytesMax: Int = Limits.shownTextBytesMax, to json: inout JSONWriter
  ) {
    if let text { json.member(key, text.cut(toBytes: bytesMax)) }
  }

  static func integer(_ key: StaticString, _ number: Int64?, to json: inout JSONWriter) {
    if let number { json.member(key, number) }
  }
}
