/// A question to the store: how many replicas have what it has done so far.
public struct AcknowledgementID: Hashable, Comparable, Sendable {
  /// The number; later questions have higher ones.
  public var rawValue: UInt64

  /// The question of this number.
  public init(_ rawValue: UInt64) {
    self.rawValue = rawValue
  }

  /// The later question is the greater one.
  public static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
}

/// What came of such a question.
public enum AcknowledgementAnswer: Equatable, Sendable {
  /// As many as were needed, or more.
  case enough(replicas: Int)
  /// Fewer than were needed, when the time was over.
  case tooFew(replicas: Int)
  /// It cannot be found out, or not be had; why, in words.
  case refused(String)
  /// The link went down.
  case unknown
}
