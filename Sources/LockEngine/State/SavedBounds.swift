// Bounds on the records of a predecessor. A record may be whole and still make no sense: written by a faulty daemon, or
// damaged before its checksum was made. Restored, it could hang this daemon and every successor, or have a lock held
// for centuries.

import LockTypes

/// The bounds of what the engine keeps of clients and of the store.
private enum Bounds {
  static let nameBytesMax = 512
  static let namesMax = 64
  static let ownerBytesMax = 128
  static let metaBytesMax = 1024
  static let permitsMax: Int64 = 1_000_000
  /// Of waits and holds: a year.
  static let millisecondsMax: Int64 = 31_536_000_000
  /// Of tokens and attempts: what every JSON parser and every script keeps exact.
  static let exactMax: UInt64 = 1 << 53
  /// Of shards: far more than a store has.
  static let shardMax: UInt32 = 4096
  /// Of numbers that are only counted up.
  static let numberMax: UInt64 = 1 << 62
}

private func ensure(_ holds: Bool) throws(StateDamage) {
  guard holds else { throw StateDamage() }
}

private func ensureName(_ name: LockName) throws(StateDamage) {
  try ensure(name.bytes.count <= Bounds.nameBytesMax && name.isText)
}

private func ensureMode(_ mode: HoldMode) throws(StateDamage) {
  switch mode {
  case .exclusive, .shared: break
  case .permit(let capacity): try ensure((1...Bounds.permitsMax).contains(capacity))
  }
}

private func ensureToken(_ token: Token) throws(StateDamage) {
  try ensure(token >= 1 && token < Token(Bounds.exactMax))
}

private func ensureClient(owner: String?, meta: String?) throws(StateDamage) {
  if let owner { try ensure((1...Bounds.ownerBytesMax).contains(owner.utf8.count)) }
  if let meta { try ensure(meta.utf8.count <= Bounds.metaBytesMax) }
}

/// A moment in the past, or at most `milliseconds` ahead.
private func ensureMoment(_ moment: BootInstant?, now: BootInstant, within milliseconds: Int64 = 0) throws(StateDamage)
{
  guard let moment else { return }
  try ensure(moment.nanoseconds >= 0 && moment <= now.adding(milliseconds: milliseconds))
}

private func ensureSpan(_ milliseconds: Int64?) throws(StateDamage) {
  if let milliseconds { try ensure((0...Bounds.millisecondsMax).contains(milliseconds)) }
}

extension SavedLease {
  func check(id: UInt64?, now: BootInstant) throws(StateDamage) {
    try ensure(id.map { $0 == attempt } != false && attempt >= 1 && attempt < Bounds.exactMax)
    try ensureName(name)
    try ensureMode(mode)
    try ensure(LeaseTimeline.millisecondsRange.contains(milliseconds))
    let timeline = LeaseTimeline(leaseMilliseconds: milliseconds)
    try ensureMoment(validUntil, now: now, within: timeline.lostAfterMilliseconds)
    try ensureMoment(graceEnds, now: now, within: timeline.graceEndsAfterMilliseconds)
    try ensureMoment(contendedSince, now: now)
    try ensure(nextToken >= (stage == .wanted ? 0 : 1) && nextToken <= tokenEnd && tokenEnd <= Token(Bounds.exactMax))
    try ensure(shard.rawValue <= Bounds.shardMax)
    try ensure(tokenStart >= (stage == .wanted ? 0 : 1) && tokenStart <= nextToken)
  }
}

extension SavedEpoch {
  func check(now: BootInstant) throws(StateDamage) {
    let milliseconds = 0...EpochSight.millisecondsMax
    try ensure(
      id.isSound && milliseconds.contains(graceMilliseconds) && milliseconds.contains(longestLeaseMilliseconds))
    try ensureMoment(learnedAt, now: now)
    try ensure((0..<NumberSource.tokenFloorEnd).contains(clock.microseconds))
    try ensureMoment(clockSentAt, now: now)
    try ensure(shard.rawValue <= Bounds.shardMax)
    guard let life else { return }
    try ensureMoment(life.validUntil, now: now, within: LeaseTimeline.millisecondsRange.upperBound)
    try ensureMoment(life.graceEnds, now: now, within: LeaseTimeline.millisecondsRange.upperBound)
  }
}

extension SavedReleases {
  func check(now: BootInstant) throws(StateDamage) {
    for release in releases {
      try ensure(Self.canBe(name, attempt: release.attempt) && Self.canBe(release.unused))
      try ensureMoment(
        release.worthUntil, now: now, within: LeaseTimeline.millisecondsRange.upperBound)
    }
  }

  /// Whether a daemon can have had a lock of that name under that attempt.
  static func canBe(_ name: LockName, attempt: UInt64) -> Bool {
    name.bytes.count <= Bounds.nameBytesMax && name.isText && attempt >= 1 && attempt < Bounds.exactMax
  }

  /// Whether these can be the unused tokens of a block.
  static func canBe(_ unused: UnusedTokens) -> Bool {
    switch unused {
    case .all, .unknown: true
    case .from(let token): token >= 0 && token <= Token(Bounds.exactMax)
    }
  }
}

extension SavedHold {
  func check(now: BootInstant) throws(StateDamage) {
    try ensure(session.rawValue <= Bounds.numberMax && attempt < Bounds.exactMax)
    try ensureName(name)
    try ensureToken(token)
    try ensureMoment(since, now: now)
    try ensureClient(owner: owner, meta: meta)
    try ensureMode(mode)
    try ensure(count >= 1 && count < Int64(Bounds.exactMax))
    try ensureMoment(endsAt, now: now, within: Bounds.millisecondsMax)
  }
}

extension SavedWait {
  func check(id: UInt64?, now: BootInstant) throws(StateDamage) {
    try ensure(id.map { $0 == request.rawValue } != false && request.rawValue <= Bounds.numberMax)
    try ensure(session.rawValue <= Bounds.numberMax && place <= Bounds.numberMax)
    try ensure((1...Bounds.namesMax).contains(names.count) && Set(names).count == names.count)
    for name in names { try ensureName(name) }
    try ensureMode(mode)
    try ensureSpan(waitMilliseconds)
    try ensureSpan(maxHoldMilliseconds)
    try ensureClient(owner: owner, meta: meta)
    try ensureMoment(since, now: now)
    try ensureMoment(deadline, now: now, within: Bounds.millisecondsMax)
    for lock in taken {
      try ensure(names.contains(lock.name))
      try ensureToken(lock.token)
    }
  }
}
