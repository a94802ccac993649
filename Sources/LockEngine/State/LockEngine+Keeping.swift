// What outlives the process: changes are noted as they happen, and a successor begins with what was noted.
//
// Holds and waits are kept only for sessions whose connection will be handed to the successor. Leases are always kept,
// so that the successor can give back those that nobody uses.

public import LockTypes

/// How far ``LockEngine/noteEverything(_:atMost:)`` has come.
public struct NotingProgress {
  /// The lock that was looked at last, and what is left of it.
  fileprivate var last: LockName?
  fileprivate var holds: ArraySlice<Hold> = []
  fileprivate var waiters: ArraySlice<Waiter> = []

  /// Nothing is noted yet.
  public init() {}
}

extension LockEngine {
  /// Begins to note changes. Call it before the first event.
  public func recordChanges() {
    changes = StateChanges()
  }

  /// Stops noting changes: nobody will take them, and each would keep its record in memory.
  public func stopRecordingChanges() { changes?.stop() }

  /// Notes changes again. What exists already must be noted by ``noteEverything(_:atMost:)``.
  public func resumeRecordingChanges() { changes?.resume() }

  /// Notes about `count` more records as if they had changed, lock by lock in the order of names.
  ///
  /// - Parameter progress: how far this has come; a new one begins.
  /// - Returns: false when everything is noted.
  public func noteEverything(_ progress: inout NotingProgress, atMost count: Int) -> Bool {
    guard let changes else { return false }
    if progress.last == nil {
      changes.touchEpoch()
      // Those that have re-entered all of their locks would be found by none of them.
      for id in acknowledgements.keys.sorted() { if let multi = acknowledgements[id]?.request { changes.touch(multi) } }
    }
    var left = count
    while left > 0 {
      // What has ended since it was found, or came since then, was noted when that happened.
      if let hold = progress.holds.popFirst() {
        if !hold.isOver { changes.touch(hold) }
      } else if let waiter = progress.waiters.popFirst() {
        if !waiter.isOver { changes.touch(waiter) }
      } else if let lock = lock(behind: progress.last) {
        progress.last = lock.name
        for lease in lock.leases + [lock.wanted].compactMap({ $0 }) {
          changes.touch(lease)
          left -= 1
        }
        if !lock.unconfirmedReleases.isEmpty { changes.touch(lock) }
        for multi in lock.unacknowledged where multi.acknowledging != nil { changes.touch(multi) }
        progress.holds = Array(lock.holds)[...]
        progress.waiters = Array(lock.queue.live)[...]
      } else {
        return false
      }
      left -= 1
    }
    return true
  }

  private func lock(behind name: LockName?) -> LockRecord? {
    var found: LockRecord?
    locks.names.forEach(from: name ?? LockName(bytes: []), inclusive: name == nil) {
      found = locks[$0]
      return found != nil
    }
    return found
  }

