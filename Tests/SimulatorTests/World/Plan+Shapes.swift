// Plans for what would otherwise be rare.
extension Plan {
  /// Two hosts that want the same locks, and Redis forgets one just after one of them was given it. What they want of the
  /// other lock shows them soon that it has.
  mutating func losesFreshLeases() {
    (hostCount, clientsPerHost, nameCount, capacities, sharedPercent) = (2, 3, 2, [0, 0], 0)
    (conflictPercent, severalPercent, chainPercent, meddlePercent) = (0, 0, 0, 0)
    (leaseMilliseconds, linkTimeoutMilliseconds, lingerMilliseconds) = (10_000, 2500, 0)
    (chaosMilliseconds, faultEveryMilliseconds, epochEveryMilliseconds) = (50_000, 400, 22_000)
    (latencyMicroseconds, timerLatenessMicroseconds, tryPercent) = (30...100, 0, 0)
    (clientPauseMilliseconds, holdMilliseconds, actsMax) = (20, 300, 2000)
  }

  /// A lock that goes to and fro between hosts, and graces that come to an end.
  mutating func changesHands() {
    (hostCount, nameCount, capacities, sharedPercent) = (3, 1, [0], 0)
    (conflictPercent, severalPercent, chainPercent, meddlePercent) = (0, 0, 0, 0)
    (leaseMilliseconds, linkTimeoutMilliseconds, lingerMilliseconds) = (1000, 200, 0)
    (latencyMicroseconds, windowMax) = (30...300, 1024)
    (chaosMilliseconds, faultEveryMilliseconds, epochEveryMilliseconds) = (12_000, 100, 1500)
    (clientPauseMilliseconds, holdMilliseconds, actsMax) = (20, 300, 2000)
  }
}
