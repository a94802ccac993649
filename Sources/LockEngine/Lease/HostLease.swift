import LockTypes

/// One lease of a lock, from the first ask to its end; each has an attempt of its own.
///
/// ```
///                 link down, refused by the store
///               ┌─────────────────────────────────┐
///               ▼                                 │
///            asking ──── not granted at once ──▶ queued ──── given up ───────┐
///               │ │                               │                         │
///               │ └─────────── granted ───────────┤                         │
///               │                                 ▼                         │
///               │                               held ── given back, gone ──▶ │
///               │                                 │                         │
///               │                not renewed in time                        │
///               │                                 ▼                         ▼
///               │                               lost ─── grace ended ────▶ over
///               └──────────────────── given up ───────────────────────────▶ │
/// ```
///
/// All of the engine reads it; only the facts below change it. What a successor of this process has to know stands in
/// `saved`, whose changes are noted.
final class HostLease {
  enum State {
    /// It was asked for, or is to be when the link is up; the outcome is not known.
    case asking(Standing?)
    /// This host stands in the store's queue, or looks from time to time when a foreign process has the lock.
    case queued(Standing?)
    case held(Term)
    /// It could not be renewed. Until the end of the grace nobody else can have it, and nobody here shall.
    case lost(Term)
    /// This host neither has it nor wants it; nil: it never had it.
    case over(Term?)
  }

  /// A place in the store's queue, as far as the store has told of it.
  struct Standing {
    /// When it was taken.
    var since: PlaceMoment
    /// The epoch in which the store last had it.
    var epoch: EpochNumber
  }

  /// What the store has granted.
  struct Term {
    /// From here on the lease counts as lost.
    var validUntil = BootInstant(nanoseconds: 0)
    /// Until here nobody else can have it.
    var graceEnds = BootInstant(nanoseconds: 0)
    /// The first token of the block.
    var tokenStart: Token = 0
    var nextToken: Token = 0
    /// One past the last token of the block.
    var tokenEnd: Token = 0
    /// Since when it is known that another host waits.
    var contendedSince: BootInstant?
    /// The store was told to let others share it, and has not confirmed that.
    var isSharingUnconfirmed = false

    var tokensLeft: Token { tokenEnd - nextToken }

    /// The store had it when it executed what was sent at `sentAt`.
    fileprivate mutating func extend(from sentAt: BootInstant, by timeline: LeaseTimeline) {
      validUntil = max(validUntil, sentAt.adding(milliseconds: timeline.lostAfterMilliseconds))
      graceEnds = max(graceEnds, sentAt.adding(milliseconds: timeline.graceEndsAfterMilliseconds))
    }
  }

  /// What outlives the process.
  private struct Saved {
    /// What the store was asked for. An exclusive lease becomes a shared one when other hosts want to share it.
    var mode: HoldMode
    var state: State
  }

  /// How far its renewal has come.
  struct Renewal {
    /// When the next one is due.
    fileprivate(set) var at = BootInstant(nanoseconds: 0)
    /// The link over which a renewal is under way; 0: none.
    fileprivate(set) var sentOn: LinkNumber = 0
    /// The link over which the store last confirmed the lease; 0: none of this process.
    fileprivate(set) var confirmedOn: LinkNumber = 0
    /// The epoch in which the store last had it; 0: none of this process, or it did not find it since.
    fileprivate(set) var epoch: EpochNumber = 0
    /// The last epoch in which the store had it or did not find it.
    fileprivate(set) var epochAnswered: EpochNumber = 0
    /// When an order to break it came that may be old, or the store did not find it. A renewal sent before does not settle
    /// that doubt.
    fileprivate(set) var doubtedAt: BootInstant?
  }

  /// The clients of this host among whom the lock passes while another host waits.
  struct Cohort {
    /// Waiters of this host up to this number came before the other host did, and are served before it.
    fileprivate(set) var arrivalMax: UInt64 = 0
    /// Grants since the other host began to wait.
    fileprivate(set) var grants = 0
    /// When its time is over; nil before that was asked.
    fileprivate(set) var end: BootInstant?
    /// Until when this host keeps its place in the store's queue although nobody waits.
    fileprivate(set) var placeKeptUntil: BootInstant?
  }

