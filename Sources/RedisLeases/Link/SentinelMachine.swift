public import LockTypes
public import RESP

/// Finds the primary by asking Sentinels, and listens to one of them for failovers, as a state machine without I/O. It
/// takes facts, and gives effects.
///
/// One Sentinel may be cut off together with an old primary that still serves. So a search asks one after the other until
/// most of those that watch the name have answered, and most of those of the URL: one that has lost its file knows of no
/// others, and of no failover. Where they disagree, the highest config epoch is believed: a failover
/// reaches the others within seconds. Only where that server is of no use, and most name another one, it is that one.
/// What a Sentinel tells by itself names no epoch, and where several lead a failover at once it may be of an older one. So whoever
/// tells of one is asked first, and the link is not dropped for an older one.
///
/// The caller makes, uses and closes connections as the effects say, tells what came of each with ``connected(_:now:)``,
/// ``answered(_:_:now:)``, ``switched(_:to:now:)`` and ``ended(_:reason:now:)``, and calls ``timePassed(now:)`` at
/// ``deadline``. Each ``search(now:)`` ends with exactly one ``Effect/found(_:)`` or ``Effect/notFound(_:)``.
public struct SentinelMachine: Sendable {
  /// Which connection to a Sentinel is meant. No number is given twice.
  public typealias ConnectionNumber = UInt64

  private struct Conversation: Sendable {
    var number: ConnectionNumber
    /// Since when an answer is awaited; nil: none is.
    var askedAt: BootInstant?
    /// Since when there is a connection; nil: it is being made.
    var connectedAt: BootInstant?
    /// Whether it has told of a failover since it last answered: its answer says of which one.
    var hasToldOfFailover = false

    /// Until when an answer is waited for; nil: none is. The caller gives up connecting before that, and knows why it failed.
    func silenceEnds(limitMilliseconds: Int64) -> BootInstant? {
      guard let askedAt else { return nil }
      guard let connectedAt else { return askedAt.adding(milliseconds: 2 * limitMilliseconds) }
      return max(askedAt, connectedAt).adding(milliseconds: limitMilliseconds)
    }
  }

  private struct Member: Sendable {
    var address: RedisAddress
    var isOfURL: Bool
    var id: String?
    var conversation: Conversation?
    /// Why it was of no use last; nil where it was.
    var failure: String?
    /// What the operator was told of it, since it was of use.
    var told: String?
    /// Whether it has told of a failover of which the others knew nothing.
    var isDoubtful = false

    var voter: String { id ?? address.description }
  }

  private struct Vote: Sendable {
    var member: RedisAddress
    /// Who it is, by whatever address.
    var voter: String
    var answer: SentinelAnswer
  }

  private struct Search: Sendable {
    var votes: [Vote] = []
    var asked: Set<RedisAddress> = []
    var lastAsked: RedisAddress?

    func count(for primary: RedisAddress) -> Int { votes.count { $0.answer.primary == primary } }
  }

  /// How long a Sentinel may be silent before the next one is asked beside it, in milliseconds.
  public static let patienceMilliseconds: Int64 = 250
  /// How often the one that is listened to is asked, in milliseconds: what it does not tell by itself is found then.
  public static let pollMilliseconds: Int64 = 5000
  /// The longest pause before Sentinels are tried again when none can be listened to, in milliseconds.
  public static let pauseMillisecondsMax: Int64 = 8000
  /// For how long an older primary than the last one is refused, in milliseconds. Sentinels tell each other of a failover
  /// every two seconds; what they say after this time is no rest of before it: somebody has set them up anew.
  public static let staleMillisecondsMax: Int64 = 10_000

