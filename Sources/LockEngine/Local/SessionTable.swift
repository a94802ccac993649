import LockTypes

/// Sessions that are open or being closed, and their users.
struct SessionTable {
  private var records: [SessionID: SessionRecord] = [:]
  private var users: [UInt32: UserRecord] = [:]
  /// Holds and waits of all sessions.
  var heldCount = 0
  var waitingCount = 0

  var count: Int { records.count }
  /// All of them, in no order.
  var all: some Sequence<SessionRecord> { records.values }

  subscript(session: SessionID) -> SessionRecord? { records[session] }

  func user(_ uid: UInt32) -> UserRecord? { users[uid] }

  mutating func open(_ session: SessionID, uid: UInt32?, tally: RecordTally) {
    var user: UserRecord?
    if let uid {
      let record = users[uid] ?? UserRecord()
      record.sessions += 1
      users[uid] = record
      user = record
    }
    records[session] = SessionRecord(id: session, uid: uid, user: user, tally: tally)
  }

  /// Forgets a session that has nothing left.
  mutating func remove(_ record: SessionRecord) {
    records[record.id] = nil
    record.forgetLosses()
    if let uid = record.uid, let user = record.user {
      user.sessions -= 1
      if user.sessions == 0 { users[uid] = nil }
    }
  }
}
