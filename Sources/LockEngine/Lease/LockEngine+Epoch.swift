// Which data the store has, and what happens when they are others.
//
// Nothing is granted but in the epoch that a command names. So this host asks for the epoch first on every connection, and
// the link counts as up behind the answer. A command that names another epoch than the store's is answered that, and
// changes nothing; then the epoch is asked for again.
//
// ```
//            linkUp                     answered, and the last going down has reached all locks
//   down ─────────────▶ confirming ────────────────────────────────────────────────────────────▶ up
//    ▲                    │    ▲                                                                 │
//    └──── linkDown ──────┴────┼───────────────── linkDown ──────────────────────────────────────┤
//                              │                                                                 │
//                              └── another epoch, or it is no longer told (as a going down, but  │
//                                  the connection stays)  ◀──────────────────────────────────────┘
// ```
//
// Other data are to the engine what a new link is: what was under way finds nobody any more, leases are in doubt, what is
// wanted is asked for again, and releases are repeated. Only that leases which were taken in another epoch are reclaimed
// instead of renewed (`LockEngine+Renewal.swift`).
//
// An epoch begins with a grace, in which leases are reclaimed and nothing is granted. Waits wait; tries are refused. Each
// host measures it by its own clock, from when it learned of the epoch, and then asks for its end.

import LockTypes

extension LockEngine {
  // MARK: What is known

  /// Which data the store has.
  public var storeStanding: StoreStanding { StoreStanding(epoch: link.epoch.id, graceEnds: link.epoch.graceEnds) }

  /// Whether the store has named its epoch on this connection, or has refused to.
  public var hasHeardOfEpoch: Bool { link.confirmation.isGood || link.confirmation.refusal != nil }

  /// Whether the store grants nothing, because its epoch has begun a short while ago.
  var isRecovering: Bool { link.confirmation.isGood && !link.epoch.isOpen }

  /// Why nobody can say who has a lock; `words`: what the store has said about it.
  func unavailable(_ words: String?, now: BootInstant) -> Refusal {
    guard words == nil, link.confirmation.refusal == nil, isRecovering, let end = link.epoch.graceEnds else {
      return .unavailable(words ?? link.confirmation.refusal)
    }
    // Others may have opened it, and their message may have been left out, or their users may not send it. Who waits is
    // served all the same; a try that comes again finds out.
    if link.confirmation.askedAt.map({ now.milliseconds(since: $0) >= Self.placeTrustMilliseconds }) ?? true {
      confirmEpoch(now: now)
    }
    return .recovering(retryMilliseconds: max(Self.retryMillisecondsMin, end.milliseconds(since: now)))
  }

  /// The shortest time after which somebody is told to try again, in milliseconds.
  static let retryMillisecondsMin: Int64 = 100

  // MARK: Asking for it

  /// Asks for the epoch if that is due.
  func confirmDue(now: BootInstant) {
    if let due = link.confirmation.due, due <= now { confirmEpoch(now: now) }
  }

  func confirmEpoch(now: BootInstant) {
    guard link.isConnected, link.confirmation.command == nil else { return }
    let epoch = link.epoch
    let waited = epoch.waitedMilliseconds(now: now)
    let longest = link.longestTimeline.leaseMilliseconds
    let byClock = epoch.tokenByClock(now: now).flatMap { $0 < NumberSource.tokenFloorEnd ? $0 : nil }
    let sign = link.life.sign(milliseconds: configuration.settings.shorterDeadHostMilliseconds)
    // A successor of this process has to know it before the store does.
    if link.life.sent(sign, now: now) { changes?.touchEpoch() }
    let id = send(
      .confirmEpoch(
        EpochClaim(
          attempt: issued.newClaim(now: now), known: epoch.id, isFirstOfLink: link.confirmation.isFirst,
          longestLeaseMilliseconds: longest, graceMilliseconds: max(longest, epoch.graceOfNextMilliseconds),
          tokenFloor: issued.tokenFloor, tokenFloorOfNew: byClock ?? 0, waitedMilliseconds: waited,
          mayBeFirst: epoch.number == 0 && !hasLeasesOfBefore, lifeSign: sign)),
      .confirm(leaseMilliseconds: longest, sign), now: now)
    link.confirmation.sent(id, now: now)
  }

  /// A command was answered that its epoch is not the store's, or there is another sign of it.
  func epochIsDoubted(now: BootInstant) {
    // A question that is under way is answered behind this.
    link.confirmation.isDoubted = true
    let retry =
      link.confirmation.refusals > 1
      ? retry(afterRefusals: link.confirmation.refusals, now: now)
      : link.confirmation.askedAt.map { $0.adding(milliseconds: epochPauseMilliseconds) } ?? now
    if retry <= now { return confirmEpoch(now: now) }
    link.confirmation.at = link.confirmation.at.map { min($0, retry) } ?? retry
  }

  /// How long after a question for the epoch the next one may come, in milliseconds.
  private var epochPauseMilliseconds: Int64 {
    link.epoch.pauseMilliseconds(
      leaseMilliseconds: link.shortestTimeline.leaseMilliseconds, first: configuration.foreignPollMilliseconds)
  }

