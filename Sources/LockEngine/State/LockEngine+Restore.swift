// How an engine begins with what a predecessor left.

import LockTypes

extension LockEngine {
  /// See ``Event/restored(_:numbers:)``.
  func restore(_ state: SavedState, numbers: [UInt64], now: BootInstant) {
    stepsLeft = .max
    // A store that has one shard never connects another one: what is there by the record would wait for it for ever.
    let hasShards = configuration.cells != nil
    for session in sessions.all { session.isKept = true }
    issued.restore(numbers)
    for epoch in state.epochs where hasShards || epoch.shard == .only {
      let link = links.made(epoch.shard)
      link.pointee.epoch = StoreEpoch(epoch)
      link.pointee.life = HostLife(epoch.life)
      changes?.touchEpoch()
    }
    hasLeasesOfBefore = !state.leases.isEmpty
    var leases: [UInt64: HostLease] = [:]
    leases.reserveCapacity(state.leases.count)
    let storedHolds = inOrder(state.holds, by: \.order)
    if isLocal {
      let names = storedHolds.lazy.filter { [sessions] in sessions[$0.session] != nil }.map { [links] in
        (name: $0.name, link: links.first)
      }
      _ = locks.records(for: names, changes: changes, tally: tally)
    } else {
      let storedLeases = inOrder(state.leases, by: \.attempt)
      let records = locks.records(
        for: storedLeases.map { (name: $0.name, link: hasShards ? links.made($0.shard) : links.first) },
        changes: changes, tally: tally)
      for (stored, lock) in zip(storedLeases, records) {
        leases[stored.attempt] = restore(stored, lock, now: now)
      }
    }
    for stored in state.releases {
      let lock = record(for: stored.name)
      lock.unconfirmedReleases += stored.releases.map {
        UnconfirmedRelease(
          attempt: $0.attempt, unused: $0.unused, worthUntil: $0.worthUntil, isExact: $0.isExact)
      }
    }
    var partial: [Hold] = []
    for stored in storedHolds {
      if let hold = restore(stored, leases, now: now), stored.isPartial { partial.append(hold) }
    }
    // Before any request goes on: what is a part of one is nothing that another of its owner could re-enter.
    let multis = restoreMultiLocks(state.waits)
    // No request for several locks has them: their clients were never told of them, and never will be.
    for hold in partial where hold.partOf == nil { end(hold, now: now) }
    for stored in inOrder(state.waits, by: \.place) { restore(stored, multis[stored.request], now: now) }
    for lease in leases.values where lease.isContended { rememberWhoCameFirst(lease) }
    for lock in allLocks { advance(lock, now: now) }
  }

  /// The records sorted by `key`. Records are large, so what is sorted are their indices.
  private func inOrder<Record, Key: Comparable>(_ records: [Record], by key: (Record) -> Key) -> [Record] {
    var places = records.indices.map { (key: key(records[$0]), place: $0) }
    places.sort { $0.key < $1.key }
    return places.map { records[$0.place] }
  }

  private func restore(_ stored: SavedLease, _ lock: LockRecord, now: BootInstant) -> HostLease {
    let lease = HostLease(stored, lock: lock, now: now)
    let link = lock.link
    link.pointee.note(lease.timeline)
    issued.attemptIsUsed(stored.attempt)
    switch stored.stage {
    case .wanted:
      if let earlier = lock.wanted { giveUp(earlier, now: now) }
      lock.wanted = lease
      link.pointee.wanted.append(lease, at: now)
    case .held:
      lock.leases.append(lease)
      deadlines.leaseEnds.push(lease, at: lease.term.validUntil)
      link.pointee.doubtful.push(lease, at: lease.term.validUntil)
    case .lost:
      lock.leases.append(lease)
      deadlines.leaseEnds.push(lease, at: lease.term.graceEnds)
    }
    if stored.stage != .wanted { tokenIsKnown(stored.nextToken - 1, of: lock) }
    return lease
  }

