// The conversation with the store of host leases: what is sent, and what is kept in mind until it is answered.

import LockTypes

extension LockEngine {
  // MARK: What is sent

  func send(_ command: LeaseCommand, _ kind: PendingCommand.Kind, now: BootInstant) {
    let id = issued.newCommand()
    link.send(id, kind, now: now)
    effects.append(.send(id, command))
  }

  /// A lease that this host wants from now on, under an attempt of its own.
  func newLease(of lock: LockRecord, in mode: HoldMode, now: BootInstant) -> HostLease {
    let lease = HostLease(lock: lock, attempt: issued.newAttempt(), mode: mode, timeline: configuration.timeline)
    lock.wanted = lease
    link.wanted.append(lease, at: now)
    lock.wasRecentlyReleased = recentReleases.contains(lock.name, now: now)
    return lease
  }

  /// The lease is not asked for any more: the store granted it, or it is given up.
  func stopWanting(_ lease: HostLease) {
    guard lease.lock.wanted === lease else { return }
    lease.lock.wanted = nil
    lease.lock.conflict = nil
    lease.lock.conflictAt = nil
    link.wanted.remove(lease)
  }

  /// Asks the store for the lease, or asks again under the same attempt. While the link is down the ask is kept for
  /// later.
  func ask(_ lease: HostLease, now: BootInstant) {
    let lock = lease.lock
    lock.recheckAt = nil
    lock.ask = issued.newAsk()
    let tries = lock.queue.tries
    for waiter in tries where waiter.ask == 0 { waiter.ask = lock.ask }
    guard linkIsUp else {
      lease.askIsToCome()
      lock.isUnheard = true
      return
    }
    lease.asked(at: now)
    send(
      .acquire(
        name: lock.name, attempt: lease.attempt, ask: lock.ask, isTry: !tries.isEmpty, tokenFloor: lock.tokenFloor,
        mode: lease.mode, leaseMilliseconds: lease.timeline.leaseMilliseconds, keeping: lock.firstKeptAttempt),
      .acquire(lease, ask: lock.ask), now: now)
    armHeartbeat(now: now)
  }

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
    if lease.isContended, linkIsUp { effects.append(.flushSoon) }
  }

  /// Forgets a lease that this host had.
  func drop(_ lease: HostLease) {
    lease.ended()
    lease.lock.leases.removeAll { $0 === lease }
  }

  private func sendRelease(_ lease: HostLease, unused: UnusedTokens, now: BootInstant) {
    sendRelease(
      of: lease.lock, attempt: lease.attempt, lasting: lease.timeline, unused: unused,
      isExact: mustReleaseExactly(lease), now: now)
  }

  /// Whether this host has another lease of the name that giving up all earlier attempts would take, too.
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
      // A block of tokens that cannot be is of no use to anybody.
      attempt: attempt, unused: StoredReleases.canBe(unused) ? unused : .unknown,
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
    guard linkIsUp else { return }
    send(
      .release(
        name: lock.name, attempt: release.attempt, unused: release.unused, isExact: release.isExact),
      .release(lock.name, attempt: release.attempt), now: now)
  }

  // MARK: Sharing

  /// Other hosts wait, everybody here shares, and nobody waits here who came before them: the lease need not keep them
  /// out.
  func shareIfOthersWant(_ lock: LockRecord, now: BootInstant) {
    guard lock.heldMode == .shared, let lease = lock.leases.last, lease.isHeld, lease.mode == .exclusive,
      lease.isContended, !isReserving(lease),
      lock.queue.first.map({ $0.arrival > lease.cohort.arrivalMax }) ?? true
    else { return }
    lease.share()
    share(lease, now: now)
  }

  /// What the store holds against others must follow what this host has said; it is told until it confirms it.
  func share(_ lease: HostLease, now: BootInstant) {
    guard linkIsUp, lease.isHeld, lease.term.isSharingUnconfirmed else { return }
    send(
      .downgrade(name: lease.lock.name, attempt: lease.attempt, tokenEnd: lease.term.tokenEnd), .share(lease), now: now)
  }

  // MARK: Tokens

  /// Has the store reserve more tokens for a lease that has few left: it cannot be taken anew as long as anybody here
  /// holds the lock under it.
  func reserveIfLow(_ lease: HostLease, now: BootInstant) {
    guard linkIsUp, lease.isHeld, lease.holdCount > 0, lease.term.tokensLeft < Self.fewTokens,
      !isReserving(lease), !lease.term.isSharingUnconfirmed
    else { return }
    lease.reserveSent(on: link.number)
    send(
      .reserve(
        name: lease.lock.name, attempt: lease.attempt, tokenEnd: lease.term.tokenEnd, tokenFloor: lease.lock.tokenFloor),
      .reserve(lease), now: now)
  }

  /// With so many left a lease's tokens last until there are more, as a rule.
  static let fewTokens: Token = 4

  // MARK: Renewal

  var nextRenewal: BootInstant? {
    link.nextRenewal(inFlightMax: configuration.renewalsInFlightMax)
  }

  /// Has a lease renewed at the next ``renewDue(now:)``, unless a renewal of it is under way.
  func makeDue(_ lease: HostLease, now: BootInstant) {
    guard !isBeingRenewed(lease) else { return }
    lease.renewNext(at: now)
    link.renewals.push(lease, at: now)
  }

  /// Renews the leases that are due, and with them those that soon will be.
  ///
  /// The store works on one command at a time, and so much as it takes for one, everything behind it waits. So only a
  /// few are under way, and each that is answered makes room for the next. Leases that have been due for a while are
  /// renewed all of them, as many in each turn as it has room for: who has waited so long must not wait for an answer.
  func renewDue(now: BootInstant) {
    renewInDoubt(now: now)
    guard !mustPutOff, let due = nextRenewal, due <= now else { return }
    let horizon = now.adding(milliseconds: link.shortestTimeline.renewSlackMilliseconds)
    var batch: [HostLease] = []
    for _ in 0..<renewalsInTurn {
      guard let due = nextRenewal, due <= horizon,
        link.renewalsInFlight < configuration.renewalsInFlightMax || due <= now,
        let (at, lease) = link.renewals.popDue(horizon)
      else { break }
      stepsLeft -= 1
      guard lease.isHeld, !isBeingRenewed(lease) else { continue }
      guard lease.renewal.at <= at else {
        link.renewals.push(lease, at: lease.renewal.at)
        continue
      }
      add(lease, to: &batch, now: now)
    }
    flush(&batch, now: now)
  }

  /// Renews the leases of which it is not known since the link came up whether the store still has them: those that end
  /// first come first, and none waits for the answer to another one.
  func renewInDoubt(now: BootInstant) {
    guard linkIsUp, !mustPutOff, link.doubtful.count > 0 else { return }
    var batch: [HostLease] = []
    for _ in 0..<renewalsInTurn {
      guard let (_, lease) = link.doubtful.popDue(BootInstant(nanoseconds: .max)) else { break }
      stepsLeft -= 1
      guard lease.isHeld, lease.renewal.confirmedOn != link.number, !isBeingRenewed(lease) else { continue }
      add(lease, to: &batch, now: now)
    }
    flush(&batch, now: now)
  }

  /// Leases that may be renewed before others have their turn: whole commands, at least one.
  private var renewalsInTurn: Int {
    let (most, overflow) = max(1, stepsLeft / configuration.renewalBatchMax)
      .multipliedReportingOverflow(by: configuration.renewalBatchMax)
    return overflow ? .max : most
  }

  private func add(_ lease: HostLease, to batch: inout [HostLease], now: BootInstant) {
    if batch.isEmpty {
      batch.reserveCapacity(min(configuration.renewalBatchMax, max(link.renewals.count, link.doubtful.count) + 1))
    }
    lease.renewalSent(on: link.number)
    batch.append(lease)
    if batch.count == configuration.renewalBatchMax { flush(&batch, now: now) }
  }

  private func flush(_ batch: inout [HostLease], now: BootInstant) {
    // As a rule they are all of one length.
    while let timeline = batch.first?.timeline {
      let others = batch.filter { $0.timeline != timeline }
      if !others.isEmpty { batch.removeAll { $0.timeline != timeline } }
      send(
        .renew(
          batch.map { LeaseReference(name: $0.lock.name, attempt: $0.attempt) },
          leaseMilliseconds: timeline.leaseMilliseconds),
        .renew(batch), now: now)
      batch = others
    }
  }

  // MARK: Safety nets

  func recheck(_ lock: LockRecord, at moment: BootInstant) {
    lock.recheckAt = moment
    deadlines.push(.recheck(lock), at: moment)
  }
}
