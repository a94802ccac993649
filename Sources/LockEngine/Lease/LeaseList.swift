/// The leases of one lock, oldest first. There can be very many locks, and nearly all of them have one: it stands in the
/// list itself.
struct LeaseList: RandomAccessCollection {
  private var oldest: HostLease?
  private var others: [HostLease] = []

  var startIndex: Int { 0 }
  var endIndex: Int { oldest == nil ? 0 : 1 + others.count }

  // What a Collection has of itself takes more steps.
  var isEmpty: Bool { oldest == nil }
  var first: HostLease? { oldest }
  var last: HostLease? { others.last ?? oldest }

  func contains(where isWanted: (HostLease) -> Bool) -> Bool {
    guard let oldest else { return false }
    return isWanted(oldest) || others.contains(where: isWanted)
  }

  func makeIterator() -> Iterator { Iterator(oldest: oldest, others: others.makeIterator()) }

  struct Iterator: IteratorProtocol {
    fileprivate var oldest: HostLease?
    fileprivate var others: IndexingIterator<[HostLease]>

    mutating func next() -> HostLease? {
      guard let lease = oldest else { return others.next() }
      oldest = nil
      return lease
    }
  }

  subscript(place: Int) -> HostLease {
    if place > 0 { return others[place - 1] }
    guard let oldest else { preconditionFailure("no lease stands at \(place)") }
    return oldest
  }

  mutating func append(_ lease: HostLease) {
    if oldest == nil { oldest = lease } else { others.append(lease) }
  }

  /// Takes `lease` out, if it is here.
  mutating func remove(_ lease: HostLease) {
    if oldest === lease {
      oldest = others.isEmpty ? nil : others.removeFirst()
    } else {
      others.removeAll { $0 === lease }
    }
    // An emptied array would keep its memory.
    if others.isEmpty { others = [] }
  }
}