  private let master: String
  /// The best first.
  private var members: [Member]
  private var search: Search?
  private var lastNumber: ConnectionNumber = 0
  /// The last primary that was found, by which config epoch.
  private var known: (primary: RedisAddress, epoch: Int64)?
  /// What was found and is of no use, since the last one that was.
  private var useless: RedisAddress?
  /// Since when only older primaries are told of.
  private var staleSince: BootInstant?
  /// Who has told of a failover that no search has confirmed yet.
  private var announcer: RedisAddress?
  private var isLinkUp = false
  /// The primary that was last in use.
  private var lastInUse: RedisAddress?
  private var lastDisagreement: String?
  private var wasNobodyTold = false
  private var lastPassedOnAt: BootInstant?
  private var pauseMilliseconds = patienceMilliseconds
  /// When the one that is listened to is asked again, or one is looked for.
  private var nextPollAt: BootInstant?
  private var effects: [Effect] = []

  /// How long a Sentinel may take to answer when there is a connection, and half of what making one may take, in milliseconds.
  public var limitMilliseconds: Int64
  /// How many Sentinels watch the name, as the last good answer told.
  public private(set) var sentinelCount: Int
  /// How often the primary has changed.
  public private(set) var failoverCount: UInt64 = 0
  /// The last change of the primary.
  public private(set) var lastFailover: Failover?

  /// A machine that asks nobody yet.
  public init(_ sentinels: RedisSentinels, limitMilliseconds: Int64) {
    master = sentinels.master
    var seen: Set<RedisAddress> = []
    members = sentinels.addresses.filter { seen.insert($0).inserted }.map { Member(address: $0, isOfURL: true) }
    sentinelCount = members.count
    self.limitMilliseconds = limitMilliseconds
  }

  /// Where the primary is, as far as is known.
  public var primary: RedisAddress? { known?.primary }

  // MARK: Facts

  /// The primary is wanted.
  public mutating func search(now: BootInstant) -> [Effect] {
    guard search == nil else { return [] }
    search = Search()
    goOn(now: now)
    return take()
  }

  /// The link to `primary` serves.
  public mutating func linkUp(_ primary: RedisAddress, now: BootInstant) {
    isLinkUp = true
    useless = nil
    if let lastInUse, lastInUse != primary {
      failoverCount += 1
      lastFailover = Failover(from: lastInUse, at: now)
    }
    lastInUse = primary
  }

  /// The link is gone, or was not made. `isUseless`: nothing can be done with what answers there, or nobody does.
  public mutating func linkDown(isUseless: Bool) {
    isLinkUp = false
    if isUseless { useless = known?.primary }
  }

  /// A connection to a Sentinel was made.
  public mutating func connected(_ number: ConnectionNumber, now: BootInstant) {
    if let index = index(of: number) { members[index].conversation?.connectedAt = now }
  }

  /// A Sentinel has answered.
  public mutating func answered(_ number: ConnectionNumber, _ answer: SentinelAnswer, now: BootInstant) -> [Effect] {
    guard let index = index(of: number) else { return [] }
    members[index].conversation?.askedAt = nil
    let hasToldOfFailover = members[index].conversation?.hasToldOfFailover == true
    members[index].conversation?.hasToldOfFailover = false
    (members[index].failure, members[index].told) = (nil, nil)
    members[index].id = answer.id ?? members[index].id
    let vote = Vote(member: members[index].address, voter: members[index].voter, answer: answer)
    if search != nil {
      search?.asked.insert(vote.member)
      search?.votes.removeAll { $0.voter == vote.voter }
      search?.votes.append(vote)
      meet(answer.others)
    } else {
      followed(vote, ofFailover: hasToldOfFailover, now: now)
    }
    goOn(now: now)
    return take()
  }

  /// A Sentinel has told of a failover.
  public mutating func switched(_ number: ConnectionNumber, to primary: RedisAddress, now: BootInstant) -> [Effect] {
    guard let index = index(of: number) else { return [] }
    let address = members[index].address
    if let search {
      // What it has answered is of before.
      if search.votes.contains(where: { $0.member == address }) { ask(index, now: now) }
      self.search?.votes.removeAll { $0.member == address }
    } else if known?.primary != primary {
      members[index].conversation?.hasToldOfFailover = true
      ask(index, now: now)
    }
    goOn(now: now)
    return take()
  }

  /// A connection to a Sentinel is over, or was not made, or is of no use.
  public mutating func ended(_ number: ConnectionNumber, reason: String, now: BootInstant) -> [Effect] {
    guard let index = index(of: number) else { return [] }
    failed(index, reason, now: now)
    goOn(now: now)
    return take()
  }

