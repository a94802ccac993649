import SidelockClient

/// What was found about one thing that locks depend on.
struct Finding: Equatable {
  /// How it is, from good to bad.
  enum State: String, Comparable {
    case ok
    /// It works, but not as it should, or it could not be looked at.
    case warn
    /// Locks cannot be had, or are not safe.
    case bad

    private var rank: Int32 {
      switch self {
      case .ok: 0
      case .warn: 1
      case .bad: 2
      }
    }

    static func < (a: Self, b: Self) -> Bool { a.rank < b.rank }

    /// That of the command whose worst finding it is.
    var exitStatus: Int32 { rank }
  }

  /// The command that sees what this user may not.
  static let doctorAsRoot = "sudo sidelock doctor"

  /// What was looked at, in one word.
  var check: String
  var state: State
  /// How it is, as half a sentence.
  var why: String
  /// A command that mends it, or shows more.
  var fix: String?

  static func ok(_ check: String, _ why: String) -> Finding { Finding(check: check, state: .ok, why: why) }

  static func warn(_ check: String, _ why: String, fix: String?) -> Finding {
    Finding(check: check, state: .warn, why: why, fix: fix)
  }

  static func bad(_ check: String, _ why: String, fix: String?) -> Finding {
    Finding(check: check, state: .bad, why: why, fix: fix)
  }

  /// For people.
  var lines: [String] {
    let word = state.rawValue + String(repeating: " ", count: 4 - state.rawValue.count)
    return ["\(word)  \(check): \(printable(why))"] + (fix.map { ["      \(printable($0))"] } ?? [])
  }

  /// For programs.
  var json: JSONValue {
    var object = JSONObject()
    object.append("check", .string(check))
    object.append("state", .string(state.rawValue))
    object.append("why", .string(why))
    if let fix { object.append("fix", .string(fix)) }
    return .object(object)
  }
}
