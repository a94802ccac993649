import LockEngine
import LockTypes

// What replicas have when a client is told.
extension Checker {
  /// A client is told of a grant that needs replicas: they have a lease of each of its locks, unless Redis does not have it
  /// itself any more.
  func verifyTold(_ host: SimulatedHost, _ wish: Wish) {
    guard !wish.need.isNone else { return }
    world.mark("told when replicas had it")
    // What is unsafe may have taken the lease, and left another permit of the host's.
    for name in wish.names where world.now >= lossUntil[name] && host.replicas.hasAcknowledged(name, wish.need) == false
    {
      world.fail("host \(host.index) tells of \(names[name]), which \(wish.need) have not acknowledged")
    }
  }
}
