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
    let fields = bytes.fields(";")
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

  /// The same value with no share that ends later than `end`.
  static func shortened(_ bytes: Bytes, toEndBy end: Int64) -> Bytes {
    guard let value = LockValue(bytes), value.mode != "x" else { return bytes }
    let fields = bytes.text.split(separator: ";", omittingEmptySubsequences: false).enumerated().map { index, field in
      guard index >= 2 else { return String(field) }
      var parts = field.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
      parts[4] = String(min(Int64(parts[4]) ?? end, end))
      return parts.joined(separator: ":")
    }
    return Bytes(fields.joined(separator: ";"))
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

/// What stands in Redis about its epoch, as the checker reads it.
struct EpochValue: Equatable {
  let number: UInt64
  /// `<number>:<host>/<instance>:<attempt>`.
  let id: String
  let isOpen: Bool
  let grace: Int64
  let longest: Int64
  let floor: Int64

  /// nil for what no daemon wrote.
  init?(_ bytes: Bytes) {
    let fields = bytes.fields(";")
    guard fields.count >= 8, fields[0] == "1", let number = UInt64(fields[1].prefix { $0 != ":" }),
      ["o", "g"].contains(fields[2]), let grace = Int64(fields[5]), let longest = Int64(fields[6]),
      let floor = Int64(fields[7])
    else { return nil }
    self.number = number
    id = fields[1]
    isOpen = fields[2] == "o"
    (self.grace, self.longest, self.floor) = (grace, longest, floor)
  }

  /// With what a command must name it.
  var whenOpen: String { "1;\(id);o;" }
}
