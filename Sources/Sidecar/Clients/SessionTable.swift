import LockTypes

/// The sessions of the clients that are connected.
final class SessionTable {
  private var sessions: [SessionID: ClientSession] = [:]
  /// In the order of their numbers, with some that are gone.
  private var order: [SessionID] = []
  /// The number of the last one; none is used twice.
  var last: UInt64 = 0

  var count: Int { sessions.count }
  var values: Dictionary<SessionID, ClientSession>.Values { sessions.values }

  subscript(id: SessionID) -> ClientSession? { sessions[id] }

  func add(_ session: ClientSession) {
    sessions[session.id] = session
    // Those that a daemon takes over may come in any order.
    order.insert(session.id, at: session.id.rawValue > last ? order.count : place(behind: session.id.rawValue))
    last = max(last, session.id.rawValue)
  }

  /// - Returns: whether it was there.
  func remove(_ session: ClientSession) -> Bool {
    guard sessions.removeValue(forKey: session.id) != nil else { return false }
    if order.count > 2 * sessions.count + 16 { order.removeAll { sessions[$0] == nil } }
    return true
  }

  /// The next sessions behind a number, in the order of their numbers, among the next `count` that there were.
  ///
  /// - Returns: also the number of the last one that was looked at; nil: there are no more.
  func next(_ count: Int, behind number: UInt64) -> (sessions: [ClientSession], last: UInt64?) {
    let rest = order[place(behind: number)...]
    let looked = rest.prefix(count)
    return (looked.compactMap { sessions[$0] }, looked.count < rest.count ? looked.last?.rawValue : nil)
  }

  private func place(behind number: UInt64) -> Int {
    var (low, high) = (0, order.count)
    while low < high {
      let middle = (low + high) / 2
      if order[middle].rawValue <= number { low = middle + 1 } else { high = middle }
    }
    return low
  }

  /// Whether the session is still connected.
  func has(_ session: ClientSession) -> Bool { sessions[session.id] === session }
}