  /// The changes since the last call. When a session's holds and waits begin to outlive this process, or no longer do, its
  /// holds are among the changes of this call and of the next ones, as many as one turn has room for.
  ///
  /// - Parameter isKept: whether the holds and waits of a session shall outlive this process; asked for each session
  ///   of which a hold or a wait has changed.
  public func takeChanges(isKept: (SessionID) -> Bool) -> [StateChange] {
    guard let changes else { return [] }
    var result: [StateChange] = []
    decideWhatIsKept(changes, isKept)
    // Half a slice: the caller writes them down in the same turn.
    changes.noteHolds(atMost: max(1, configuration.stepsPerSlice / 2))
    if changes.isEpochTouched {
      changes.isEpochTouched = false
      for link in links {
        guard let saved = link.pointee.epoch.saved(link.pointee.life.saved, of: link.pointee.shard) else { continue }
        var writer = StateWriter()
        saved.write(to: &writer)
        result.append(.put(.epoch, id: UInt64(link.pointee.shard.rawValue), writer.bytes))
      }
    }
    for lease in changes.leases {
      lease.mark.isTouched = false
      append(stored(lease), .lease, id: lease.attempt, &lease.mark, to: &result) { $0.write(to: &$1) }
    }
    for lock in changes.releases {
      lock.mark.isTouched = false
      append(storedReleases(of: lock), .releases, id: lock.serial, &lock.mark, to: &result) { $0.write(to: &$1) }
    }
    for hold in changes.holds {
      hold.mark.isTouched = false
      let stored = hold.isOver ? nil : stored(hold)
      if stored == nil && hold.mark.record == 0 { continue }
      append(stored, .hold, id: changes.number(&hold.mark), &hold.mark, to: &result) { $0.write(to: &$1) }
    }
    for waiter in changes.waits {
      waiter.mark.isTouched = false
      let stored = waiter.isOver ? nil : stored(waiter)
      append(stored, .wait, id: waiter.request.request.rawValue, &waiter.mark, to: &result) { $0.write(to: &$1) }
    }
    for multi in changes.multiLocks {
      multi.mark.isTouched = false
      let stored = multi.isOver ? nil : stored(multi)
      append(stored, .wait, id: multi.request.request.rawValue, &multi.mark, to: &result) { $0.write(to: &$1) }
    }
    changes.leases.removeAll(keepingCapacity: true)
    changes.releases.removeAll(keepingCapacity: true)
    changes.holds.removeAll(keepingCapacity: true)
    changes.waits.removeAll(keepingCapacity: true)
    changes.multiLocks.removeAll(keepingCapacity: true)
    return result
  }

  /// Whether changes are left for the next call of ``takeChanges(isKept:)``, even if nothing happens.
  public var hasMoreToNote: Bool { changes?.isNoting == true }

  /// Whether ``takeChanges(isKept:)`` has not yet given all holds of a session. Until then its records are of use to
  /// nobody.
  public func isBeingNoted(_ session: SessionID) -> Bool { sessions[session]?.nextToNote != nil }

  /// From now on a session's holds and waits do not outlive this process.
  func stopKeeping(_ session: SessionID) {
    guard let record = sessions[session], record.isKept else { return }
    record.isKept = false
    touchEverything(of: record)
  }

  /// Ends what a session has, because its connection will not outlive this process: its waits are refused, its holds are
  /// lost, as many as one turn has room for. The event is to be repeated until the session is idle.
  func evict(_ session: SessionID, now: BootInstant) {
    guard let record = sessions[session] else { return }
    // Waits go first: a lock that this session loses must not pass to a wait of its own.
    let waiters = record.waits.values.sorted { $0.request.request.rawValue < $1.request.request.rawValue }
    for waiter in waiters where !waiter.isOver { refuse(waiter, .shuttingDown, now: now) }
    let multis = record.requestsForReplicas
    for multi in multis { abandon(multi, .shuttingDown, now: now) }
    stepsLeft -= waiters.count + multis.count
    var locks = waiters.map(\.lock)
    // One at least, or it would not come to an end.
    repeat {
      guard let hold = record.firstHold else { break }
      stepsLeft -= 1
      locks.append(hold.lock)
      lose(hold, reason: .shutdown, graceEnds: nil, now: now)
    } while !mustPutOff
    for lock in locks { advance(lock, now: now) }
  }

  /// The numbers that must never be used twice, to be kept beside the records.
  public var numbers: [UInt64] {
    issued.saved
  }

  /// The losses that are remembered of a session, from the one of that number on.
  public func savedLosses(of session: SessionID, from number: UInt64) -> [SavedLoss] {
    guard let record = sessions[session] else { return [] }
    let first = record.lossCount - UInt64(record.losses.count)
    return record.losses.enumerated().compactMap { index, loss in
      let itsNumber = first + UInt64(index)
      return itsNumber < number ? nil : SavedLoss(number: itsNumber, loss)
    }
  }

  private func decideWhatIsKept(_ changes: StateChanges, _ isKept: (SessionID) -> Bool) {
    func decide(_ id: SessionID) {
      guard let record = sessions[id], isKept(id), !record.isKept else { return }
      record.isKept = true
      touchEverything(of: record)
    }
    // `decide` appends to these lists, so they may grow in the loop; a session that is found again is kept already.
    var index = 0
    while index < changes.holds.count {
      if !changes.holds[index].isOver { decide(changes.holds[index].session) }
      index += 1
    }
    for waiter in changes.waits where !waiter.isOver { decide(waiter.request.session) }
    for multi in changes.multiLocks where !multi.isOver { decide(multi.request.session) }
  }

