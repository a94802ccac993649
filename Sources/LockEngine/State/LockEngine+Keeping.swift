// What outlives the process: changes are noted as they happen, and a successor begins with what was noted.
//
// What clients have is kept for some sessions only: those whose connection will be handed to the successor. Leases are
// kept in any case, so that the successor can give back what nobody has any more.

public import LockTypes

/// What is known of a thing's record.
struct StateMark {
  /// It is in the list of what changed.
  var isTouched = false
  /// The number of its record; 0: there is none.
  var record: UInt64 = 0
  /// For a waiter: its place among all waiters, in the order in which they came into their queues.
  var place: UInt64 = 0
}

/// What changed since the changes were last taken. Each thing is in it once, in the order in which it first changed.
final class StateChanges {
  var leases: [HostLease] = []
  var releases: [LockRecord] = []
  var holds: [Hold] = []
  var waits: [Waiter] = []
  var several: [SeveralRequest] = []
  /// Nobody takes changes any more.
  private var isOver = false
  private var lastRecord: UInt64 = 0
  private(set) var lastPlace: UInt64 = 0

  func touch(_ lease: HostLease) {
    guard !lease.mark.isTouched, !isOver else { return }
    lease.mark.isTouched = true
    leases.append(lease)
  }

  func touch(_ lock: LockRecord) {
    guard !lock.mark.isTouched, !isOver else { return }
    lock.mark.isTouched = true
    releases.append(lock)
  }

  func touch(_ hold: Hold) {
    if let several = hold.several { touch(several) }
    guard !hold.mark.isTouched, !isOver else { return }
    hold.mark.isTouched = true
    holds.append(hold)
  }

  func touch(_ waiter: Waiter) {
    if waiter.mark.place == 0 {
      lastPlace += 1
      waiter.mark.place = lastPlace
    }
    if let several = waiter.several { return touch(several) }
    guard !waiter.mark.isTouched, !isOver else { return }
    waiter.mark.isTouched = true
    waits.append(waiter)
  }

  func touch(_ request: SeveralRequest) {
    guard !request.mark.isTouched, !isOver else { return }
    request.mark.isTouched = true
    several.append(request)
  }

  /// Forgets what changed, and notes nothing until it is resumed. Places are given all the same.
  func stop() {
    guard !isOver else { return }
    isOver = true
    for lease in leases { lease.mark.isTouched = false }
    for lock in releases { lock.mark.isTouched = false }
    for hold in holds { hold.mark.isTouched = false }
    for waiter in waits { waiter.mark.isTouched = false }
    for request in several { request.mark.isTouched = false }
    leases = []
    releases = []
    holds = []
    waits = []
    several = []
  }

  /// Notes what changes from now on.
  func resume() { isOver = false }

  /// A number for a record that has none.
  func number(_ mark: inout StateMark) -> UInt64 {
    if mark.record == 0 {
      lastRecord += 1
      mark.record = lastRecord
    }
    return mark.record
  }
}

extension LockEngine {
  // MARK: Keeping

  /// Has changes noted from now on. To be called before anything has happened.
  public func recordChanges() {
    changes = StateChanges()
  }

  /// Has no changes noted any more: nobody will take them, and each would keep what it is about.
  public func stopRecordingChanges() { changes?.stop() }

  /// Has changes noted again. What there is already has to be noted by ``noteEverything(behind:atMost:)``.
  public func resumeRecordingChanges() { changes?.resume() }

  /// Notes all that there is of some locks as if it had changed: of those behind `name` in their order, until it comes to
  /// about so many things.
  ///
  /// - Returns: the last lock that was noted; nil when there is none behind.
  public func noteEverything(behind name: LockName?, atMost count: Int) -> LockName? {
    guard let changes else { return nil }
    var left = count
    var last: LockName?
    locks.names.forEach(from: name ?? LockName(bytes: []), inclusive: name == nil) { name in
      guard left > 0 else { return true }
      last = name
      guard let lock = locks[name] else { return false }
      left -= 1
      for lease in lock.leases + [lock.wanted].compactMap({ $0 }) {
        changes.touch(lease)
        left -= 1
      }
      if !lock.unconfirmedReleases.isEmpty { changes.touch(lock) }
      for hold in lock.holds where !hold.isOver {
        changes.touch(hold)
        left -= 1
      }
      for waiter in lock.queue.live {
        changes.touch(waiter)
        left -= 1
      }
      return false
    }
    return last
  }

  /// What changed since the last time.
  ///
  /// - Parameter isKept: asked for each session of which something changed and that has a hold or a wait: whether that
  ///   shall outlive this process.
  public func takeChanges(isKept: (SessionID) -> Bool) -> [StateChange] {
    guard let changes else { return [] }
    var result: [StateChange] = []
    decideWhatIsKept(changes, isKept)
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
    for several in changes.several {
      several.mark.isTouched = false
      let stored = several.isOver ? nil : stored(several)
      append(stored, .wait, id: several.request.request.rawValue, &several.mark, to: &result) { $0.write(to: &$1) }
    }
    changes.leases.removeAll(keepingCapacity: true)
    changes.releases.removeAll(keepingCapacity: true)
    changes.holds.removeAll(keepingCapacity: true)
    changes.waits.removeAll(keepingCapacity: true)
    changes.several.removeAll(keepingCapacity: true)
    return result
  }

