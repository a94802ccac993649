// How leases are renewed, and how one takes the place of another.

import LockTypes

extension LockEngine {
  func nextRenewal(on link: LinkReference) -> BootInstant? {
    link.pointee.nextRenewal(inFlightMax: configuration.renewalsInFlightMax)
  }

  /// Has a lease renewed at the next ``renewDue(now:)``, unless a renewal of it is under way.
  func makeDue(_ lease: HostLease, now: BootInstant) {
    guard !isBeingRenewed(lease) else { return }
    lease.renewNext(at: now)
    lease.lock.link.pointee.renewals.push(lease, at: now)
  }

  /// Renews the leases that are due, and with them those that soon will be.
  ///
  /// The store executes one command at a time, and all behind a long one wait. So only a few renewals are in flight,
  /// and each answer makes room for the next. Overdue leases do not wait for an answer: all of them are renewed, as
  /// many in each turn as it has room for.
  func renewDue(now: BootInstant) {
    for link in links { renewDue(on: link, now: now) }
  }

  func renewDue(on link: LinkReference, now: BootInstant) {
    renewInDoubt(on: link, now: now)
    guard !mustPutOff, let due = nextRenewal(on: link), due <= now else { return }
    let horizon = now.adding(milliseconds: link.pointee.shortestTimeline.renewSlackMilliseconds)
    var batch: [HostLease] = []
    for _ in 0..<renewalsInTurn {
      guard let due = nextRenewal(on: link), due <= horizon,
        link.pointee.renewalsInFlight < configuration.renewalsInFlightMax || due <= now,
        let (at, lease) = link.pointee.renewals.popDue(horizon)
      else { break }
      stepsLeft -= 1
      guard lease.isHeld, lease.lock.link == link, !isBeingRenewed(lease) else { continue }
      guard lease.renewal.at <= at else {
        link.pointee.renewals.push(lease, at: lease.renewal.at)
        continue
      }
      add(lease, to: &batch, on: link, now: now)
    }
    flush(&batch, on: link, now: now)
  }

  /// Renews the leases in doubt since the link came up: those that end first come first, and none waits for another's
  /// answer.
  func renewInDoubt(on link: LinkReference, now: BootInstant) {
    guard link.pointee.isUp, !mustPutOff, link.pointee.doubtful.count > 0 else { return }
    var batch: [HostLease] = []
    for _ in 0..<renewalsInTurn {
      guard let (_, lease) = link.pointee.doubtful.popDue(BootInstant(nanoseconds: .max)) else { break }
      stepsLeft -= 1
      guard lease.isHeld, lease.lock.link == link, lease.renewal.confirmedOn != link.pointee.number,
        !isBeingRenewed(lease)
      else { continue }
      add(lease, to: &batch, on: link, now: now)
    }
    flush(&batch, on: link, now: now)
  }

  /// An order to break may be old: while this host was stopped or slow, the lock may have been taken away and granted
  /// to another host. So nobody here gets it before the store has confirmed the lease.
  func doubtLeases(of lock: LockRecord, now: BootInstant) {
    guard lock.link.pointee.isUp, !lock.queue.isEmpty else { return }
    for lease in lock.leases where lease.isHeld {
      lease.doubted(now: now)
      makeDue(lease, now: now)
    }
    renewDue(on: lock.link, now: now)
  }

  /// Leases that may be renewed before other work: whole commands, at least one.
  private var renewalsInTurn: Int {
    let (most, overflow) = max(1, stepsLeft / configuration.renewalBatchMax)
      .multipliedReportingOverflow(by: configuration.renewalBatchMax)
    return overflow ? .max : most
  }

  private func add(_ lease: HostLease, to batch: inout [HostLease], on link: LinkReference, now: BootInstant) {
    if batch.isEmpty {
      batch.reserveCapacity(
        min(configuration.renewalBatchMax, max(link.pointee.renewals.count, link.pointee.doubtful.count) + 1))
    }
    lease.renewalSent(on: link.pointee.number)
    batch.append(lease)
    if batch.count == configuration.renewalBatchMax { flush(&batch, on: link, now: now) }
  }

  private func flush(_ batch: inout [HostLease], on link: LinkReference, now: BootInstant) {
    // Nearly always they are all of one length, and all to be renewed or all to be reclaimed.
    while let first = batch.first {
      let (timeline, isReclaim) = (first.timeline, goesByReclaim(first, now: now))
      let isOther = { [self] (lease: HostLease) in
        lease.timeline != timeline || goesByReclaim(lease, now: now) != isReclaim
      }
      let others = batch.filter(isOther)
      if !others.isEmpty { batch.removeAll(where: isOther) }
      if isReclaim {
        reclaim(batch, timeline, on: link, now: now)
      } else {
        send(
          .renew(
            batch.map { LeaseReference(name: $0.lock.name, attempt: $0.attempt) },
            leaseMilliseconds: timeline.leaseMilliseconds, epoch: link.pointee.epoch.id),
          .renew(batch), on: link, now: now)
      }
      batch = others
    }
  }

  // MARK: Reclaiming

  /// Whether the store may not have a lease in its epoch: it was taken in another one, or by a process before this one, or
  /// was not found.
  func mustReclaim(_ lease: HostLease) -> Bool { lease.renewal.epoch != lease.lock.link.pointee.epoch.number }