  /// ``deadline`` is there.
  public mutating func timePassed(now: BootInstant) -> [Effect] {
    for number in members.compactMap({ $0.conversation?.number }) {
      guard let index = index(of: number),
        let end = members[index].conversation?.silenceEnds(limitMilliseconds: limitMilliseconds), now >= end
      else { continue }
      effects.append(.close(number))
      failed(index, "no answer within \(limitMilliseconds) ms", now: now)
    }
    goOn(now: now)
    return take()
  }

  /// When to call ``timePassed(now:)``; nil: never.
  public var deadline: BootInstant? {
    var moments = members.compactMap { $0.conversation?.silenceEnds(limitMilliseconds: limitMilliseconds) }
    if let search {
      if let since = awaitedSince(search), nextUnasked != nil {
        moments.append(since.adding(milliseconds: Self.patienceMilliseconds))
      }
    } else if known != nil, let nextPollAt {
      moments.append(nextPollAt)
    }
    return moments.min()
  }

  private mutating func take() -> [Effect] {
    defer { effects = [] }
    return effects
  }
}

// MARK: - Members

extension SentinelMachine {
  private func index(of number: ConnectionNumber) -> Int? {
    members.firstIndex { $0.conversation?.number == number }
  }

  private mutating func ask(_ index: Int, now: BootInstant) {
    if let conversation = members[index].conversation {
      // The answer to what it was asked before is as good.
      if conversation.askedAt == nil { effects.append(.ask(conversation.number)) }
      members[index].conversation?.askedAt = conversation.askedAt ?? now
    } else {
      lastNumber += 1
      members[index].conversation = Conversation(number: lastNumber, askedAt: now)
      effects.append(.connect(lastNumber, members[index].address))
    }
  }

  private mutating func failed(_ index: Int, _ reason: String, now: BootInstant) {
    var member = members.remove(at: index)
    member.conversation = nil
    if member.told != reason { effects.append(.tell(.useless(member.address, reason))) }
    (member.failure, member.told) = (reason, reason)
    members.append(member)
    search?.votes.removeAll { $0.member == member.address }
    if search == nil, !isListening { nextPollAt = now }
  }

  private mutating func moveBack(_ isMeant: (Member) -> Bool) {
    if let index = members.firstIndex(where: isMeant) { members.append(members.remove(at: index)) }
  }

  private mutating func close(_ index: Int) {
    guard let conversation = members[index].conversation else { return }
    members[index].conversation = nil
    effects.append(.close(conversation.number))
  }

  private var isListening: Bool { members.contains { $0.conversation != nil } }

  /// Takes over which Sentinels there are. Those of the URL stay, whatever is told.
  private mutating func learn(_ vote: Vote) {
    sentinelCount = vote.answer.sentinelCount
    let (others, all) = (vote.answer.others, members)
    members.removeAll { known in
      guard !known.isOfURL, known.conversation == nil, known.address != vote.member else { return false }
      let isDouble = all.contains { $0.address != known.address && $0.id != nil && $0.id == known.id }
      return isDouble || !others.contains { $0.address == known.address }
    }
    meet(others)
  }

  private mutating func meet(_ others: [SentinelAnswer.Other]) {
    for other in others where members.count < RedisSentinels.addressesMax {
      if let index = members.firstIndex(where: { $0.address == other.address }) {
        members[index].id = other.id ?? members[index].id
      } else if other.id == nil || !members.contains(where: { $0.id == other.id }) {
        members.append(Member(address: other.address, isOfURL: false, id: other.id))
      }
    }
  }
}

// MARK: - Searching

extension SentinelMachine {
  private var nextUnasked: Int? {
    guard let search else { return nil }
    let voters = Set(search.votes.map(\.voter))
    let left = members.indices.filter {
      !search.asked.contains(members[$0].address) && members[$0].id.map(voters.contains) != true
    }
    // Who cannot be believed is asked last.
    return left.first { !members[$0].isDoubtful } ?? left.first
  }

