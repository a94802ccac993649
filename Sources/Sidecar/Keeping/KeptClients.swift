import LockTypes

/// The clients that are kept, and who has to make room for whom.
struct KeptClients {
  /// How long until an idle client is looked for again, in milliseconds, when there was none.
  private static let searchPauseMilliseconds: Int64 = 1000

  /// How many there may be.
  private let countMax: Int
  private(set) var all: [SessionID: ClientSession] = [:]
  /// How many of them each user has.
  private var counts: [UInt32?: Int] = [:]
  private var nextSearch = BootInstant(nanoseconds: 0)
  /// Clients that are dropped in one turn because they have nothing to lose, and those that are left of the last sweep.
  private static let idleInTurn = 64
  private var idle: [ClientSession] = []
  /// Those of whose holds not all are written down.
  private(set) var beginning: [ClientSession] = []

  init(countMax: Int) { self.countMax = countMax }

  var count: Int { all.count }
  var isEmpty: Bool { all.isEmpty }
  /// Whether one more fits without displacing another.
  var hasRoom: Bool { all.count < countMax }

  subscript(id: SessionID) -> ClientSession? { all[id] }

  mutating func add(_ session: ClientSession) {
    guard all.updateValue(session, forKey: session.id) == nil else { return }
    counts[session.peer?.uid, default: 0] += 1
  }

  mutating func drop(_ session: ClientSession) {
    session.keeping.isBeginning = false
    guard all.removeValue(forKey: session.id) != nil else { return }
    let uid = session.peer?.uid
    if let count = counts[uid] { counts[uid] = count > 1 ? count - 1 : nil }
  }

  /// A client has a place from now on; it is kept once all that it holds is written down.
  mutating func begin(_ session: ClientSession) {
    session.keeping.isBeginning = true
    beginning.append(session)
    add(session)
  }

  /// The clients of which all is written down since the last time.
  mutating func begun(isBeingNoted: (SessionID) -> Bool) -> [ClientSession] {
    if beginning.isEmpty { return [] }
    let begun = beginning.filter { $0.keeping.isBeginning && !isBeingNoted($0.id) }
    for session in begun { session.keeping.isBeginning = false }
    beginning.removeAll { !$0.keeping.isBeginning }
    return begun
  }

  /// The next clients that have had nothing to lose since the last sweep; a new sweep begins when the last one is over.
  mutating func nextIdle(isIdle: (SessionID) -> Bool) -> [ClientSession] {
    if idle.isEmpty {
      for session in all.values {
        if !session.keeping.hadWork, isIdle(session.id) { idle.append(session) }
        session.keeping.hadWork = false
      }
    }
    let next = idle.suffix(Self.idleInTurn)
    idle.removeLast(next.count)
    return next.filter { all[$0.id] === $0 && !$0.keeping.hadWork && isIdle($0.id) }
  }

  /// Whether the sweep goes on.
  var isSweeping: Bool { !idle.isEmpty }

  /// The client that gives its place to a session; nil: none. Users have equal shares of the places: the user with the
  /// most gives one to a user with fewer; if nobody has more, a client with nothing to lose gives its own.
  mutating func makingRoom(
    for session: ClientSession, now: BootInstant, isIdle: (SessionID) -> Bool
  ) -> ClientSession? {
    if let (uid, most) = counts.max(by: { $0.value < $1.value }), most > (counts[session.peer?.uid] ?? 0) + 1,
      let other = all.values.first(where: { $0.peer?.uid == uid })
    {
      return other
    }
    guard now >= nextSearch else { return nil }
    if let idle = all.values.first(where: { !$0.keeping.hadWork && isIdle($0.id) }) { return idle }
    nextSearch = now.adding(milliseconds: Self.searchPauseMilliseconds)
    return nil
  }
}