  /// It stands apart to save memory: there can be very many leases, and for few of them another host waits.
  private final class CohortOfContended {
    var cohort = Cohort()
  }

  /// How many replicas have it, as far as that was asked for.
  private struct Acknowledgement {
    /// The link over which it was found out; 0: it was not.
    var link: LinkNumber = 0
    /// What was its last write.
    var written = Written()
    var replicas: UInt8 = 0
    var durability = Durability.memory
  }

  /// What the store has written of it since it was granted.
  struct Written: Equatable {
    /// How often the lease itself was written anew. Who relies on it relies on the last time.
    fileprivate(set) var leases: UInt16 = 0
    /// How many more blocks of tokens were reserved. A hold relies on the one that its token is of, and on none after it.
    fileprivate(set) var blocks: UInt16 = 0
  }

  /// Its place among the leases that this host waits for; see ``WantedList``.
  struct Place {
    /// When its place in the store's queue was looked at last, or it began to be wanted.
    var seenAt = BootInstant(nanoseconds: 0)
    /// Its neighbours; nil when it is not among them.
    var next: HostLease?
    var previous: HostLease?
  }

  let lock: LockRecord
  let attempt: UInt64
  /// Its length and stages, which never change.
  let timeline: LeaseTimeline
  private var saved: Saved {
    didSet { noteChange() }
  }
  /// When the last ask was sent.
  private(set) var askedAt: BootInstant?
  /// Whether any ask was sent, so that the store may know of it.
  private(set) var wasSent = false
  /// The store did not grant it at once.
  private(set) var wasQueued = false
  /// When the first ask was sent.
  private(set) var firstAskedAt: BootInstant?
  /// The life of this host in which it was granted.
  private(set) var life: LifeNumber = 0
  /// When this host learned that it has it.
  private(set) var grantedAt = BootInstant(nanoseconds: 0)
  private(set) var renewal = Renewal()
  /// The link over which a `reserve` is under way; 0: none.
  private(set) var reserveSentOn: LinkNumber = 0
  /// How often in a row the store has refused to share it or to reserve tokens.
  private(set) var refusals = 0
  private var cohortOfContended: CohortOfContended?
  private var acknowledgement = Acknowledgement()
  /// Grants on this host under it.
  private(set) var grants = 0
  /// Until when it lingers, unused.
  private(set) var idleUntil: BootInstant?
  /// Holds under it: any number of shared ones, one otherwise.
  private(set) var holdCount = 0
  /// The hold under a permit.
  private var holdOfPermit: Hold?
  var place = Place()
  var mark = StateMark()

  /// A lease that is wanted from now on.
  init(lock: LockRecord, attempt: UInt64, mode: HoldMode, timeline: LeaseTimeline) {
    self.lock = lock
    self.attempt = attempt
    self.timeline = timeline
    saved = Saved(mode: mode, state: .asking(nil))
    lock.tally.counts.leases += 1
    noteChange()
  }

  /// What a predecessor of this process had, or wanted.
  init(_ stored: SavedLease, lock: LockRecord, now: BootInstant) {
    self.lock = lock
    attempt = stored.attempt
    timeline = LeaseTimeline(leaseMilliseconds: stored.milliseconds)
    let term = Term(
      validUntil: stored.validUntil, graceEnds: stored.graceEnds, tokenStart: stored.tokenStart,
      nextToken: stored.nextToken, tokenEnd: stored.tokenEnd, contendedSince: stored.contendedSince,
      isSharingUnconfirmed: stored.isSharingUnconfirmed)
    switch stored.stage {
    case .wanted:
      saved = Saved(mode: stored.mode, state: .asking(nil))
      // Whether the store has heard of it is not known.
      wasSent = true
    case .held:
      saved = Saved(mode: stored.mode, state: .held(term))
      grants = 1
      renewal.at = now
    case .lost:
      saved = Saved(mode: stored.mode, state: .lost(term))
    }
    lock.tally.counts.leases += 1
    noteChange()
  }

