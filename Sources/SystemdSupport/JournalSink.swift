import CSystemd
import Glibc

/// Log entries for the journal's native protocol: the line for people in MESSAGE, each datum in a field of its own.
enum JournalSink {
  /// The longest name of a journal field, in bytes.
  private static let fieldNameBytesMax = 64
  /// What stands before the name of every datum.
  private static let prefix = "SIDELOCK_"

  /// The fields of an entry, each as `NAME=value`. A value may hold any byte, line breaks too.
  static func fields(of entry: LogEntry) -> [[UInt8]] {
    var fields = [
      "MESSAGE=" + LogFormat.text(message: entry.message, metadata: entry.metadata),
      "PRIORITY=\(entry.priority)",
    ]
    if let known = JournalMessage(rawValue: entry.message) { fields.append("MESSAGE_ID=" + known.identifier) }
    for (key, value) in entry.metadata { fields.append(fieldName(of: key) + "=" + value) }
    return fields.map { Array($0.utf8) }
  }

  /// `max-memory` becomes `SIDELOCK_MAX_MEMORY`: the journal takes capital letters, digits and underscores only.
  static func fieldName(of key: String) -> String {
    let bytes = key.utf8.map { byte -> UInt8 in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"): byte - 0x20
      case UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"): byte
      default: UInt8(ascii: "_")
      }
    }
    return String(decoding: (Array(prefix.utf8) + bytes).prefix(fieldNameBytesMax), as: UTF8.self)
  }

  /// Sends an entry; waits for the journal if it must.
  ///
  /// - Returns: whether the journal took it.
  static func send(_ entry: LogEntry) -> Bool {
    let fields = fields(of: entry)
    return fields.flatMap(\.self).withUnsafeBytes { all in
      guard let start = all.baseAddress else { return false }
      var offset = 0
      let vectors = fields.map { field in
        defer { offset += field.count }
        return iovec(iov_base: UnsafeMutableRawPointer(mutating: start + offset), iov_len: field.count)
      }
      return sd_journal_sendv(vectors, Int32(vectors.count)) >= 0
    }
  }
}
