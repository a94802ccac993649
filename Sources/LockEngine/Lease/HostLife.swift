import LockTypes

/// Numbers the lives of a host. A lease belongs to the one in which it was granted.
typealias LifeNumber = UInt32

/// Until when other hosts take this one for alive.
///
/// With a dead-host time D each question for the epoch is a sign of life as well: from when the store executes it, this host
/// counts as alive for D, and as dead afterwards, until the next sign. What a dead host has can be granted to others,
/// however long its leases would last. So nothing that this host has is valid for longer than its life, and when that ends,
/// all of it ends at once. As with a lease, everything counts from when the sign was SENT.
///
/// With D = 2 s:
/// ```
///      0 ms   the sign is sent; the store executes it later, so that this host counts as alive until 2 000 ms or after
///    666 ms   the next sign
///  1 700 ms   no sign was answered: all leases are LOST and their holders are told
///  1 980 ms   the holders' grace ends
///  2 000 ms   at the earliest: others may have the locks; who waits for one looks once a second
/// ```
struct HostLife {
  /// The life that this host is in, or will be in at the next sign that is answered in time.
  private(set) var number: LifeNumber = 0
  /// Until when it lasts; nil: without end, so that each lease ends by itself.
  private(set) var term: Term?
  /// Whether it is over, and no sign was answered since.
  private(set) var isOver = false
  /// The term of the life before, while leases of that may be left. This host is granted nothing until they have ended.
  private(set) var before: Term?

  struct Term: Equatable {
    /// From here on all leases count as lost.
    var validUntil: BootInstant
    /// Until here nobody else can have them.
    var graceEnds: BootInstant

    init(validUntil: BootInstant, graceEnds: BootInstant) {
      self.validUntil = validUntil
      self.graceEnds = graceEnds
    }

    /// The term of a sign that was sent at `sentAt`.
    init(sentAt: BootInstant, deadHostMilliseconds: Int64) {
      validUntil = sentAt.adding(milliseconds: deadHostMilliseconds * 85 / 100)
      graceEnds = sentAt.adding(milliseconds: deadHostMilliseconds * 99 / 100)
    }
  }

  /// A life without end.
  init() {}

  /// That of a predecessor of this process.
  init(_ term: Term?) {
    self.term = term
  }

  /// When this host is to be taken for dead has to be told to the store. `milliseconds`: the dead-host time; 0: none.
  func sign(milliseconds: Int64) -> LifeSign {
    if milliseconds > 0 { return .dead(afterMilliseconds: milliseconds) }
    return term == nil ? .none : .never
  }

  /// A sign is sent. It may be executed at once, and what stands in the store then is all that it knows: this host lasts no
  /// longer than by this sign, whatever it has said before. True: that is sooner than before.
  mutating func sent(_ sign: LifeSign, now: BootInstant) -> Bool {
    guard case .dead(let milliseconds) = sign else { return false }
    let next = Term(sentAt: now, deadHostMilliseconds: milliseconds)
    guard term.map({ next.validUntil < $0.validUntil }) ?? true else { return false }
    term = next
    return true
  }

  /// The store has executed a sign that was sent at `sentAt`. False: too late for a life that is over.
  mutating func answered(_ sign: LifeSign, sentAt: BootInstant, now: BootInstant) -> Bool {
    switch sign {
    case .none: return !isOver
    case .never: term = nil
    case .dead(let milliseconds):
      let next = Term(sentAt: sentAt, deadHostMilliseconds: milliseconds)
      guard !isOver || next.validUntil > now else { return false }
      term = next
    }
    isOver = false
    return true
  }

  /// When it ends; nil: never, or it is over.
  var ends: BootInstant? { isOver ? nil : term?.validUntil }

  /// It has ended.
  mutating func end() {
    // Where there are leases of an earlier one, there are none of this.
    before = before ?? term
    isOver = true
    number &+= 1
  }

  /// All leases of the life before have ended. True: some may have been left until now.
  mutating func leasesOfBeforeHaveEnded() -> Bool {
    defer { before = nil }
    return before != nil
  }

  /// What a successor of this process has to know: the term of the leases that it finds.
  var saved: Term? { before ?? term }

  /// Until when leases of a life are valid at most.
  func validUntil(of life: LifeNumber) -> BootInstant {
    guard life == number else { return BootInstant(nanoseconds: 0) }
    return term?.validUntil ?? BootInstant(nanoseconds: .max)
  }

  /// Until when nobody else can have leases of a life, at most.
  func graceEnds(of life: LifeNumber) -> BootInstant {
    guard life == number else { return before?.graceEnds ?? BootInstant(nanoseconds: 0) }
    return term?.graceEnds ?? BootInstant(nanoseconds: .max)
  }

  /// When a sign that was refused is sent again at the latest; nil: nothing depends on it.
  func nextTry(now: BootInstant) -> BootInstant? {
    guard !isOver, let term else { return nil }
    return now.adding(milliseconds: max(Self.pauseMillisecondsMin, term.validUntil.milliseconds(since: now) / 4))
  }

  /// The shortest pause between two signs that are refused, in milliseconds.
  private static let pauseMillisecondsMin: Int64 = 20

  /// When the next sign is due after one that was sent at `sentAt`; nil: no sign is needed.
  static func nextSign(after sign: LifeSign, sentAt: BootInstant, now: BootInstant) -> BootInstant? {
    guard case .dead(let milliseconds) = sign else { return nil }
    return max(sentAt.adding(milliseconds: milliseconds / 3), now.adding(milliseconds: milliseconds / 12))
  }
}
