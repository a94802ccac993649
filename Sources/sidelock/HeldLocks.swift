import SidelockClient
import SystemStrings

/// What a grant gave, by names and tokens: the tokens of different locks may be the same number.
struct HeldLocks {
  private(set) var locks: [(name: String, token: Int64)] = []

  /// Nothing.
  init() {}

  /// What the result of an acquire gives; nil where a name or a token is missing.
  init?(_ result: JSONValue) {
    for lock in result["locks"]?.arrayValue ?? [result] {
      guard let name = lock["name"]?.stringValue, let token = lock["token"]?.intValue else { return nil }
      locks.append((name, token))
    }
  }

  var isEmpty: Bool { locks.isEmpty }

  /// The token of a lock.
  func token(of name: String) -> Int64? { locks.first { ExactText.isSame($0.name, name) }?.token }

  /// Whether a notice is about one of them.
  func has(_ notice: LostNotice) -> Bool {
    locks.contains { $0.token == notice.token && ExactText.isSame($0.name, notice.name) }
  }
}