  /// Somebody has begun or opened an epoch, or takes longer leases. If this host begins the next one it has to know that, so
  /// the message tells it, and comes before the loss of what it tells of. Who can only write to the inbox does not know the
  /// name of the epoch, and can have it asked for now and then.
  func epochHasChanged(longestLeaseMilliseconds longest: Int64, epoch: String, now: BootInstant) {
    if epoch == link.epoch.id.text, link.epoch.isNews(leaseMilliseconds: longest) {
      link.epoch.leasesAreLonger(longest)
      changes?.touchEpoch()
    }
    // A question that is under way is answered behind this.
    guard link.confirmation.isGood, link.confirmation.command == nil else { return }
    let pause = max(configuration.foreignPollMilliseconds, epochPauseMilliseconds)
    let soon = link.confirmation.askedAt?.adding(milliseconds: pause) ?? now
    if soon <= now { return confirmEpoch(now: now) }
    link.confirmation.at = link.confirmation.at.map { min($0, soon) } ?? soon
  }

  /// Whether to take such a message in, however many others there are.
  func epochIsAwaited(longestLeaseMilliseconds longest: Int64, epoch: String) -> Bool {
    epoch == link.epoch.id.text && link.epoch.isNews(leaseMilliseconds: longest)
  }

  func confirmReplied(
    _ reply: LeaseReply, toldLeaseMilliseconds told: Int64, _ sign: LifeSign, sentAt: BootInstant, now: BootInstant
  ) {
    guard case .epoch(let sight) = reply, sight.id.isSound else { return confirmRefused(reply.words, now: now) }
    issued.tokenIsKnown(sight.tokenFloor)
    let news = link.epoch.learned(sight, sentAt: sentAt, now: now)
    changes?.touchEpoch()
    let isDoubted = link.confirmation.isDoubted
    let isOther = news == .other
    if isOther { counters.epochs += 1 }
    link.confirmation.answered(toldLeaseMilliseconds: told, isAgain: isDoubted && !isOther)
    // Where it was not opened although it was waited for, its grace was raised. One that is open is asked for again before
    // the grace of one that follows can be over: whoever comes later has to begin another one.
    let next = now.adding(milliseconds: configuration.foreignPollMilliseconds)
    let lease = link.longestTimeline.leaseMilliseconds
    let due = link.epoch.graceEnds.map { max($0, next) } ?? max(now.adding(milliseconds: lease / 2), next)
    link.confirmation.at = min(due, HostLife.nextSign(after: sign, sentAt: sentAt, now: now) ?? due)
    if !link.life.answered(sign, sentAt: sentAt, now: now) {
      // Others may take this host for dead already.
      link.confirmation.voided()
      confirmEpoch(now: now)
    }
    let wanted = link.life.sign(milliseconds: configuration.settings.shorterDeadHostMilliseconds)
    // The setting has changed while this was under way.
    if wanted != sign, wanted != .none { confirmEpoch(now: now) }
    if link.isUp {
      if isOther || isDoubted {
        dataAreOthers(now: now)
      } else if news == .opened {
        link.opened()
        locks.all.beginWalk()
      }
    }
    if told < link.longestTimeline.leaseMilliseconds {
      // Nobody has asked for a longer lease yet.
      if !link.isUp { link.confirmation.voided() }
      confirmEpoch(now: now)
    }
    goOnWithLink(now: now)
  }

  /// Without the epoch nothing can be granted, so everybody who waits hears the words.
  private func confirmRefused(_ words: String, now: BootInstant) {
    let isNews = words != link.confirmation.refusal
    link.confirmation.refused(words)
    let retry = retry(afterRefusals: link.confirmation.refusals, now: now)
    // A refusal may pass before the life of this host does.
    link.confirmation.at = min(retry, link.life.nextTry(now: now) ?? retry)
    if link.isUp {
      // What is known of it has not changed.
      guard link.confirmation.isDoubted else { return }
      link.confirmation.voided()
      dataAreOthers(now: now)
    } else if isNews, !link.confirmation.isGood {
      locks.all.beginWalk()
    }
    goOnWithLink(now: now)
  }

  // MARK: Life

  /// Ends the life of this host if its time is over, and with it everything that this host has: others may have taken it. As
  /// when a link goes down, and nothing is asked for before the store has executed another sign.
  func endLife(now: BootInstant) {
    guard let end = link.life.ends, end <= now else { return }
    link.life.end()
    link.confirmation.voided()
    _ = link.isUp && link.wentDown(keepingConnection: true)
    if link.isConnected, link.confirmation.command == nil { link.confirmation.at = now }
    locks.all.beginWalk()
    goOnWithLink(now: now)
  }

  /// Until when a lease that is held is valid.
  func validUntil(_ lease: HostLease) -> BootInstant {
    min(lease.term.validUntil, link.life.validUntil(of: lease.life))
  }

  /// What this host knows of the store's locks is void, as when a link goes down. The connection stays.
  private func dataAreOthers(now: BootInstant) {
    guard link.wentDown(keepingConnection: true) else { return }
    locks.all.beginWalk()
  }
}
