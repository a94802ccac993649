// The connection to a shard of the store, which goes down and comes up.
//
// Both concern every lock whose home it is, and there can be very many. So most facts about one link are kept with its
// number: a lease is in doubt until it is confirmed on the link that is up, and a command is under way if it was sent on
// that one. When a link ends its facts are void without any work.
//
// The rest is done by a walk over all of those, oldest first, as many in each turn as it has room for. Each lock knows the
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

  /// Whether a lease is in doubt: the link is newer than the store's last confirmation, or an order to break it may be
  /// old.
  func isInDoubt(_ lease: HostLease) -> Bool { lease.isInDoubt(on: lease.lock.link.pointee.number) }

  func isBeingRenewed(_ lease: HostLease) -> Bool { lease.lock.link.pointee.isThis(lease.renewal.sentOn) }

  func isReserving(_ lease: HostLease) -> Bool { lease.lock.link.pointee.isThis(lease.reserveSentOn) }

  func isBeingDated(_ waiter: Waiter) -> Bool { waiter.lock.link.pointee.isThis(waiter.dateAskedOn) }

  /// Whether this host is known to stand in the store's queue for a lock.
  func isQueued(_ lock: LockRecord) -> Bool {
    lock.wanted?.isQueued == true && lock.linkChange == lock.link.pointee.change
  }

  // MARK: Changes

  func linkUp(_ link: LinkReference, now: BootInstant) {
    guard !link.pointee.isConnected, !isLocal else { return }
    link.pointee.connected()
    confirmEpoch(on: link, now: now)
    goOn(with: link, now: now)
  }

  /// What was in flight may have been executed or not. What this host wants is asked for again when the link is back;
  /// what it holds stays valid for as long as it was.
  func linkDown(_ link: LinkReference, now: BootInstant) {
    guard link.pointee.wentDown() else { return }
    link.pointee.locks.beginWalk()
    goOn(with: link, now: now)
  }

  private func linkIsBack(_ link: LinkReference, now: BootInstant) {
    link.pointee.cameUp(number: links.newNumber())
    link.pointee.locks.beginWalk()
    renewInDoubt(on: link, now: now)
    goOnWalking(over: link, now: now)
    armHeartbeat(on: link, now: now)
  }

  // MARK: The walk

  /// Goes on applying the last change of each link, for as many steps as are left.
  func goOnWithLinks(now: BootInstant) {
    if links.isSingle { return goOn(with: links.first, now: now) }
    for link in links.inTurn() { goOn(with: link, now: now) }
  }

  /// The same of one link.
  func goOn(with link: LinkReference, now: BootInstant) {
    renewInDoubt(on: link, now: now)
    goOnWalking(over: link, now: now)
    if !link.pointee.locks.isWalked, link.pointee.life.leasesOfBeforeHaveEnded() { changes?.touchEpoch() }
    if link.pointee.isComingUp, !link.pointee.locks.isWalked { linkIsBack(link, now: now) }
    link.pointee.letGoOfBefore(stepsLeft: &stepsLeft)
    if link.pointee.isBehind { putOffRest(now: now) }
  }

  private func goOnWalking(over link: LinkReference, now: BootInstant) {
    // Renewals come first.
    guard !link.pointee.isUp || link.pointee.doubtful.count == 0 else { return }
    while !mustPutOff, let lock = link.pointee.locks.next() {
      stepsLeft -= 1
      catchUp(lock, now: now)
      let hasMoved = lock.link != link
      guard !lock.link.pointee.isUp else {
        if hasMoved { advance(lock, now: now) }
        continue
      }
      for waiter in lock.queue.tries(atMost: max(1, stepsLeft)) where !waiter.isOver {
        stepsLeft -= 1
        refuse(waiter, unavailable(nil, at: lock.link, now: now), now: now)
      }
      guard lock.queue.tryCount == 0 || hasMoved else {
        link.pointee.locks.comeAgain(to: lock)
        continue
      }
      progressChanged(lock, now: now)
      advance(lock, now: now)
    }
  }

  // MARK: One lock

  /// Whether something that has happened may not have reached every lock and hold.
  var isBehind: Bool {
    deadlines.isBehindWithEnds || links.contains { $0.pointee.locks.isWalked } || !putOff.losses.isEmpty
  }

  /// Applies to a lock what has happened and has not reached it. Only those who lose it are told, and nothing is
  /// granted.
  func catchUp(_ lock: LockRecord, now: BootInstant) {
    let link = lock.link
    if deadlines.isBehindWithEnds || link.pointee.life.number > 0 { endLeases(of: lock, now: now) }
    guard lock.linkChange != link.pointee.change else { return }
    let hasChanged = link.pointee.hasChanged(since: lock.linkChange)
    lock.linkChange = link.pointee.change
    if let home = knownHome(of: lock.name), home != link { return move(lock, to: home, now: now) }
    guard hasChanged else { return }
    if link.pointee.isUp { linkCameUp(for: lock, now: now) } else { linkWentDown(for: lock, now: now) }
  }

  /// The same for the lock of that name, if there is one.
  func catchUp(_ name: LockName, now: BootInstant) {
    guard isBehind, let lock = locks[name] else { return }
    catchUp(lock, now: now)
  }

  func linkWentDown(for lock: LockRecord, now: BootInstant) {
    lock.wanted?.placeIsUnknown()
    for lease in lock.leases where lease.isHeld {
      // Unused: by the time somebody uses it the store may have lost it.
      if lease.holdCount == 0 {
        giveBack(lease, now: now)
      } else {
        lock.link.pointee.doubtful.push(lease, at: lease.term.validUntil)
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
    goOnAsking(for: lock, now: now)
  }

  func goOnAsking(for lock: LockRecord, now: BootInstant) {
    // Where they are to be reclaimed, they have to be so first.
    for lease in lock.leases {
      share(lease, now: now)
      reserveIfLow(lease, now: now)
    }
    if let wanted = lock.wanted { ask(wanted, now: now) }
  }
}