  /// Where nobody has a lock, the store tells by its counter whether somebody had it since. It keeps that for a minute, so
  /// that a lease that is older can only be renewed.
  private func goesByReclaim(_ lease: HostLease, now: BootInstant) -> Bool {
    mustReclaim(lease) && !(lease.lock.link.pointee.epoch.isOpen && isOld(lease, now: now))
  }

  private func isOld(_ lease: HostLease, now: BootInstant) -> Bool {
    now.milliseconds(since: lease.lastConfirmedAt) > Self.counterTrustMilliseconds
  }

  /// How long the counter of a lock is trusted to be there, in milliseconds. The store keeps it for 10 s longer.
  static let counterTrustMilliseconds: Int64 = 50_000
  /// Leases in one command: each takes the store several times as long as a renewal.
  static let reclaimBatchMax = 200

  private func reclaim(_ leases: [HostLease], _ timeline: LeaseTimeline, on link: LinkReference, now: BootInstant) {
    let epoch = link.pointee.epoch
    for begin in stride(from: 0, to: leases.count, by: Self.reclaimBatchMax) {
      let batch = Array(leases[begin..<min(begin + Self.reclaimBatchMax, leases.count)])
      send(
        .reclaim(
          batch.map { lease in
            let term = lease.term
            return ReclaimedLease(
              name: lease.lock.name, attempt: lease.attempt, mode: lease.mode, firstToken: term.tokenStart,
              tokenCount: term.tokenEnd - term.tokenStart,
              mayReplace: !epoch.isOpen && lease.mayReplace(in: epoch.number))
          }, leaseMilliseconds: timeline.leaseMilliseconds, epoch: epoch.id),
        .reclaim(batch), on: link, now: now)
    }
  }

  /// Nobody has the lock in the store. True: its lease is to be taken again; false: nobody can tell by the counter whether
  /// somebody had it since, so it is lost.
  private func isToReclaim(_ lease: HostLease, now: BootInstant) -> Bool {
    let link = lease.lock.link
    guard link.pointee.epoch.isOpen, isOld(lease, now: now) else {
      lease.notFound(in: link.pointee.epoch.number, now: now)
      return true
    }
    leaseVanished(lease, now: now)
    return false
  }

  // MARK: Answers

  func renewReplied(
    _ batch: [HostLease], _ reply: LeaseReply, isReclaim: Bool, over link: LinkReference, sentAt: BootInstant,
    now: BootInstant
  ) {
    var results: [LeaseStanding]?
    if case .renewed(let renewed) = reply, renewed.count == batch.count { results = renewed }
    for (index, lease) in batch.enumerated() {
      catchUp(lease.lock, now: now)
      guard lease.isHeld, lease.lock.link == link else { continue }
      lease.renewalAnswered()
      switch results?[index] {
      case .held?:
        let isBack = mustReclaim(lease)
        if isBack { counters.reclaims += 1 } else { counters.renewals += 1 }
        lease.confirmed(sentAt: sentAt, on: link.pointee.number, in: link.pointee.epoch.number)
        lease.lock.storeRefusal = nil
        lease.lock.isUnheard = false
        let isReplacing = replace(lease, renewedAt: sentAt, now: now)
        if !lease.isHeld { continue }
        lease.extended(from: sentAt)
        let isWantedAgain = isReplacing || isInDoubt(lease)
        lease.renewNext(
          at: isWantedAgain ? now : sentAt.adding(milliseconds: lease.timeline.renewAfterMilliseconds))
        if isBack {
          share(lease, now: now)
          reserveIfLow(lease, now: now)
        }
      case .elsewhere?, nil:
        lease.renewNext(at: now.adding(milliseconds: lease.timeline.renewRetryMilliseconds))
        refused(reply.words, lease.lock, now: now)
      case .missing? where !isReclaim:
        guard isToReclaim(lease, now: now) else { continue }
        lease.renewNext(at: now)
      case .missing?, .lost?:
        leaseVanished(lease, now: now)
        continue
      }
      link.pointee.renewals.push(lease, at: lease.renewal.at)
      if !lease.lock.unacknowledged.isEmpty { askReplicasAgain(about: lease.lock) }
      // A waiter may have come when too little of the lease was left.
      if !lease.lock.queue.isEmpty { advance(lease.lock, now: now) }
    }
    renewDue(on: link, now: now)
  }

  // MARK: One lease in place of another

  /// The store granted another lease of the lock. Whether it still had this host's others then is not known: they are
  /// renewed at once.
  func renewOthersAtOnce(of lock: LockRecord, now: BootInstant) {
    for lease in lock.leases where lease.isHeld && !lease.isPermit { makeDue(lease, now: now) }
    renewDue(on: lock.link, now: now)
  }

  /// Moves the holds of an older shared lease to a newer one, once the store has confirmed that it had both at once:
  /// nobody else can have been in between. Returns whether that is still to come.
  private func replace(_ lease: HostLease, renewedAt sentAt: BootInstant, now: BootInstant) -> Bool {
    guard lease.mode == .shared, let newer = lease.lock.leases.last, newer !== lease, newer.isHeld,
      newer.mode == .shared, newer.timeline == lease.timeline
    else { return false }
    // The new lease must last as long as clients were told.
    guard newer.grantedAt <= sentAt, newer.term.validUntil >= lease.term.validUntil else {
      newer.renewNext(at: min(newer.renewal.at, now))
      if !isBeingRenewed(newer) { newer.lock.link.pointee.renewals.push(newer, at: newer.renewal.at) }
      return true
    }
    for hold in lease.lock.holds where hold.lease === lease { hold.move(to: newer) }
    giveBack(lease, now: now)
    return false
  }
}
