extension Dictionary {
  /// Gives memory back where little is left of very much: a dictionary does not shrink by itself, and a client that once
  /// had much would leave the room for it behind in each of its sessions. To be called after removals; it takes constant
  /// time on average.
  @inlinable public mutating func shrinkIfSparse() {
    guard capacity > 64, count < capacity / 8 else { return }
    var smaller = Dictionary(minimumCapacity: 2 * count)
    for (key, value) in self { smaller[key] = value }
    self = smaller
  }
}
