// The connection to the store, which goes down and comes up.
//
// Both concern every lock, and there can be very many. So most facts about one link are kept with its number: a lease
// is in doubt until it is confirmed on the link that is up, and a command is under way if it was sent on that one. When
// a link ends its facts are void without any work.
//
// The rest is done by a walk over all locks, oldest first, as many in each turn as it has room for. Each lock knows the
// last change applied to it, and an event about a lock that the walk has not reached applies the change first
// (`catchUp`), as if the walk had come by. Changes reach a lock in their order: for the engine the link is up only when
// its going down has reached all locks, and the store has named its epoch (`LockEngine+Epoch.swift`); until then nothing
// is asked of it. Nothing that could be answered was sent meanwhile, so a change may skip a lock that the next one has
// reached.
//
// When the link is up again the leases in doubt are renewed before the walk begins, those first that end first, without
// waiting for answers: one turn for each command, of a fraction of a millisecond.

import LockTypes

extension LockEngine {
  // MARK: Facts of this link

  /// Whether commands can be sent.
  var linkIsUp: Bool { link.isUp }

  /// Whether a lease is in doubt: the link is newer than the store's last confirmation, or an order to break it may be
  /// old.
  func isInDoubt(_ lease: HostLease) -> Bool { lease.isInDoubt(on: link.number) }

  func isBeingRenewed(_ lease: HostLease) -> Bool { link.isThis(lease.renewal.sentOn) }

  func isReserving(_ lease: HostLease) -> Bool { link.isThis(lease.reserveSentOn) }

  func isBeingDated(_ waiter: Waiter) -> Bool { link.isThis(waiter.dateAskedOn) }

  /// Whether this host is known to stand in the store's queue for a lock.
  func isQueued(_ lock: LockRecord) -> Bool { lock.wanted?.isQueued == true && lock.linkChange == link.change }

  // MARK: Changes

  func linkUp(now: BootInstant) {
    guard !link.isConnected, !isLocal else { return }
    link.connected()
    confirmEpoch(now: now)
    goOnWithLink(now: now)
  }

  /// What was in flight may have been executed or not. What this host wants is asked for again when the link is back;
  /// what it holds stays valid for as long as it was.
  func linkDown(now: BootInstant) {
    guard link.wentDown() else { return }
    locks.all.beginWalk()
    goOnWithLink(now: now)
  }

  private func linkIsBack(now: BootInstant) {
    link.cameUp()
    locks.all.beginWalk()
    renewInDoubt(now: now)
    goOnWalking(now: now)
    armHeartbeat(now: now)
  }

  // MARK: The walk

  /// Goes on applying the last change, for as many steps as are left.
  func goOnWithLink(now: BootInstant) {
    renewInDoubt(now: now)
    goOnWalking(now: now)
    if !locks.all.isWalked, link.life.leasesOfBeforeHaveEnded() { changes?.touchEpoch() }
    if link.isComingUp, !locks.all.isWalked { linkIsBack(now: now) }
    link.letGoOfBefore(stepsLeft: &stepsLeft)
    if isLinkBehind { putOffRest(now: now) }
  }

  /// Whether the next turns have to go on with it.
  var isLinkBehind: Bool { locks.all.isWalked || link.isBehind }

  private func goOnWalking(now: BootInstant) {
    // Renewals come first.
    guard !link.isUp || link.doubtful.count == 0 else { return }
    while !mustPutOff, let lock = locks.all.next() {
      stepsLeft -= 1
      catchUp(lock, now: now)
      guard !link.isUp else { continue }
      for waiter in lock.queue.tries(atMost: max(1, stepsLeft)) where !waiter.isOver {
        stepsLeft -= 1
        refuse(waiter, unavailable(nil, now: now), now: now)
      }
      guard lock.queue.tryCount == 0 else {
        locks.all.comeAgain(to: lock)
        continue
      }
      progressChanged(lock, now: now)
      advance(lock, now: now)
    }
  }

  // MARK: One lock

  /// Whether something that has happened may not have reached every lock and hold.
  var isBehind: Bool { deadlines.isBehindWithEnds || locks.all.isWalked || !putOff.losses.isEmpty }

  /// Applies to a lock what has happened and has not reached it. Only those who lose it are told, and nothing is
  /// granted.
  func catchUp(_ lock: LockRecord, now: BootInstant) {
    if deadlines.isBehindWithEnds || link.life.number > 0 { endLeases(of: lock, now: now) }
    guard lock.linkChange != link.change else { return }
    lock.linkChange = link.change
    if link.isUp { linkCameUp(for: lock, now: now) } else { linkWentDown(for: lock, now: now) }
  }

  /// The same for the lock of that name, if there is one.
  func catchUp(_ name: LockName, now: BootInstant) {
    guard isBehind, let lock = locks[name] else { return }
    catchUp(lock, now: now)
  }

  private func linkWentDown(for lock: LockRecord, now: BootInstant) {
    lock.wanted?.placeIsUnknown()
    for lease in lock.leases where lease.isHeld {
      // Unused: by the time somebody uses it the store may have lost it.
      if lease.holdCount == 0 {
        giveBack(lease, now: now)
      } else {
        link.doubtful.push(lease, at: lease.term.validUntil)
      }
    }
    lock.recheckAt = nil
    lock.undated = []
    lock.remoteHolder = .unknown
    lock.isUnheard = true
    lock.refusals = 0
  }

  private func linkCameUp(for lock: LockRecord, now: BootInstant) {
    for release in lock.unconfirmedReleases { send(release, of: lock, now: now) }
    // Where they are to be reclaimed, they have to be so first.
    for lease in lock.leases {
      share(lease, now: now)
      reserveIfLow(lease, now: now)
    }
    if let wanted = lock.wanted { ask(wanted, now: now) }
  }
}
