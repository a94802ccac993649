// The conversation with the store: commands go out here, and replies and pushes find their lease. Its life stands in
// the files beside this one: `+Asking` until it is held or given up, `+Renewal` and `+LeaseEnds` while it is held and
// when it is gone, `+Sharing` who else has it, `+Releasing` how it is given back.

import LockTypes

extension LockEngine {
  @discardableResult
  func send(
    _ command: LeaseCommand, _ kind: PendingCommand.Kind, on link: LinkReference, now: BootInstant
  ) -> CommandID {
    let id = issued.newCommand()
    link.pointee.send(id, kind, now: now)
    effects.append(.send(link.pointee.shard, id, command))
    return id
  }

  func replyReceived(_ command: CommandID, _ reply: LeaseReply, over link: LinkReference, now: BootInstant) {
    guard let command = link.pointee.answered(command, now: now) else { return }
    if case .confirm(let told, let sign) = command.kind {
      return confirmReplied(
        reply, toldLeaseMilliseconds: told, sign, over: link, sentAt: command.sentAt, now: now)
    }
    counters.answers.count(since: command.sentAt, now: now)
    // Nothing was changed by it. What it was for is asked for again when the epoch is known.
    if case .otherEpoch = reply { return epochIsDoubted(of: link, now: now) }
    switch command.kind {
    case .acquire(let lease, let ask):
      guard isHome(link, of: lease.lock, now: now) || lease.isOver else {
        if case .granted(let grant) = reply { grantIsKnown(grant, of: lease.lock) }
        return
      }
      if case .queued(_, _, _, let place?) = reply {
        link.pointee.epoch.clockShown(place.clock, sentAt: command.sentAt)
      }
      acquireReplied(lease, ask: ask, reply, sentAt: command.sentAt, now: now)
    case .release(let name, let attempt):
      releaseReplied(name, attempt: attempt, reply, over: link, now: now)
    case .renew(let batch):
      renewReplied(batch, reply, isReclaim: false, over: link, sentAt: command.sentAt, now: now)
    case .reclaim(let batch):
      renewReplied(batch, reply, isReclaim: true, over: link, sentAt: command.sentAt, now: now)
    case .share(let lease):
      if isHome(link, of: lease.lock, now: now) { shareReplied(lease, reply, now: now) }
    case .reserve(let lease):
      if isHome(link, of: lease.lock, now: now) { reserveReplied(lease, reply, now: now) }
    case .places(let leases):
      placesReplied(leases, reply, over: link, sentAt: command.sentAt, now: now)
    case .clock(let waiter):
      clockReplied(waiter, reply, sentAt: command.sentAt, now: now)
    case .follow(let probe):
      if case .seen(let sight) = reply { forward(probe, to: sight, now: now) }
    case .confirm, .other:
      break
    }
  }

  func pushReceived(_ push: LeasePush, over link: LinkReference, now: BootInstant) {
    switch push {
    case .granted(let name, let attempt, let grant):
      catchUp(name, now: now)
      guard let lease = lease(of: name, attempt: attempt) else {
        // This host waited once and left; its release crossed this message, or was lost.
        return releaseStrayGrant(name, attempt: attempt, unused: .all, now: now)
      }
      // A grant before the link is up for the engine is left out: the answer to the ask that follows repeats it.
      guard isHome(link, of: lease.lock, now: now), link.pointee.isUp,
        let lastAnsweredSentAt = link.pointee.lastAnsweredSentAt
      else {
        return
      }
      if lease.lock.wanted === lease, let askedAt = lease.firstAskedAt {
        counters.leaseHandovers.count(since: askedAt, now: now)
      }
      leaseGranted(lease, grant, executedAfter: lastAnsweredSentAt, now: now)
    case .contended(let name, let attempt, let ask, let isTry, let inbox, _):
      catchUp(name, now: now)
      guard let lease = lease(of: name, attempt: attempt) else {
        return releaseStrayGrant(name, attempt: attempt, unused: .unknown, now: now)
      }
      guard isHome(link, of: lease.lock, now: now) else { return }
      contended(lease, ask: ask, isTry: isTry, inbox: inbox, now: now)
    case .inUse(let name, let ask):
      catchUp(name, now: now)
      if let lock = locks[name], isHome(link, of: lock, now: now) { inUseTold(lock, ask: ask, now: now) }
    case .epochChanged(let longest, let epoch):
      epochHasChanged(longestLeaseMilliseconds: longest, epoch: epoch, of: link, now: now)
    case .hostMessage(let message):
      told(message, now: now)
    }
  }

  /// Whether a message is about something that this host waits for, or has to know. A stranger who can only write to
  /// the inbox cannot fake many: an attempt cannot be guessed, and everything else that is waited for comes once.
  ///
  /// Any message may be left out, except the grant of an attempt that this host has, and that leases are longer than
  /// before: its sender repeats it or asks the store, or a lease ends by itself.
  public func isAwaited(_ push: LeasePush) -> Bool {
    switch push {
    case .granted(let name, let attempt, _):
      // Also of a held one: the store may have lost it and granted it anew, with tokens that have to be known.
      lease(of: name, attempt: attempt) != nil
    case .contended(let name, let attempt, _, _, _, _):
      lease(of: name, attempt: attempt).map { $0.isHeld && !$0.isContended } ?? false
    case .inUse(let name, let ask):
      // Of a semaphore each holder says so.
      locks[name].map { lock in
        lock.ask == ask && (lock.conflict != nil || lock.queue.first.map { $0.isTry && $0.answersWanted <= 1 } ?? false)
      } ?? false
    case .epochChanged(let longest, let epoch):
      epochIsAwaited(longestLeaseMilliseconds: longest, epoch: epoch)
    case .hostMessage:
      false
    }
  }

  func lease(of name: LockName, attempt: UInt64) -> HostLease? {
    guard let lock = locks[name] else { return nil }
    if let wanted = lock.wanted, wanted.attempt == attempt { return wanted }
    return lock.leases.first { $0.attempt == attempt }
  }

  // MARK: Where the store refuses

  /// When to ask a store again that has refused `count` times: soon at first, since most states pass soon, and then
  /// less and less often, since every lock asks for itself.
  func retry(afterRefusals count: Int, now: BootInstant) -> BootInstant {
    let delay = configuration.foreignPollMilliseconds << Int64(min(max(count - 2, 0), 10))
    return now.adding(milliseconds: min(delay, max(configuration.foreignPollMilliseconds, Self.retryMillisecondsMax)))
  }

  /// The longest pause between two asks that the store refuses, in milliseconds.
  static let retryMillisecondsMax: Int64 = 1000

  /// The store refused what a lease needs before the lock can be granted here. Tries that have not asked are refused.
  func refused(_ words: String, _ lock: LockRecord, now: BootInstant) {
    guard !lock.queue.isEmpty else { return }
    lock.storeRefusal = words
    for waiter in lock.queue.triesBeforeAsking where !waiter.isOver { refuse(waiter, .unavailable(words), now: now) }
    progressChanged(lock, now: now)
    if lock.queue.isEmpty { advance(lock, now: now) }
  }
}
