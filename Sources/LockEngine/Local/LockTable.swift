import LockTypes

/// The locks of which something is known: by name, in the order of their names, and in the order in which they came to be.
struct LockTable {
  private var byName = NameTable<LockRecord>()
  /// The same names, in their order.
  private(set) var names = NameIndex()
  /// The same locks, in the order in which they came to be.
  var all = LockList()
  private var lastSerial: UInt64 = 0

  var isEmpty: Bool { byName.isEmpty }
  var count: Int { byName.count }

  subscript(name: LockName) -> LockRecord? { byName[name] }

  /// The record of a lock; `change` is the last one of its link.
  mutating func record(
    for name: LockName, change: LinkNumber, changes: StateChanges?, tally: RecordTally
  ) -> LockRecord {
    if let lock = byName[name] { return lock }
    let lock = makeRecord(name, change, changes, tally)
    byName[name] = lock
    names.insert(name)
    all.append(lock)
    return lock
  }

  /// The records of these locks, of which there may be very many. There was none before.
  mutating func records(
    for wanted: some Sequence<LockName>, change: LinkNumber, changes: StateChanges?, tally: RecordTally
  ) -> [LockRecord] {
    var found: [LockRecord] = []
    var made: [LockName] = []
    for name in wanted {
      let lock = makeRecord(name, change, changes, tally)
      if let known = byName.updateValue(lock, forKey: name) {
        byName[name] = known
        found.append(known)
      } else {
        all.append(lock)
        found.append(lock)
        made.append(name)
      }
    }
    names = NameIndex(made)
    return found
  }

  private mutating func makeRecord(
    _ name: LockName, _ change: LinkNumber, _ changes: StateChanges?, _ tally: RecordTally
  ) -> LockRecord {
    lastSerial += 1
    return LockRecord(name: name, serial: lastSerial, linkChange: change, changes: changes, tally: tally)
  }

  /// Forgets a lock, if it is here.
  mutating func remove(_ lock: LockRecord) {
    guard byName[lock.name] === lock else { return }
    byName[lock.name] = nil
    names.remove(lock.name)
    all.remove(lock)
  }
}
