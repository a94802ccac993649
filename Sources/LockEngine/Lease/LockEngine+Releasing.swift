// How leases, held or wanted, go back to the store, until the store has confirmed it.

import LockTypes

extension LockEngine {
  /// Gives up a lease that was asked for.
  func giveUp(_ lease: HostLease, now: BootInstant) {
    let mayBeKnown = lease.mayBeKnown
    let unused = lease.unused
    stopWanting(lease)
    lease.ended()
    if mayBeKnown { sendRelease(lease, unused: unused, now: now) }
  }

  /// Gives back a lease that this host has. Nobody holds anything under it.
  func giveBack(_ lease: HostLease, now: BootInstant) {
    let unused = lease.unused
    drop(lease)
    sendRelease(lease, unused: unused, now: now)
    if lease.isContended, lease.lock.link.pointee.isUp { effects.append(.flushSoon) }
  }

  /// Forgets a lease that this host had.
  func drop(_ lease: HostLease) {
    lease.ended()
    lease.lock.freedAt = nil
    lease.lock.leases.remove(lease)
  }

  private func sendRelease(_ lease: HostLease, unused: UnusedTokens, now: BootInstant) {
    sendRelease(
      of: lease.lock, attempt: lease.attempt, lasting: lease.timeline, unused: unused,
      isExact: mustReleaseExactly(lease), now: now)
  }

  /// Whether giving up all earlier attempts would take another lease of this host, too.
  func mustReleaseExactly(_ lease: HostLease) -> Bool {
    lease.isPermit || lease.lock.leases.contains { $0.attempt < lease.attempt }
  }

  /// Tells the store that this host neither holds the lock nor waits for it. Repeated until the store has confirmed it
  /// or the lease must have ended by itself.
  func sendRelease(
    of lock: LockRecord, attempt: UInt64, lasting timeline: LeaseTimeline, unused: UnusedTokens, isExact: Bool,
    now: BootInstant
  ) {
    let release = UnconfirmedRelease(
      // Tokens that no block can have are of no use to anybody.
      attempt: attempt, unused: SavedReleases.canBe(unused) ? unused : .unknown,
      worthUntil: now.adding(milliseconds: timeline.leaseMilliseconds),
      isExact: isExact)
    if !isExact { lock.unconfirmedReleases.removeAll { release.covers($0.attempt) } }
    lock.unconfirmedReleases.append(release)
    send(release, of: lock, now: now)
  }

  func repeatRelease(of lock: LockRecord, attempt: UInt64, now: BootInstant) {
    guard let release = lock.unconfirmedReleases.first(where: { $0.attempt == attempt }) else { return }
    send(release, of: lock, now: now)
  }

  func send(_ release: UnconfirmedRelease, of lock: LockRecord, now: BootInstant) {
    guard lock.link.pointee.isUp else { return }
    send(
      .release(
        name: lock.name, attempt: release.attempt, unused: release.unused, isExact: release.isExact,
        terms: grantTerms(of: lock)),
      .release(lock.name, attempt: release.attempt), on: lock.link, now: now)
  }

  func releaseReplied(
    _ name: LockName, attempt: UInt64, _ reply: LeaseReply, over link: LinkReference, now: BootInstant
  ) {
    guard let lock = locks[name], isHome(link, of: lock, now: now),
      let at = lock.unconfirmedReleases.firstIndex(where: { $0.attempt == attempt })
    else { return }
    switch reply.failure {
    case .transient?, .fatal?:
      guard now < lock.unconfirmedReleases[at].worthUntil else { break }
      lock.unconfirmedReleases[at].refusals += 1
      let refusals = lock.unconfirmedReleases[at].refusals
      return deadlines.push(.repeatRelease(lock, attempt: attempt), at: retry(afterRefusals: refusals, now: now))
    case .wrongType?, nil:
      break
    }
    lock.unconfirmedReleases.remove(at: at)
    dropIfUnused(lock)
  }

  /// The store takes this host for the holder under an attempt that it has given up.
  func releaseStrayGrant(
    _ name: LockName, attempt: UInt64, unused: UnusedTokens, isExact: Bool = true, now: BootInstant
  ) {
    // Such an attempt is made up, and a successor would refuse it in this host's records.
    guard SavedReleases.canBe(name, attempt: attempt), (locks[name]?.link ?? home(of: name)).pointee.isUp else {
      return
    }
    let lock = record(for: name)
    if lock.unconfirmedReleases.contains(where: { $0.covers(attempt) }) { return dropIfUnused(lock) }
    sendRelease(
      of: lock, attempt: attempt, lasting: configuration.timeline, unused: unused, isExact: isExact, now: now)
  }
}