  /// What a session has does not outlive this process any more.
  func stopKeeping(_ session: SessionID) {
    guard let record = sessions[session], record.isKept else { return }
    record.isKept = false
    touchEverything(of: record)
  }

  /// Ends what a session has, because its connection will not outlive this process: its waits are refused, its holds are
  /// lost.
  func evict(_ session: SessionID, now: BootInstant) {
    stepsLeft = .max
    guard let record = sessions[session] else { return }
    let waiters = record.waits.values.sorted { $0.request.request.rawValue < $1.request.request.rawValue }
    for waiter in waiters where !waiter.isOver { refuse(waiter, .shuttingDown, now: now) }
    let holds = record.allHolds
    for hold in holds where !hold.isOver { lose(hold, reason: .shutdown, graceEnds: nil, now: now) }
    for lock in waiters.map(\.lock) + holds.map(\.lock) { advance(lock, now: now) }
  }

  /// The numbers that must never be used twice, to be kept beside the records.
  public var numbers: [UInt64] {
    issued.saved
  }

  /// The losses of a session that are remembered, for its own record.
  public func writeLosses(of session: SessionID, to writer: inout StateWriter) {
    let losses = sessions[session]?.losses ?? []
    writer.write(UInt64(losses.count))
    for loss in losses {
      writer.write(loss.name.bytes)
      writer.write(loss.token)
      writer.write(loss.reason.rawValue)
    }
  }

  private func decideWhatIsKept(_ changes: StateChanges, _ isKept: (SessionID) -> Bool) {
    func decide(_ id: SessionID) {
      guard let record = sessions[id], isKept(id), !record.isKept else { return }
      record.isKept = true
      touchEverything(of: record)
    }
    // What is found to belong to a session that is kept from now on is added behind, and found kept.
    var index = 0
    while index < changes.holds.count {
      if !changes.holds[index].isOver { decide(changes.holds[index].session) }
      index += 1
    }
    for waiter in changes.waits where !waiter.isOver { decide(waiter.request.session) }
    for several in changes.several where !several.isOver { decide(several.request.session) }
  }

  private func touchEverything(of record: SessionRecord) {
    for hold in record.allHolds { changes?.touch(hold) }
    for waiter in record.waits.values.sorted(by: { $0.request.request.rawValue < $1.request.request.rawValue }) {
      changes?.touch(waiter)
    }
  }