  private func touchEverything(of record: SessionRecord) {
    changes?.noteHolds(of: record)
    for waiter in record.waits.values.sorted(by: { $0.request.request.rawValue < $1.request.request.rawValue }) {
      changes?.touch(waiter)
    }
    for multi in record.requestsForReplicas { changes?.touch(multi) }
  }

  private func append<Stored>(
    _ stored: Stored?, _ kind: SavedState.Kind, id: UInt64, _ mark: inout StateMark, to result: inout [StateChange],
    write: (Stored, inout StateWriter) -> Void
  ) {
    if let stored {
      if mark.record == 0 { mark.record = id }
      var writer = StateWriter()
      write(stored, &writer)
      result.append(.put(kind, id: id, writer.bytes))
    } else if mark.record != 0 {
      mark.record = 0
      result.append(.remove(kind, id: id))
    }
  }

  // MARK: Records

  private func stored(_ lease: HostLease) -> SavedLease? {
    let stage: SavedLease.Stage
    switch lease.state {
    case .asking, .queued: stage = .wanted
    case .held: stage = .held
    case .lost: stage = .lost
    case .over: return nil
    }
    let term = lease.term
    return SavedLease(
      name: lease.lock.name, attempt: lease.attempt, mode: lease.mode,
      milliseconds: lease.timeline.leaseMilliseconds, stage: stage, validUntil: term.validUntil,
      graceEnds: term.graceEnds, nextToken: term.nextToken, tokenEnd: term.tokenEnd,
      contendedSince: term.contendedSince, isSharingUnconfirmed: term.isSharingUnconfirmed,
      tokenStart: term.tokenStart, shard: lease.lock.link.pointee.shard)
  }

  private func storedReleases(of lock: LockRecord) -> SavedReleases? {
    guard !lock.unconfirmedReleases.isEmpty else { return nil }
    return SavedReleases(
      name: lock.name,
      releases: lock.unconfirmedReleases.map {
        .init(attempt: $0.attempt, unused: $0.unused, worthUntil: $0.worthUntil, isExact: $0.isExact)
      })
  }

  private func stored(_ hold: Hold) -> SavedHold? {
    guard sessions[hold.session]?.isKept == true else { return nil }
    return SavedHold(
      session: hold.session, name: hold.lock.name, token: hold.token, since: hold.since, owner: hold.owner,
      meta: hold.meta, progress: hold.progress, onLost: hold.onLost, attempt: hold.lease?.attempt ?? 0,
      mode: hold.mode, count: Int64(hold.count), endsAt: hold.endsAt, isPartial: hold.partOf != nil)
  }

  private func stored(_ waiter: Waiter) -> SavedWait? {
    stored(
      waiter.request, at: waiter, since: waiter.since,
      deadline: waiter.deadline, taken: [])
  }

  private func stored(_ multi: MultiLockRequest) -> SavedWait? {
    stored(
      multi.request, at: multi.waiter, since: multi.since, deadline: multi.deadline,
      taken: multi.taken.map { .init(name: $0.hold.lock.name, token: $0.hold.token, isReentered: $0.isReentered) })
  }

  private func stored(
    _ request: AcquireRequest, at waiter: Waiter?, since: BootInstant, deadline: BootInstant?, taken: [SavedWait.Taken]
  ) -> SavedWait? {
    guard let changes, sessions[request.session]?.isKept == true else { return nil }
    let isSeveral = if case .several = request.target { true } else { false }
    return SavedWait(
      place: waiter?.place ?? changes.lastPlace, session: request.session,
      request: request.request, names: request.names, isSeveral: isSeveral, mode: request.mode,
      waitMilliseconds: request.waitMilliseconds, maxHoldMilliseconds: request.maxHoldMilliseconds,
      owner: request.owner, meta: request.meta, progress: request.progress, onLost: request.onLost, since: since,
      deadline: deadline, taken: taken, need: request.need)
  }
}