  private mutating func goOn(now: BootInstant) {
    guard search != nil else { return follow(now: now) }
    while let search {
      if isAgreed { return end(now: now) }
      if let since = awaitedSince(search) {
        if now < since.adding(milliseconds: Self.patienceMilliseconds) { return }
        moveBack { $0.address == search.lastAsked }
      }
      guard let next = nextUnasked else {
        let isSomebodySilent = members.contains { search.asked.contains($0.address) && $0.conversation?.askedAt != nil }
        if !isSomebodySilent { end(now: now) }
        return
      }
      self.search?.asked.insert(members[next].address)
      self.search?.lastAsked = members[next].address
      ask(next, now: now)
    }
  }

  /// Since when the last one that was asked has been silent; nil: it is not.
  private func awaitedSince(_ search: Search) -> BootInstant? {
    members.first { $0.address == search.lastAsked }?.conversation?.askedAt
  }

  /// How many there are: as many as one of them knows, or as the URL names, each once.
  private func watchingCount(in search: Search) -> Int {
    let named = members.filter(\.isOfURL)
    let namedCount = Set(named.compactMap(\.id)).count + named.count { $0.id == nil }
    return max(namedCount, search.votes.map(\.answer.sentinelCount).max() ?? 1)
  }

  /// How many must have answered: most of them, as Sentinels themselves need for a failover.
  private func neededCount(in search: Search) -> Int { watchingCount(in: search) / 2 + 1 }

  private var isAgreed: Bool {
    guard let search, let first = search.votes.first?.answer, search.votes.count >= neededCount(in: search) else {
      return false
    }
    return search.count(for: first.primary) == search.votes.count
  }

  private mutating func end(now: BootInstant) {
    guard let ended = search else { return }
    search = nil
    guard let chosen = chosen(in: ended, now: now) else { return effects.append(.notFound(whyNot(ended))) }
    let primary = chosen.answer.primary
    if let announcer {
      // Where nobody else knows of the failover of which it has told, it is not listened to.
      if let index = members.firstIndex(where: { $0.address == announcer }) {
        members[index].isDoubtful = primary == known?.primary
      }
      self.announcer = nil
    }
    known = (primary, chosen.answer.configEpoch)
    staleSince = nil
    learn(chosen)
    listen(only: keeper(among: ended, primary: primary))
    nextPollAt = now.adding(milliseconds: Self.pollMilliseconds)
    effects.append(.found(primary))
  }

  /// Whom to listen to, of those that have named that primary: whoever was listened to before is good enough.
  private func keeper(among search: Search, primary: RedisAddress) -> RedisAddress? {
    let good = search.votes.filter { $0.answer.primary == primary }.map(\.member)
    let trusted = members.filter { good.contains($0.address) && !$0.isDoubtful }.map(\.address)
    return trusted.first ?? good.first
  }

  private mutating func listen(only address: RedisAddress?) {
    for index in members.indices where members[index].address != address { close(index) }
    guard let address, let index = members.firstIndex(where: { $0.address == address }) else { return }
    wasNobodyTold = false
    pauseMilliseconds = Self.patienceMilliseconds
    members.insert(members.remove(at: index), at: 0)
  }

  /// The answer to believe; nil if there is none.
  private mutating func chosen(in search: Search, now: BootInstant) -> Vote? {
    let votes = search.votes
    let needed = neededCount(in: search)
    guard votes.count >= needed, var best = votes.first else { return nil }
    // Of equal ones the first: the best member.
    for other in votes.dropFirst() {
      let (a, b) = (other.answer, best.answer)
      let (countA, countB) = (search.count(for: a.primary), search.count(for: b.primary))
      if (a.configEpoch, countA) > (b.configEpoch, countB) { best = other }
    }
    if best.answer.primary == useless,
      let other = votes.first(where: { search.count(for: $0.answer.primary) >= needed })
    {
      best = other
    }
    if search.count(for: best.answer.primary) < votes.count {
      disagree(votes)
    } else {
      lastDisagreement = nil
    }
    if let known, best.answer.configEpoch < known.epoch, best.answer.primary != known.primary {
      let since = staleSince ?? now
      staleSince = since
      if now < since.adding(milliseconds: Self.staleMillisecondsMax) { return nil }
    }
    return best
  }