  deinit { lock.tally.counts.leases -= 1 }

  private func noteChange() { lock.changes?.touch(self) }

  // MARK: What it is

  var mode: HoldMode { saved.mode }
  var state: State { saved.state }

  /// What was granted, also where it is over; nothing where nothing was.
  var term: Term {
    switch saved.state {
    case .held(let term), .lost(let term), .over(let term?): term
    case .asking, .queued, .over(nil): Term()
    }
  }

  var isQueued: Bool { if case .queued = saved.state { true } else { false } }
  var isHeld: Bool { if case .held = saved.state { true } else { false } }
  var isLost: Bool { if case .lost = saved.state { true } else { false } }
  var isOver: Bool { if case .over = saved.state { true } else { false } }

  /// Asked for, with no outcome.
  var isAsking: Bool { if case .asking = saved.state { true } else { false } }

  var isPermit: Bool {
    switch saved.mode {
    case .permit: true
    case .exclusive, .shared: false
    }
  }

  /// Its place in the store's queue; nil: the store has told of none.
  var standing: Standing? {
    switch saved.state {
    case .asking(let standing), .queued(let standing): standing
    case .held, .lost, .over: nil
    }
  }

  /// The clients here among whom it passes while another host waits; an empty one before any did.
  private(set) var cohort: Cohort {
    get { cohortOfContended?.cohort ?? Cohort() }
    set {
      let kept = cohortOfContended ?? CohortOfContended()
      kept.cohort = newValue
      cohortOfContended = kept
    }
  }

  /// Another host is known to wait for it.
  var isContended: Bool {
    switch saved.state {
    case .held(let term), .lost(let term), .over(let term?): term.contendedSince != nil
    case .asking, .queued, .over(nil): false
    }
  }

  /// Whether the store may know of it.
  var mayBeKnown: Bool { wasSent || isQueued }

  /// Whether the store has not said on this link that this host still has it, or an order to break it may be old.
  func isInDoubt(on link: LinkNumber) -> Bool { renewal.confirmedOn != link || renewal.doubtedAt != nil }

  /// The tokens of the reserved block that were not issued.
  var unused: UnusedTokens {
    switch saved.state {
    case .asking, .queued: .all
    case .held(let term), .lost(let term): .from(term.nextToken)
    case .over(let term): .from(term?.nextToken ?? 0)
    }
  }

  /// The holds under it, oldest first. A semaphore can have very many leases, each with one.
  var holds: [Hold] {
    if isPermit { return holdOfPermit.map { [$0] } ?? [] }
    return holdCount == 0 ? [] : lock.holds.filter { $0.lease === self }
  }

  // MARK: Asking

  func asked(at now: BootInstant) {
    wasSent = true
    askedAt = now
    if firstAskedAt == nil { firstAskedAt = now }
  }

  /// The link is down: the ask is sent when it is up.
  func askIsToCome() {
    saved.state = .asking(standing)
    wasSent = false
  }

  /// The link is down: whether it still has its place is not known.
  func placeIsUnknown() { saved.state = .asking(standing) }

  func askRefused() {
    saved.state = .asking(standing)
    wasSent = true
  }

  /// This host stands in the queue. `place`: what the store of `epoch` has told of that.
  func queued(_ place: PlaceSight? = nil, in epoch: StoreEpoch = StoreEpoch()) {
    var standing = standing
    if let place {
      let since = PlaceMoment(epoch: epoch.id.number, clock: place.clock)
      standing = Standing(since: place.isNew ? since : standing?.since ?? since, epoch: epoch.number)
    }
    saved.state = .queued(standing)
    wasQueued = true
  }

