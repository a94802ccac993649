// How leases are renewed, and how one takes the place of another.

import LockTypes

extension LockEngine {
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

  /// An order to break may be old. Where this host was stopped or slow, the lock was taken from it meanwhile, and another
  /// host has it: nobody here gets it before the store has said that this host still has the lease.
  func doubtLeases(of lock: LockRecord, now: BootInstant) {
    guard linkIsUp, !lock.queue.isEmpty else { return }
    for lease in lock.leases where lease.isHeld {
      lease.doubted(now: now)
      makeDue(lease, now: now)
    }
    renewDue(now: now)
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

  func renewReplied(_ batch: [HostLease], _ reply: LeaseReply, sentAt: BootInstant, now: BootInstant) {
    var results: [Bool]?
    if case .renewed(let renewed) = reply, renewed.count == batch.count { results = renewed }
    for (index, lease) in batch.enumerated() {
      catchUp(lease.lock, now: now)
      guard lease.isHeld else { continue }
      lease.renewalAnswered()
      switch results?[index] {
      case true?:
        counters.renewals += 1
        lease.confirmed(sentAt: sentAt, on: link.number)
        lease.lock.storeRefusal = nil
        lease.lock.isUnheard = false
        let isReplacing = replace(lease, renewedAt: sentAt, now: now)
        if !lease.isHeld { continue }
        lease.extended(from: sentAt)
        let isWantedAgain = isReplacing || isInDoubt(lease)
        lease.renewNext(
          at: isWantedAgain ? now : sentAt.adding(milliseconds: lease.timeline.renewAfterMilliseconds))
      case nil:
        lease.renewNext(at: now.adding(milliseconds: lease.timeline.renewRetryMilliseconds))
        refused(reply.words, lease.lock, now: now)
      case false?:
        leaseVanished(lease, now: now)
        continue
      }
      link.renewals.push(lease, at: lease.renewal.at)
      // Somebody may have come when too little of the lease was left.
      if !lease.lock.queue.isEmpty { advance(lease.lock, now: now) }
    }
    renewDue(now: now)
  }

  // MARK: One lease in place of another

  /// Another lease of the lock was granted beside those that this host has, and nobody knows whether the store still had
  /// them then: it is asked at once.
  func renewOthersAtOnce(of lock: LockRecord, now: BootInstant) {
    for lease in lock.leases where lease.isHeld && !lease.isPermit { makeDue(lease, now: now) }
    renewDue(now: now)
  }

  /// This host came to share the lock anew while it shared it already. What is held under the lease of before moves to the
  /// new one when the store has confirmed that it had both at once, so that nobody else can have been in between.
  /// Whether that is still to come.
  private func replace(_ lease: HostLease, renewedAt sentAt: BootInstant, now: BootInstant) -> Bool {
    guard lease.mode == .shared, let newer = lease.lock.leases.last, newer !== lease, newer.isHeld,
      newer.mode == .shared, newer.timeline == lease.timeline
    else { return false }
    // Clients were told for how long what they hold is safe.
    guard newer.grantedAt <= sentAt, newer.term.validUntil >= lease.term.validUntil else {
      newer.renewNext(at: min(newer.renewal.at, now))
      if !isBeingRenewed(newer) { link.renewals.push(newer, at: newer.renewal.at) }
      return true
    }
    for hold in lease.lock.holds where hold.lease === lease { hold.move(to: newer) }
    giveBack(lease, now: now)
    return false
  }
}
