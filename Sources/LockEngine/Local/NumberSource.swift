import LockTypes

/// The numbers that an engine gives out, each of them once.
struct NumberSource {
  private(set) var command: UInt64 = 0
  /// Leases, from the first ask to the end.
  private(set) var attempt: UInt64
  /// Asks, counted over all locks: the answer to a try that is gone must not decide the next one.
  private(set) var ask: UInt64 = 0
  /// Searches for deadlocks through other hosts.
  private(set) var probe: UInt64 = 0
  /// Questions for the epoch of the store.
  private(set) var claim: UInt64 = 0
  /// Questions how many replicas have something.
  private(set) var acknowledgement: UInt64 = 0
  /// Waits, in the order in which they began.
  private(set) var arrival: UInt64 = 0
  private(set) var nextLocalToken: Token = 1
  private var lastLocalToken: Token = 0
  /// The highest token of a lease that this host has issued or heard of, of all locks. What the store grants from now on
  /// lies above it, so that tokens go on to rise when the store has lost its counters and its clock is behind.
  private(set) var tokenFloor: Token = 0

  init(_ configuration: EngineConfiguration) {
    attempt = configuration.attemptsBegin
    if case .local(let first, let last) = configuration.tier {
      nextLocalToken = first
      localTokensReserved(through: last)
    }
  }

  mutating func newCommand() -> CommandID {
    command += 1
    return CommandID(command)
  }

  mutating func newAttempt() -> UInt64 {
    attempt += 1
    return attempt
  }

  mutating func newAsk() -> UInt64 {
    ask += 1
    return ask
  }

  mutating func newProbe() -> UInt64 {
    probe += 1
    return probe
  }

  /// Another one than any that this daemon or one before it has used since the host booted: they are not kept, and follow the
  /// clock.
  mutating func newClaim(now: BootInstant) -> UInt64 {
    claim = max(claim + 1, UInt64(max(now.nanoseconds / 1000, 0)))
    return claim
  }

  mutating func newAcknowledgement() -> AcknowledgementID {
    acknowledgement += 1
    return AcknowledgementID(acknowledgement)
  }

  mutating func newArrival() -> UInt64 {
    arrival += 1
    return arrival
  }

  /// A token of the local tier; nil when none is left to give.
  mutating func newLocalToken() -> Token? {
    guard nextLocalToken <= lastLocalToken else { return nil }
    defer { nextLocalToken += 1 }
    return nextLocalToken
  }

  /// An attempt of this host that this engine did not begin.
  mutating func attemptIsUsed(_ other: UInt64) { attempt = max(attempt, other) }

  mutating func localTokenIsUsed(_ token: Token) {
    nextLocalToken = max(nextLocalToken, min(token, LockEngine.tokenMax) + 1)
  }

  /// Tokens of the local tier may be given up to this one.
  mutating func localTokensReserved(through last: Token) { lastLocalToken = min(last, LockEngine.tokenMax) }

  /// Tokens from here on do not raise the floor of all locks. The store counts microseconds since 1970 and comes here in
  /// 2112; a counter that somebody has set higher is the trouble of one lock, and must not become that of all.
  static let tokenFloorEnd: Token = 1 << 52

  /// A token was issued, or is known to have been.
  mutating func tokenIsKnown(_ token: Token) {
    if token > tokenFloor, token < Self.tokenFloorEnd { tokenFloor = token }
  }

  /// Those that must never be used twice, for a successor of this process. A release before has the first four.
  var saved: [UInt64] {
    [attempt, ask, probe, UInt64(bitPattern: nextLocalToken), UInt64(bitPattern: tokenFloor)]
  }

  mutating func restore(_ saved: [UInt64]) {
    guard saved.count >= 4 else { return }
    attempt = max(attempt, min(saved[0], 1 << 62))
    ask = max(ask, min(saved[1], 1 << 62))
    probe = max(probe, min(saved[2], 1 << 62))
    nextLocalToken = max(nextLocalToken, min(Token(bitPattern: saved[3]), LockEngine.tokenMax + 1))
    if saved.count > 4 { tokenIsKnown(Token(bitPattern: saved[4])) }
  }
}
