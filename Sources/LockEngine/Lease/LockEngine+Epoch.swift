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

  /// Which data a shard has: of the store, if it has no other one.
  public func storeStanding(of shard: ShardID = .only) -> StoreStanding {
    guard let link = links[shard] else { return StoreStanding() }
    return StoreStanding(epoch: link.pointee.epoch.id, graceEnds: link.pointee.epoch.graceEnds)
  }

  /// Whether every shard that is connected has named its epoch on its connection, or has refused to.
  public var hasHeardOfEpochs: Bool {
    links.allSatisfy {
      !$0.pointee.isConnected || $0.pointee.confirmation.isGood || $0.pointee.confirmation.refusal != nil
    }
  }

  /// Which data the shards have, all together: that of the shard whose grace is over last, or of any where none has one.
  /// `recovering`: how many have one.
  public var storeStandings: (recovering: Int, last: StoreStanding) {
    var (recovering, last) = (0, storeStanding(of: links.first.pointee.shard))
    for link in links where link.pointee.isConnected {
      guard let end = link.pointee.epoch.graceEnds else { continue }
      recovering += 1
      if last.graceEnds.map({ $0 < end }) ?? true { last = StoreStanding(epoch: link.pointee.epoch.id, graceEnds: end) }
    }
    return (recovering, last)
  }

  /// Why nobody can say who has a lock whose home this is; `words`: what the store has said about it.
  func unavailable(_ words: String?, at link: LinkReference, now: BootInstant) -> Refusal {
    guard words == nil, link.pointee.confirmation.refusal == nil, link.pointee.isRecovering,
      let end = link.pointee.epoch.graceEnds
    else {
      return .unavailable(words ?? link.pointee.confirmation.refusal)
    }
    // Others may have opened it, and their message may have been left out, or their users may not send it. Who waits is
    // served all the same; a try that comes again finds out.
    if link.pointee.confirmation.askedAt.map({ now.milliseconds(since: $0) >= Self.placeTrustMilliseconds }) ?? true {
      confirmEpoch(on: link, now: now)
    }
    return .recovering(retryMilliseconds: max(Self.retryMillisecondsMin, end.milliseconds(since: now)))
  }

  /// The shortest time after which somebody is told to try again, in milliseconds.
  static let retryMillisecondsMin: Int64 = 100

  // MARK: Asking for it

  /// Asks for the epoch if that is due.
  func confirmDue(on link: LinkReference, now: BootInstant) {
    if let due = link.pointee.confirmation.due, due <= now { confirmEpoch(on: link, now: now) }
  }

  func confirmEpoch(on link: LinkReference, now: BootInstant) {
    guard link.pointee.isConnected, link.pointee.confirmation.command == nil else { return }
    let epoch = link.pointee.epoch
    let waited = epoch.waitedMilliseconds(now: now)
    let longest = link.pointee.longestTimeline.leaseMilliseconds
    // Names that have moved here were given tokens by another shard's clock.
    var byClock: Token = 0
    for link in links {
      if let token = link.pointee.epoch.tokenByClock(now: now), token < NumberSource.tokenFloorEnd {
        byClock = max(byClock, token)
      }
    }
    let sign = link.pointee.life.sign(milliseconds: configuration.settings.shorterDeadHostMilliseconds)
    // A successor of this process has to know it before the store does.
    if link.pointee.life.sent(sign, now: now) { changes?.touchEpoch() }
    let id = send(
      .confirmEpoch(
        EpochClaim(
          attempt: issued.newClaim(now: now), known: epoch.id, isFirstOfLink: link.pointee.confirmation.isFirst,
          longestLeaseMilliseconds: longest, graceMilliseconds: max(longest, epoch.graceOfNextMilliseconds),
          tokenFloor: issued.tokenFloor, tokenFloorOfNew: byClock, waitedMilliseconds: waited,
          mayBeFirst: epoch.number == 0 && !hasLeasesOfBefore && !isStoreInUse, lifeSign: sign)),
      .confirm(leaseMilliseconds: longest, sign), on: link, now: now)
    link.pointee.confirmation.sent(id, now: now)
  }

  /// Whether a shard is in an epoch that this host has not begun. Then one without any is not new: it has lost what it had.
  private var isStoreInUse: Bool {
    guard !links.isSingle else { return false }
    return links.contains { link in
      let id = link.pointee.epoch.id
      return id != .none && !id.text.utf8.starts(with: "\(id.number):\(configuration.inbox):".utf8)
    }
  }

  /// A command was answered that its epoch is not the store's, or there is another sign of it.
  func epochIsDoubted(of link: LinkReference, now: BootInstant) {
    // A question that is under way is answered behind this.
    link.pointee.confirmation.isDoubted = true
    let retry =
      link.pointee.confirmation.refusals > 1
      ? retry(afterRefusals: link.pointee.confirmation.refusals, now: now)
      : link.pointee.confirmation.askedAt.map { $0.adding(milliseconds: epochPauseMilliseconds(of: link)) } ?? now
    if retry <= now { return confirmEpoch(on: link, now: now) }
    link.pointee.confirmation.at = link.pointee.confirmation.at.map { min($0, retry) } ?? retry
  }

  /// How long after a question for the epoch the next one may come, in milliseconds.
  private func epochPauseMilliseconds(of link: LinkReference) -> Int64 {
    link.pointee.epoch.pauseMilliseconds(
      leaseMilliseconds: link.pointee.shortestTimeline.leaseMilliseconds, first: configuration.foreignPollMilliseconds)
  }

  /// Somebody has begun or opened an epoch, or takes longer leases. If this host begins the next one it has to know that, so
  /// the message tells it, and comes before the loss of what it tells of. Who can only write to the inbox does not know the
  /// name of the epoch, and can have it asked for now and then.
  func epochHasChanged(
    longestLeaseMilliseconds longest: Int64, epoch: String, of link: LinkReference, now: BootInstant
  ) {
    if epoch == link.pointee.epoch.id.text, link.pointee.epoch.isNews(leaseMilliseconds: longest) {
      link.pointee.epoch.leasesAreLonger(longest)
      changes?.touchEpoch()
    }
    // A question that is under way is answered behind this.
    guard link.pointee.confirmation.isGood, link.pointee.confirmation.command == nil else { return }
    let pause = max(configuration.foreignPollMilliseconds, epochPauseMilliseconds(of: link))
    let soon = link.pointee.confirmation.askedAt?.adding(milliseconds: pause) ?? now
    if soon <= now { return confirmEpoch(on: link, now: now) }
    link.pointee.confirmation.at = link.pointee.confirmation.at.map { min($0, soon) } ?? soon
  }

  /// Whether to take such a message in, however many others there are.
  func epochIsAwaited(longestLeaseMilliseconds longest: Int64, epoch: String) -> Bool {
    links.contains { $0.pointee.epoch.id.text == epoch && $0.pointee.epoch.isNews(leaseMilliseconds: longest) }
  }

  func confirmReplied(
    _ reply: LeaseReply, toldLeaseMilliseconds told: Int64, _ sign: LifeSign, over link: LinkReference,
    sentAt: BootInstant, now: BootInstant
  ) {
    guard case .epoch(let sight) = reply, sight.id.isSound else {
      return confirmRefused(reply.words, by: link, now: now)
    }
    issued.tokenIsKnown(sight.tokenFloor)
    let news = link.pointee.epoch.learned(sight, sentAt: sentAt, now: now)
    changes?.touchEpoch()
    let isDoubted = link.pointee.confirmation.isDoubted
    let isOther = news == .other
    if isOther { counters.epochs += 1 }
    link.pointee.confirmation.answered(toldLeaseMilliseconds: told, isAgain: isDoubted && !isOther)
    // Where it was not opened although it was waited for, its grace was raised. One that is open is asked for again before
    // the grace of one that follows can be over: whoever comes later has to begin another one.
    let next = now.adding(milliseconds: configuration.foreignPollMilliseconds)
    let lease = link.pointee.longestTimeline.leaseMilliseconds
    let due = link.pointee.epoch.graceEnds.map { max($0, next) } ?? max(now.adding(milliseconds: lease / 2), next)
    link.pointee.confirmation.at = min(due, HostLife.nextSign(after: sign, sentAt: sentAt, now: now) ?? due)
    if !link.pointee.life.answered(sign, sentAt: sentAt, now: now) {
      // Others may take this host for dead already.
      link.pointee.confirmation.voided()
      confirmEpoch(on: link, now: now)
    }
    let wanted = link.pointee.life.sign(milliseconds: configuration.settings.shorterDeadHostMilliseconds)
    // The setting has changed while this was under way.
    if wanted != sign, wanted != .none { confirmEpoch(on: link, now: now) }
    if link.pointee.isUp {
      if isOther || isDoubted {
        dataAreOthers(at: link, now: now)
      } else if news == .opened {
        link.pointee.opened()
        link.pointee.locks.beginWalk()
      }
    }
    if told < link.pointee.longestTimeline.leaseMilliseconds {
      // Nobody has asked for a longer lease yet.
      if !link.pointee.isUp { link.pointee.confirmation.voided() }
      confirmEpoch(on: link, now: now)
    }
    goOn(with: link, now: now)
  }

  /// Without the epoch nothing can be granted, so everybody who waits hears the words.
  private func confirmRefused(_ words: String, by link: LinkReference, now: BootInstant) {
    let isNews = words != link.pointee.confirmation.refusal
    link.pointee.confirmation.refused(words)
    let retry = retry(afterRefusals: link.pointee.confirmation.refusals, now: now)
    // A refusal may pass before the life of this host does.
    link.pointee.confirmation.at = min(retry, link.pointee.life.nextTry(now: now) ?? retry)
    if link.pointee.isUp {
      // What is known of it has not changed.
      guard link.pointee.confirmation.isDoubted else { return }
      link.pointee.confirmation.voided()
      dataAreOthers(at: link, now: now)
    } else if isNews, !link.pointee.confirmation.isGood {
      link.pointee.locks.beginWalk()
    }
    goOn(with: link, now: now)
  }

  // MARK: Life

  /// Ends the life of this host in a shard if its time is over, and with it everything that this host has there: others may
  /// have taken it. As when a link goes down, and nothing is asked for before the shard has executed another sign.
  func endLife(on link: LinkReference, now: BootInstant) {
    guard let end = link.pointee.life.ends, end <= now else { return }
    link.pointee.life.end()
    link.pointee.confirmation.voided()
    _ = link.pointee.isUp && link.pointee.wentDown(keepingConnection: true)
    if link.pointee.isConnected, link.pointee.confirmation.command == nil { link.pointee.confirmation.at = now }
    link.pointee.locks.beginWalk()
    goOn(with: link, now: now)
  }

  /// Until when a lease that is held is valid.
  func validUntil(_ lease: HostLease) -> BootInstant {
    min(lease.term.validUntil, lease.lock.link.pointee.life.validUntil(of: lease.life))
  }

  /// What this host knows of the store's locks is void, as when a link goes down. The connection stays.
  private func dataAreOthers(at link: LinkReference, now: BootInstant) {
    guard link.pointee.wentDown(keepingConnection: true) else { return }
    link.pointee.locks.beginWalk()
  }
}