  /// The store granted it at some moment after `sentAt`, from which it counts. False: the grant has no token to issue.
  func granted(
    _ grant: LeaseGrant, executedAfter sentAt: BootInstant, on link: LinkNumber, in epoch: EpochNumber,
    life: LifeNumber, now: BootInstant
  ) -> Bool {
    let tokens = grant.tokens
    var term = Term(
      tokenStart: grant.token, nextToken: grant.token, tokenEnd: tokens?.upperBound ?? grant.token,
      contendedSince: grant.othersWait ? now : nil)
    term.extend(from: sentAt, by: timeline)
    saved.state = .held(term)
    self.life = life
    grantedAt = now
    renewal.at = sentAt.adding(milliseconds: timeline.renewAfterMilliseconds)
    renewal.confirmedOn = link
    renewal.epoch = epoch
    renewal.epochAnswered = epoch
    return tokens != nil
  }

  // MARK: Renewal

  func renewalSent(on link: LinkNumber) { renewal.sentOn = link }

  func renewalAnswered() { renewal.sentOn = 0 }

  /// The store still had it when it executed what was sent at `sentAt`.
  func confirmed(sentAt: BootInstant, on link: LinkNumber, in epoch: EpochNumber) {
    renewal.confirmedOn = link
    if let doubtedAt = renewal.doubtedAt {
      guard sentAt >= doubtedAt else { return }
      renewal.doubtedAt = nil
    }
    renewal.epoch = epoch
    renewal.epochAnswered = epoch
  }

  /// The store does not have it, nor anybody else that is known of. It has to be reclaimed.
  func notFound(in epoch: EpochNumber, now: BootInstant) {
    renewal.epoch = 0
    renewal.epochAnswered = epoch
    renewal.doubtedAt = now
    writtenAgain()
  }

  /// Whether another lease may stand in its place in an epoch that grants nothing, and be of an older data set: this one was
  /// not there yet.
  func mayReplace(in epoch: EpochNumber) -> Bool { renewal.epochAnswered != epoch }

  /// When the last command was sent after which the store had it.
  var lastConfirmedAt: BootInstant { term.validUntil.adding(milliseconds: -timeline.lostAfterMilliseconds) }

  @inline(__always)
  func extended(from sentAt: BootInstant) {
    guard case .held(var term) = saved.state else { return }
    term.extend(from: sentAt, by: timeline)
    saved.state = .held(term)
  }

  /// Its lock has another home, where this host's life is `life`. `epoch`: the one of that home in which the data that moved
  /// there have to have it; 0: they may not.
  func moved(life: LifeNumber, epoch: EpochNumber) {
    self.life = life
    // It may come back to a link that it was confirmed on.
    renewal.confirmedOn = 0
    renewal.sentOn = 0
    reserveSentOn = 0
    renewal.epoch = epoch
    renewal.epochAnswered = epoch
    // Those that had it are the old home's.
    writtenAgain()
    noteChange()
  }

  func renewNext(at moment: BootInstant) { renewal.at = moment }

  func doubted(now: BootInstant) { renewal.doubtedAt = now }

  /// It was not renewed in time, or this host's life is over. From `graceEnds` on others may have it.
  func expired(graceEnds: BootInstant) {
    guard case .held(var term) = saved.state else { return }
    term.graceEnds = min(term.graceEnds, graceEnds)
    saved.state = .lost(term)
  }

  /// This host neither has it nor wants it any more, for whatever reason.
  func ended() {
    switch saved.state {
    case .asking, .queued: saved.state = .over(nil)
    case .held(let term), .lost(let term): saved.state = .over(term)
    case .over: break
    }
  }

  // MARK: Replicas

  /// What a question for replicas covers that is asked now.
  var written: Written { acknowledgement.written }

  /// The store writes it anew: who has that is not known.
  func writtenAgain() {
    acknowledgement = Acknowledgement(written: acknowledgement.written)
    acknowledgement.written.leases &+= 1
  }

  /// Replicas had it when that was written; `link` is over which that was found out.
  func acknowledged(by found: ReplicaNeed, _ written: Written, on link: LinkNumber) {
    guard written == acknowledgement.written, !isAcknowledged(found, on: link) else { return }
    acknowledgement.replicas = UInt8(clamping: found.replicas)
    acknowledgement.durability = found.durability
    acknowledgement.link = link
  }