  /// Waiters who came before the other host are served before it.
  private func rememberWhoCameFirst(_ lease: HostLease) {
    guard let since = lease.term.contendedSince else { return }
    lease.restoredCohort(upTo: lease.lock.queue.live.prefix { $0.since < since }.map(\.arrival).max() ?? 0)
  }

  private func restore(_ stored: SavedHold, _ leases: [UInt64: HostLease], now: BootInstant) -> Hold? {
    guard let session = sessions[stored.session], session.hold(of: stored.name, token: stored.token) == nil else {
      return nil
    }
    let lease = leases[stored.attempt]
    let lock = lease.flatMap { $0.lock.name == stored.name ? $0.lock : nil } ?? record(for: stored.name)
    let isSound = isLocal || (lease?.isHeld == true && lease?.lock === lock)
    guard isSound, lock.hasRoom(for: stored.mode) else {
      guard !stored.isPartial else { return nil }
      session.remember(LostHold(name: stored.name, token: stored.token, reason: .dataLoss))
      effects.append(
        .notify(
          stored.session,
          .lost(
            name: stored.name, token: stored.token, reason: .dataLoss, graceMilliseconds: 0, onLost: stored.onLost,
            detail: nil)))
      return nil
    }
    let hold = Hold(
      AcquireRequest(
        session: stored.session, request: RequestID(0), target: .one(stored.name), mode: stored.mode,
        owner: stored.owner, meta: stored.meta, progress: stored.progress, onLost: stored.onLost),
      lock: lock, token: stored.token, lease: lease, since: stored.since, isTold: !stored.isPartial)
    hold.count = Int(clamping: stored.count)
    add(hold, to: session)
    hold.endsAt = stored.endsAt
    if let end = hold.endsAt { deadlines.push(.maxHold(hold), at: end) }
    if hold.isTold { watchLength(of: hold, now: now) }
    if isLocal { issued.localTokenIsUsed(stored.token) } else { tokenIsKnown(stored.token, of: lock) }
    return hold
  }

  /// The requests for several locks, with the holds that are parts of them.
  private func restoreMultiLocks(_ waits: [SavedWait]) -> [RequestID: MultiLockRequest] {
    var multis: [RequestID: MultiLockRequest] = [:]
    for stored in waits where stored.isMultiLock {
      guard let session = sessions[stored.session] else { continue }
      let multi = MultiLockRequest(
        stored.acquireRequest, since: stored.since, deadline: stored.deadline, tally: tally)
      for taken in stored.taken {
        // What does not fit, as in a damaged state, is taken anew: a hold is a part of one request, whose client does not know it.
        guard multi.taken.count < multi.order.count, multi.order[multi.taken.count] == taken.name,
          let hold = session.hold(of: taken.name, token: taken.token), hold.isTold == taken.isReentered,
          hold.partOf == nil
        else { break }
        multi.taken.append((hold, taken.isReentered))
        if !taken.isReentered { hold.partOf = multi }
      }
      multis[stored.request] = multi
    }
    return multis
  }

  /// `multi`: the request, if it is one for several locks.
  private func restore(_ stored: SavedWait, _ multi: MultiLockRequest?, now: BootInstant) {
    guard let session = sessions[stored.session] else { return }
    let request = stored.acquireRequest
    guard let multi else {
      let isTry = request.waitMilliseconds == 0
      // A try is decided by an ask of this process.
      let deadline = isTry ? now.adding(milliseconds: configuration.settings.storeTimeoutMilliseconds) : stored.deadline
      let waiter = Waiter(
        request, lock: record(for: stored.names[0]), since: stored.since, deadline: deadline, partOf: nil)
      waiter.hasOthersAhead = true
      enqueue(waiter, of: session)
      if let deadline { deadlines.push(.wait(waiter), at: deadline) }
      return armDeadlockSearch(for: waiter, now: now)
    }
    if multi.taken.count < stored.taken.count {
      restart(multi, now: now)
    } else {
      makeReady(multi)
    }
    // At once, so that it queues before the waits that came after it.
    runMultiLocks(now: now)
  }
}
