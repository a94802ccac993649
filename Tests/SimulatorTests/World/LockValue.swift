/// What stands in a lock's key, as the checker reads it: a second reader beside the scripts' own.
struct LockValue {
  /// One who holds the lock.
  struct Holder: Equatable {
    /// `<host>/<instance>`.
    var owner: String
    var attempt: String
    var token: String
    /// By Redis' clock, in milliseconds; nil where the key's own end counts.
    var expires: Int64?
    /// What a later release has put behind its fields.
    var more: [String]
  }

  /// `x`, `s`, or `p` and how many permits there are.
  let mode: String
  let holders: [Holder]

  /// nil for what no sidelock host wrote.
  init?(_ bytes: Bytes) {
    let fields = bytes.text.split(separator: ";", omittingEmptySubsequences: false).map(String.init)
    guard fields.count > 2, fields[0] == "sidelock1" else { return nil }
    mode = String(fields[1].prefix { $0 != ":" })
    var holders: [Holder] = []
    for field in fields.dropFirst(2) {
      let parts = field.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
      let known = mode == "x" ? 3 : 5
      guard parts.count >= known, mode == "x" || Int64(parts[4]) != nil else { return nil }
      holders.append(
        Holder(
          owner: parts[0], attempt: parts[1], token: parts[2], expires: mode == "x" ? nil : Int64(parts[4]),
          more: Array(parts.dropFirst(known))))
    }
    self.holders = holders
  }

  /// How many may hold it together; nil where it is no semaphore.
  var capacity: Int? { mode.hasPrefix("p") ? Int(mode.dropFirst()) : nil }
}

/// An entry of a queue.
struct QueueEntry {
  /// `<host>/<instance>`.
  let owner: String
  let attempt: String
  let mode: String

  /// nil for what no sidelock host wrote.
  init?(_ bytes: Bytes) {
    guard bytes.text.hasPrefix("1;") else { return nil }
    let parts = bytes.text.dropFirst(2).split(separator: ":", omittingEmptySubsequences: false).map(String.init)
    guard parts.count >= 4 else { return nil }
    (owner, attempt, mode) = (parts[0], parts[1], parts[3])
  }
}
