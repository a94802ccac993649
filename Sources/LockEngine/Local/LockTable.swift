import LockTypes

/// The lock records: by name, in the order of names, and in the order in which they were made.
struct LockTable {
  private var byName = NameTable<LockRecord>()
  /// The same names, sorted.
  private(set) var names = NameIndex()
  /// The same locks, oldest first.
  var all = LockList()
  private var lastSerial: UInt64 = 0

  var isEmpty: Bool { byName.isEmpty }
  var count: Int { byName.count }

  subscript(name: LockName) -> LockRecord? { byName[name] }

  /// The record of a lock, made if there is none; `change` is the last one of the link.
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

  /// The records of these locks, which may be very many, for a table that was empty.
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