  private func append<Stored>(
    _ stored: Stored?, _ kind: StoredState.Kind, id: UInt64, _ mark: inout StateMark, to result: inout [StateChange],
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

  private func stored(_ lease: HostLease) -> StoredLease? {
    let stage: StoredLease.Stage
    switch lease.state {
    case .asking, .queued: stage = .wanted
    case .held: stage = .held
    case .lost: stage = .lost
    case .over: return nil
    }
    let term = lease.term
    return StoredLease(
      name: lease.lock.name, attempt: lease.attempt, mode: lease.mode,
      milliseconds: lease.timeline.leaseMilliseconds, stage: stage, validUntil: term.validUntil,
      graceEnds: term.graceEnds, nextToken: term.nextToken, tokenEnd: term.tokenEnd,
      contendedSince: term.contendedSince, isSharingUnconfirmed: term.isSharingUnconfirmed)
  }

  private func storedReleases(of lock: LockRecord) -> StoredReleases? {
    guard !lock.unconfirmedReleases.isEmpty else { return nil }
    return StoredReleases(
      name: lock.name,
      releases: lock.unconfirmedReleases.map {
        .init(attempt: $0.attempt, unused: $0.unused, worthUntil: $0.worthUntil, isExact: $0.isExact)
      })
  }

  private func stored(_ hold: Hold) -> StoredHold? {
    guard sessions[hold.session]?.isKept == true else { return nil }
    return StoredHold(
      session: hold.session, name: hold.lock.name, token: hold.token, since: hold.since, owner: hold.owner,
      meta: hold.meta, progress: hold.progress, onLost: hold.onLost, attempt: hold.lease?.attempt ?? 0,
      mode: hold.mode, count: Int64(hold.count), endsAt: hold.endsAt, isPartial: hold.several != nil)
  }

  private func stored(_ waiter: Waiter) -> StoredWait? {
    stored(
      waiter.request, at: waiter, names: [waiter.lock.name], isSeveral: false, since: waiter.since,
      deadline: waiter.deadline, taken: [])
  }

  private func stored(_ several: SeveralRequest) -> StoredWait? {
    stored(
      several.request, at: several.waiter, names: several.names, isSeveral: true, since: several.since,
      deadline: several.deadline,
      taken: several.taken.map { .init(name: $0.hold.lock.name, token: $0.hold.token, isReentered: $0.isReentered) })
  }

  private func stored(
    _ request: AcquireRequest, at waiter: Waiter?, names: [LockName], isSeveral: Bool, since: BootInstant,
    deadline: BootInstant?, taken: [StoredWait.Taken]
  ) -> StoredWait? {
    guard let changes, sessions[request.session]?.isKept == true else { return nil }
    return StoredWait(
      place: waiter?.mark.place ?? changes.lastPlace, session: request.session,
      request: request.request, names: names, isSeveral: isSeveral, mode: request.mode,
      waitMilliseconds: request.waitMilliseconds, maxHoldMilliseconds: request.maxHoldMilliseconds,
      owner: request.owner, meta: request.meta, progress: request.progress, onLost: request.onLost, since: since,
      deadline: deadline, taken: taken)
  }

  // MARK: Beginning with what a predecessor left

  /// See ``Event/restored(_:numbers:)``.
  func restore(_ state: StoredState, numbers: [UInt64], now: BootInstant) {
    stepsLeft = .max
    for session in sessions.all { session.isKept = true }
    issued.restore(numbers)
    var leases: [UInt64: HostLease] = [:]
    leases.reserveCapacity(state.leases.count)
    let storedHolds = inOrder(state.holds, by: \.order)
    if isLocal {
      let names = storedHolds.lazy.filter { [sessions] in sessions[$0.session] != nil }.map(\.name)
      _ = locks.records(for: names, change: link.change, changes: changes, tally: tally)
    } else {
      let storedLeases = inOrder(state.leases, by: \.attempt)
      let records = locks.records(
        for: storedLeases.lazy.map(\.name), change: link.change, changes: changes, tally: tally)
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
    for stored in inOrder(state.waits, by: \.place) { restore(stored, now: now) }
    for lease in leases.values where lease.isContended { rememberWhoCameFirst(lease) }
    // Its client was never told that it has it, and never will be.
    for hold in partial where hold.several == nil && !hold.isOver { end(hold) }
    for lock in Array(locks.all) { advance(lock, now: now) }
  }

  /// The records by that key. They are large: what is moved about to sort them are their places.
  private func inOrder<Record, Key: Comparable>(_ records: [Record], by key: (Record) -> Key) -> [Record] {
    var places = records.indices.map { (key: key(records[$0]), place: $0) }
    places.sort { $0.key < $1.key }
    return places.map { records[$0.place] }
  }

  private func restore(_ stored: StoredLease, _ lock: LockRecord, now: BootInstant) -> HostLease {
    let lease = HostLease(stored, lock: lock, now: now)
    link.note(lease.timeline)
    issued.attemptIsUsed(stored.attempt)
    switch stored.stage {
    case .wanted:
      if let earlier = lock.wanted { giveUp(earlier, now: now) }
      lock.wanted = lease
      link.wanted.append(lease, at: now)
    case .held:
      lock.leases.append(lease)
      deadlines.leaseEnds.push(lease, at: lease.term.validUntil)
      link.doubtful.push(lease, at: lease.term.validUntil)
    case .lost:
      lock.leases.append(lease)
      deadlines.leaseEnds.push(lease, at: lease.term.graceEnds)
    }
    if stored.stage != .wanted { lock.tokenFloor = max(lock.tokenFloor, stored.nextToken - 1) }
    return lease
  }

  /// Who waits here since before another host did is served before it.
  private func rememberWhoCameFirst(_ lease: HostLease) {
    guard let since = lease.term.contendedSince else { return }
    lease.restoredCohort(upTo: lease.lock.queue.live.prefix { $0.since < since }.map(\.arrival).max() ?? 0)
  }

  private func restore(_ stored: StoredHold, _ leases: [UInt64: HostLease], now: BootInstant) -> Hold? {
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
      lock: lock, token: stored.token, lease: lease, since: stored.since)
    hold.count = Int(clamping: stored.count)
    add(hold, to: session)
    hold.endsAt = stored.endsAt
    if let end = hold.endsAt { deadlines.push(.maxHold(hold), at: end) }
    if isLocal { issued.localTokenIsUsed(stored.token) }
    return hold
  }

  private func restore(_ stored: StoredWait, now: BootInstant) {
    guard let session = sessions[stored.session] else { return }
    let request = stored.acquireRequest
    guard stored.isSeveral else {
      let isTry = request.waitMilliseconds == 0
      // A try is decided by an ask of this process.
      let deadline = isTry ? now.adding(milliseconds: configuration.settings.storeTimeoutMilliseconds) : stored.deadline
      let waiter = Waiter(
        request, lock: record(for: stored.names[0]), since: stored.since, deadline: deadline, several: nil)
      enqueue(waiter, of: session)
      if let deadline { deadlines.push(.wait(waiter), at: deadline) }
      return armDeadlockSearch(for: waiter, now: now)
    }
    let several = SeveralRequest(
      request, names: stored.names, since: stored.since, deadline: stored.deadline, tally: tally)
    for taken in stored.taken {
      guard let hold = session.hold(of: taken.name, token: taken.token) else { continue }
      several.taken.append((hold, taken.isReentered))
      if !taken.isReentered { hold.several = several }
    }
    if several.taken.count < stored.taken.count {
      restart(several, now: now)
    } else {
      makeReady(several)
    }
    // At once, so that it comes before those that came after it.
    proceedWithSeveral(now: now)
  }
}
