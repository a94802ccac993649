#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// How long a hold is good without a further answer of the daemon, in milliseconds on the host's boot clock, which goes
/// on while the host is suspended.
struct Validity: Hashable, Sendable {
  /// Until when it is good.
  private(set) var deadline: Int64
  /// How long it was good when that was told.
  private(set) var span: Int64

  /// What the daemon may say is used in sums: nothing of it is longer than a century.
  private static let spanMax: Int64 = 100 * 366 * 86400 * 1000

  /// `from`: when that counts from, at the earliest.
  init(milliseconds: Int64, from: Int64) {
    span = min(max(0, milliseconds), Self.spanMax)
    deadline = from + span
  }

  /// A grant counts from the end of the wait, however late it is read: the wait began at the daemon after the sending.
  init?(grant: Grant, asked: Int64) {
    guard let valid = grant.validMilliseconds else { return nil }
    self.init(milliseconds: valid, from: asked + min(max(0, grant.waitedMilliseconds), Self.spanMax))
  }

  /// The same with a later answer, which counts from when it was asked.
  func extended(by answer: Validity) -> Validity {
    var extended = answer
    extended.deadline = max(deadline, answer.deadline)
    return extended
  }

  /// When to ask anew.
  var askAt: Int64 { deadline - span / 2 }

  /// When it counts as lost, unanswered. A process that was stopped itself asks before it judges.
  func judgeAt(asked: Int64) -> Int64 { max(deadline, asked + min(1000, span / 4)) }

  /// Now, on the boot clock.
  static var now: Int64 {
    var time = timespec()
    clock_gettime(CLOCK_BOOTTIME, &time)
    return Int64(time.tv_sec) * 1000 + Int64(time.tv_nsec) / 1_000_000
  }
}
