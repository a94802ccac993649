import LockTypes

/// The lock records: by name, and in the order of names. Those of one home, in the order in which they were made, are in its
/// ``StoreLink``.
struct LockTable {
  private var byName = NameTable<LockRecord>()
  /// The same names, sorted.
  private(set) var names = NameIndex()
  private var lastSerial: UInt64 = 0

  var isEmpty: Bool { byName.isEmpty }
  var count: Int { byName.count }

  subscript(name: LockName) -> LockRecord? { byName[name] }

  /// The record of a lock, made if there is none; `link`: to its home then.
  mutating func record(
    for name: LockName, at link: LinkReference, changes: StateChanges?, tally: RecordTally
  ) -> LockRecord {
    if let lock = byName[name] { return lock }
    let lock = makeRecord(name, link, changes, tally)
    byName[name] = lock
    names.insert(name)
    link.pointee.locks.append(lock)
    return lock
  }

  /// The records of these locks, which may be very many, for a table that was empty.
  mutating func records(
    for wanted: some Sequence<(name: LockName, link: LinkReference)>, changes: StateChanges?, tally: RecordTally
  ) -> [LockRecord] {
    var found: [LockRecord] = []
    var made: [LockName] = []
    for (name, link) in wanted {
      let lock = makeRecord(name, link, changes, tally)
      if let known = byName.updateValue(lock, forKey: name) {
        byName[name] = known
        found.append(known)
      } else {
        link.pointee.locks.append(lock)
        found.append(lock)
        made.append(name)
      }
    }
    names = NameIndex(made)
    return found
  }

  private mutating func makeRecord(
    _ name: LockName, _ link: LinkReference, _ changes: StateChanges?, _ tally: RecordTally
  ) -> LockRecord {
    lastSerial += 1
    return LockRecord(name: name, serial: lastSerial, link: link, changes: changes, tally: tally)
  }

  /// Forgets a lock, if it is here.
  mutating func remove(_ lock: LockRecord) {
    guard byName[lock.name] === lock else { return }
    byName[lock.name] = nil
    names.remove(lock.name)
    lock.link.pointee.locks.remove(lock)
  }
}