  /// Whether it is known, of the data that the store has over `link`, that so many replicas have it.
  func isAcknowledged(_ need: ReplicaNeed, on link: LinkNumber) -> Bool {
    let known = acknowledgement
    return known.link == link
      && ReplicaNeed(replicas: Int(known.replicas), durability: known.durability).covers(need)
  }

  // MARK: Tokens

  /// The next token of its block; nil where this host does not have it, or nothing is left of the block. All tokens of
  /// leases are issued here.
  func issueToken() -> Token? {
    guard case .held(var term) = saved.state, term.tokensLeft > 0 else { return nil }
    let token = term.nextToken
    term.nextToken += 1
    saved.state = .held(term)
    return token
  }

  /// How many tokens of its block a lease keeps when it becomes shared; other hosts' blocks follow them. There are as
  /// many as microseconds in the shortest time from one such lease to the next, so that the counter does not run ahead
  /// of the store's clock.
  static let sharedTokenCount: Token = 256

  /// Other hosts may share it from now on; the store is to be told.
  func share() {
    guard case .held(var term) = saved.state else { return }
    term.isSharingUnconfirmed = true
    term.tokenEnd = min(term.tokenEnd, term.nextToken + Self.sharedTokenCount)
    saved = Saved(mode: .shared, state: .held(term))
  }

  func sharingConfirmed() {
    refusals = 0
    guard case .held(var term) = saved.state else { return }
    term.isSharingUnconfirmed = false
    saved.state = .held(term)
  }

  func reserveSent(on link: LinkNumber) { reserveSentOn = link }

  func reserveAnswered() { reserveSentOn = 0 }

  /// The store has reserved this block for it. False: there is none, or it is not above the one that it has.
  func reserved(_ grant: LeaseGrant) -> Bool {
    let (end, overflow) = grant.token.addingReportingOverflow(grant.tokenCount)
    guard case .held(var term) = saved.state, !overflow, grant.tokenCount >= 0, grant.token >= term.tokenEnd,
      end <= LeaseGrant.tokenEndMax
    else { return false }
    term.tokenEnd = end
    term.tokenStart = grant.token
    term.nextToken = grant.token
    saved.state = .held(term)
    refusals = 0
    // The counter stands above its tokens only where this was heard of.
    acknowledgement = Acknowledgement(written: acknowledgement.written)
    acknowledgement.written.blocks &+= 1
    return true
  }

  /// The store refused to share it, or to give it more tokens.
  func refused() { refusals += 1 }

  // MARK: Who has it, and who waits

  /// A client of this host gets the lock under it.
  func grantedHere() {
    grants += 1
    if isContended { cohort.grants += 1 }
    idleUntil = nil
  }

  /// Another host waits for it. Waiters of this host up to number `arrival` came before.
  func contended(after arrival: UInt64, now: BootInstant) {
    guard case .held(var term) = saved.state, term.contendedSince == nil else { return }
    term.contendedSince = now
    saved.state = .held(term)
    cohort.arrivalMax = arrival
  }

  /// The same, of one that a predecessor of this process had.
  func restoredCohort(upTo arrival: UInt64) {
    if arrival != 0 { cohort.arrivalMax = arrival }
  }

  func endCohort(at moment: BootInstant) { cohort.end = moment }

  func keepPlace(until moment: BootInstant?) {
    if cohort.placeKeptUntil != moment { cohort.placeKeptUntil = moment }
  }

  func linger(until moment: BootInstant?) { idleUntil = moment }

  func add(_ hold: Hold) {
    holdCount += 1
    if isPermit { holdOfPermit = hold }
  }

  func remove(_ hold: Hold) {
    holdCount -= 1
    if holdOfPermit === hold { holdOfPermit = nil }
  }
}

extension LeaseGrant {
  /// Tokens are below it: beyond 2^53 half of all JSON parsers would read them wrongly.
  static let tokenEndMax: Token = 1 << 53

  /// The tokens of the block; nil where it has none that could be given out.
  var tokens: Range<Token>? {
    let (end, overflow) = token.addingReportingOverflow(tokenCount)
    guard !overflow, token >= 1, tokenCount >= 1, end <= Self.tokenEndMax else { return nil }
    return token..<end
  }
}
