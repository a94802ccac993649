// Grants that clients are told of only when replicas of the store have them.
//
// Such a request takes its locks as one for several does (`LockEngine+MultiLock.swift`). When it has all, it asks the store
// how many replicas have what was granted. The store is asked after its replies to all that the request relies on, so that
// the answer covers them. Until it comes the locks are held, and nobody but the time limit is waited for.
//
// ```
//            all locks taken, and enough replicas are known to have their leases
//   taking ─────────────────────────────────────────────────────────────────────▶ told
//     ▲ │ all locks taken                                                           ▲
//     │ └───────────────▶ asking ───────────────────── enough ──────────────────────┤
//     │                    │ ▲ │ └── too few, refused ──────────▶ given back          │
//     │ a hold has ended   │ │ │ the link went down                                  │
//     ├────────────────────┘ │ ▼                                                      │
//     │                      waiting for the store to confirm a lease                │
//     └───────────────────────┘
// ```
//
// A lease remembers how many replicas have it, for as long as the link is up: who gets the lock under it next, or re-enters
// it, changes nothing in the store.

import LockTypes

/// A question to the store that is not answered.
struct OpenAcknowledgement {
  let request: MultiLockRequest
  let covered: CoveredLeases
}

/// What the answer to one question for replicas is about.
struct CoveredLeases {
  let shard: ShardID
  /// All leases of the request there, and what was written of them.
  let leases: [(lease: HostLease, written: HostLease.Written)]
  /// The link that was up.
  let link: LinkNumber

  /// Whether it is about this lease, in the data that the store has over `link`, as the request that asked relies on it: the
  /// request had its tokens when it asked, so that those which were reserved since are nothing to it.
  func has(_ lease: HostLease, on link: LinkNumber) -> Bool {
    self.link == link && leases.contains { $0.lease === lease && $0.written.leases == lease.written.leases }
  }
}

extension LockEngine {
  /// A request for locks that replicas have to have. The settings say what is asked for at the least.
  func acquireWithReplicas(_ request: AcquireRequest, for session: SessionRecord, now: BootInstant) {
    var request = request
    request.need = request.need.with(configuration.settings.need)
    guard !isLocal else {
      return refuse(
        request,
        .underReplicated(
          request.need, acknowledged: 0, "this daemon keeps its locks without Redis, so there is nothing to replicate"))
    }
    if let limit = limitMet(by: session, names: request.names.count, request) { return refuse(request, .limit(limit)) }
    acquireAll(request, now: now)
  }

  /// A request has all of its locks: its client is told, or replicas are waited for.
  func tookAll(_ multi: MultiLockRequest, of session: SessionRecord, now: BootInstant) {
    let need = multi.request.need
    guard !need.isNone else { return complete(multi, now: now) }
    if multi.acknowledging?.asked.isEmpty == false { return }
    let answered = multi.acknowledging?.answered ?? []
    let leases = multi.taken.compactMap(\.hold.lease)
    let open = leases.filter { lease in
      let link = lease.lock.link.pointee.number
      return !lease.isAcknowledged(need, on: link) && !answered.contains { $0.has(lease, on: link) }
    }
    guard let first = open.first?.lock.link else {
      counters.acknowledged += 1
      counters.acknowledgedMilliseconds += UInt64(
        max(0, multi.acknowledging.map { now.milliseconds(since: $0.since) } ?? 0))
      return complete(multi, now: now)
    }
    let stage = multi.acknowledging ?? beginAcknowledging(multi, of: session, now: now)
    guard now < stage.until else {
      // Replicas had in time what the store has written anew since.
      let isAnswered = first.pointee.isUp && answered.contains { $0.link == first.pointee.number }
      let refusal: Refusal =
        isAnswered ? .underReplicated(need, acknowledged: 0, nil) : unavailable(nil, at: first, now: now)
      return abandon(multi, refusal, now: now)
    }
    // What replicas have to have is written when the store confirms it.
    if let lease = open.first(where: { !$0.lock.link.pointee.isUp || isInDoubt($0) }) {
      lease.lock.unacknowledged.append(multi)
      return
    }
    // Each shard has replicas of its own.
    for link in links where open.contains(where: { $0.lock.link == link }) {
      let id = issued.newAcknowledgement()
      let covered = leases.filter { $0.lock.link == link }
      acknowledgements[id] = OpenAcknowledgement(
        request: multi,
        covered: CoveredLeases(
          shard: link.pointee.shard, leases: covered.map { ($0, $0.written) }, link: link.pointee.number))
      multi.acknowledging?.asked.append(id)
      effects.append(.acknowledge(link.pointee.shard, id, need, until: stage.until))
    }
  }

  private func beginAcknowledging(
    _ multi: MultiLockRequest, of session: SessionRecord, now: BootInstant
  ) -> MultiLockRequest.Acknowledging {
    let until = now.adding(milliseconds: configuration.settings.replicasTimeoutMilliseconds)
    let stage = MultiLockRequest.Acknowledging(since: now, until: until)
    multi.acknowledging = stage
    session.add(waitingForReplicas: multi)
    // If its owner has had one wait, it has two now.
    if multi.request.owner != nil { agents.edgeIsGone() }
    sessions.waitingCount += 1
    changes?.touch(multi)
    deadlines.push(.acknowledgement(multi), at: until)
    return stage
  }

  /// A request no longer waits for replicas: it is decided, or begins again.
  func endAcknowledging(_ multi: MultiLockRequest) {
    guard let stage = multi.acknowledging else { return }
    multi.acknowledging = nil
    for id in stage.asked {
      guard let open = acknowledgements.removeValue(forKey: id) else { continue }
      effects.append(.forgetAcknowledgement(open.covered.shard, id))
    }
    sessions.waitingCount -= 1
    if let session = sessions[multi.request.session] {
      session.remove(waitingForReplicas: multi)
      suspectOthers(of: multi.request, in: session)
    }
    changes?.touch(multi)
  }

  func acknowledged(_ id: AcknowledgementID, _ answer: AcknowledgementAnswer, now: BootInstant) {
    guard let open = acknowledgements.removeValue(forKey: id) else { return }
    let multi = open.request
    let need = multi.request.need
    multi.acknowledging?.asked.removeAll { $0 == id }
    switch answer {
    case .enough(let replicas):
      let found = ReplicaNeed(replicas: replicas, durability: need.durability)
      for (lease, written) in open.covered.leases { lease.acknowledged(by: found, written, on: open.covered.link) }
      multi.acknowledging?.answered.removeAll { $0.shard == open.covered.shard }
      multi.acknowledging?.answered.append(open.covered)
      makeReady(multi)
    case .tooFew(let replicas):
      abandon(multi, .underReplicated(need, acknowledged: replicas, nil), now: now)
    case .refused(let words):
      abandon(multi, .underReplicated(need, acknowledged: 0, words), now: now)
    case .unknown:
      makeReady(multi)
    }
  }

  /// The store has confirmed a lease of this lock.
  func askReplicasAgain(about lock: LockRecord) {
    let multis = lock.unacknowledged
    lock.unacknowledged = []
    for multi in multis where multi.acknowledging != nil { makeReady(multi) }
  }
}