  private mutating func disagree(_ votes: [Vote]) {
    let words = votes.map { "\($0.member) says \($0.answer.primary) (epoch \($0.answer.configEpoch))" }
      .sorted().joined(separator: ", ")
    if words != lastDisagreement { effects.append(.tell(.disagreement(words))) }
    lastDisagreement = words
  }

  private func whyNot(_ search: Search) -> String {
    let (votes, needed) = (search.votes.count, neededCount(in: search))
    guard votes > 0 else {
      return "no sentinel tells where the primary of '\(master)' is: \(failures)"
    }
    guard votes < needed else {
      return "the sentinels tell of an older primary of '\(master)' than before"
    }
    let count = watchingCount(in: search)
    return "\(votes) of the \(count) sentinels of '\(master)' \(votes == 1 ? "has" : "have") answered, and "
      + "\(needed) are needed: \(failures.isEmpty ? "it knows no others" : failures)"
  }

  private var failures: String {
    let all = members.compactMap { member in member.failure.map { "\(member.address): \($0)" } }.sorted()
    return all.prefix(Self.failuresMax).joined(separator: "; ") + (all.count > Self.failuresMax ? "; …" : "")
  }

  private static let failuresMax = 5
}

// MARK: - Following

extension SentinelMachine {
  /// An answer while nothing is searched for: of the one that is listened to.
  private mutating func followed(_ vote: Vote, ofFailover hasToldOfFailover: Bool, now: BootInstant) {
    nextPollAt = now.adding(milliseconds: Self.pollMilliseconds)
    guard let known else { return }
    let answer = vote.answer
    if answer.primary == known.primary {
      self.known?.epoch = max(known.epoch, answer.configEpoch)
      learn(vote)
      listen(only: vote.member)
      // One that cannot reach the primary may not hear of what the others do either.
      let isDue = lastPassedOnAt.map { now >= $0.adding(milliseconds: Self.pollMilliseconds) } ?? true
      if answer.seesPrimaryDown, isLinkUp, isDue { passOn(vote.member, now: now) }
      // A part of the answer may be of before it told.
      if hasToldOfFailover { nextPollAt = now }
    } else if answer.configEpoch > known.epoch || hasToldOfFailover && answer.configEpoch == known.epoch {
      announcer = vote.member
      effects.append(.switched(to: answer.primary))
    } else {
      if let index = members.firstIndex(where: { $0.address == vote.member }) {
        members[index].failure = "it says that \(answer.primary) is the primary, by an older epoch"
      }
      disagree([vote])
      passOn(vote.member, now: now)
    }
  }

  /// Listens to another one.
  private mutating func passOn(_ address: RedisAddress, now: BootInstant) {
    guard members.count > 1, let index = members.firstIndex(where: { $0.address == address }) else { return }
    close(index)
    moveBack { $0.address == address }
    (lastPassedOnAt, nextPollAt) = (now, now)
  }

  /// Sees to it that one is listened to, and asks it now and then.
  private mutating func follow(now: BootInstant) {
    guard known != nil, let due = nextPollAt, now >= due else { return }
    if let index = members.firstIndex(where: { $0.conversation != nil }) {
      nextPollAt = now.adding(milliseconds: Self.pollMilliseconds)
      return ask(index, now: now)
    }
    // Each is tried once between two pauses.
    guard let index = members.firstIndex(where: { $0.failure == nil }) else {
      if !wasNobodyTold { effects.append(.tell(.nobodyListenedTo(failures))) }
      wasNobodyTold = true
      for index in members.indices { members[index].failure = nil }
      nextPollAt = now.adding(milliseconds: pauseMilliseconds)
      pauseMilliseconds = min(2 * pauseMilliseconds, Self.pauseMillisecondsMax)
      return
    }
    nextPollAt = now.adding(milliseconds: Self.pollMilliseconds)
    ask(index, now: now)
  }
}
