import LockTypes

/// The sessions of the clients that are connected.
final class SessionTable {
  private var sessions: [SessionID: ClientSession] = [:]
  /// The number of the last one; none is used twice.
  var last: UInt64 = 0

  var count: Int { sessions.count }
  var values: Dictionary<SessionID, ClientSession>.Values { sessions.values }

  subscript(id: SessionID) -> ClientSession? { sessions[id] }

  func add(_ session: ClientSession) {
    sessions[session.id] = session
    last = max(last, session.id.rawValue)
  }

  /// - Returns: whether it was there.
  func remove(_ session: ClientSession) -> Bool { sessions.removeValue(forKey: session.id) != nil }

  /// Whether the session is still connected.
  func has(_ session: ClientSession) -> Bool { sessions[session.id] === session }
}
