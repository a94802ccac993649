// How this host lets others share a lease, and how a lease gets more tokens.

import LockTypes

extension LockEngine {
  func contended(_ lease: HostLease, ask: UInt64, isTry: Bool, inbox: String, now: BootInstant) {
    guard lease.isHeld else { return }
    let lock = lease.lock
    lease.contended(after: issued.arrival, now: now)
    if lease.holdCount == 0 { return advance(lock, now: now) }
    shareIfOthersWant(lock, now: now)
    progressChanged(lock, now: now)
    // The store executes what this host sent before first: a lease that was just shared or given back reaches the try
    // before the answer does.
    if isTry { send(.answerInUse(name: lock.name, ask: ask, inbox: inbox), .other, on: lock.link, now: now) }
  }

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

  /// Tells the store to let other hosts share a lease, until it has confirmed that.
  func share(_ lease: HostLease, now: BootInstant) {
    guard lease.lock.link.pointee.isUp, lease.isHeld, lease.term.isSharingUnconfirmed, !mustReclaim(lease) else {
      return
    }
    send(
      .downgrade(
        name: lease.lock.name, attempt: lease.attempt, tokenEnd: lease.term.tokenEnd,
        terms: grantTerms(of: lease.lock)),
      .share(lease), on: lease.lock.link, now: now)
  }

  func shareReplied(_ lease: HostLease, _ reply: LeaseReply, now: BootInstant) {
    catchUp(lease.lock, now: now)
    switch reply.failure {
    case .transient?, .fatal?:
      lease.refused()
      deadlines.push(.share(lease), at: retry(afterRefusals: lease.refusals, now: now))
    case .wrongType?, nil:
      lease.sharingConfirmed()
      reserveIfLow(lease, now: now)
    }
  }

  // MARK: Tokens

  /// Has the store reserve more tokens for a lease that has few left: it cannot be acquired anew while anybody here
  /// holds the lock under it.
  func reserveIfLow(_ lease: HostLease, now: BootInstant) {
    guard lease.lock.link.pointee.isUp, lease.isHeld, lease.holdCount > 0, lease.term.tokensLeft < Self.fewTokens,
      !isReserving(lease), !lease.term.isSharingUnconfirmed, !mustReclaim(lease)
    else { return }
    lease.reserveSent(on: lease.lock.link.pointee.number)
    send(
      .reserve(
        name: lease.lock.name, attempt: lease.attempt, tokenEnd: lease.term.tokenEnd,
        terms: grantTerms(of: lease.lock)),
      .reserve(lease), on: lease.lock.link, now: now)
  }

  /// With fewer left more are reserved; so many usually last until they come.
  static let fewTokens: Token = 4

  func reserveReplied(_ lease: HostLease, _ reply: LeaseReply, now: BootInstant) {
    lease.reserveAnswered()
    catchUp(lease.lock, now: now)
    guard lease.isHeld else { return }
    switch reply {
    case .reserved(let grant?):
      // Otherwise there are no more: the lease is taken anew when nobody here holds the lock.
      guard lease.reserved(grant) else { return }
      grantIsKnown(grant, of: lease.lock)
      lease.lock.storeRefusal = nil
    case .reserved(nil):
      // It is reserved again when the store has it again.
      lease.notFound(in: lease.lock.link.pointee.epoch.number, now: now)
      makeDue(lease, now: now)
      return renewDue(on: lease.lock.link, now: now)
    case .failed, .granted, .renewed, .done, .queued, .foreign, .conflict, .stale, .lostPlaces, .seen, .clock, .epoch,
      .otherEpoch:
      lease.refused()
      deadlines.push(.reserve(lease), at: retry(afterRefusals: lease.refusals, now: now))
      return refused(reply.words, lease.lock, now: now)
    }
    let lock = lease.lock
    if lock.queue.isEmpty { shareIfOthersWant(lock, now: now) } else { advance(lock, now: now) }
    // The reply repeated the old, used-up block: ask again.
    if lease.term.tokensLeft == 0 { reserveIfLow(lease, now: now) }
  }
}
