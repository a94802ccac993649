/// A moment on the host's boot clock (`CLOCK_BOOTTIME`: monotonic, and it counts while the host is suspended).
public struct BootInstant: Hashable, Comparable, Sendable {
  /// Nanoseconds since the host booted.
  public var nanoseconds: Int64

  /// A moment, from the clock's reading in nanoseconds.
  public init(nanoseconds: Int64) {
    self.nanoseconds = nanoseconds
  }

  /// The later of two moments is the greater one.
  public static func < (a: BootInstant, b: BootInstant) -> Bool {
    a.nanoseconds < b.nanoseconds
  }

  /// The moment `milliseconds` after this one; it saturates, so no figure that a client sends can overflow it.
  public func adding(milliseconds: Int64) -> BootInstant {
    let (scaled, overflow) = milliseconds.multipliedReportingOverflow(by: 1_000_000)
    let step = overflow ? (milliseconds < 0 ? Int64.min : Int64.max) : scaled
    let (sum, sumOverflow) = nanoseconds.addingReportingOverflow(step)
    return BootInstant(nanoseconds: sumOverflow ? (step < 0 ? Int64.min : Int64.max) : sum)
  }

  /// Whole milliseconds from `earlier` to this moment, rounded down; negative when `earlier` is later.
  public func milliseconds(since earlier: BootInstant) -> Int64 {
    let (difference, overflow) = nanoseconds.subtractingReportingOverflow(earlier.nanoseconds)
    if overflow { return nanoseconds < earlier.nanoseconds ? Int64.min / 1_000_000 : Int64.max / 1_000_000 }
    return difference >= 0 ? difference / 1_000_000 : -((-difference + 999_999) / 1_000_000)
  }
}

/// One client connection, for as long as it lives. The I/O layer numbers them and never uses a number twice.
public struct SessionID: Hashable, Comparable, Sendable {
  /// The number.
  public var rawValue: UInt64

  /// The session of this number.
  public init(_ rawValue: UInt64) {
    self.rawValue = rawValue
  }

  /// The session that was opened later is the greater one.
  public static func < (a: SessionID, b: SessionID) -> Bool {
    a.rawValue < b.rawValue
  }
}

/// One request, unique in the daemon's life. The JSON-RPC `id` that the client chose is the I/O layer's business.
public struct RequestID: Hashable, Sendable {
  /// The number.
  public var rawValue: UInt64

  /// The request of this number.
  public init(_ rawValue: UInt64) {
    self.rawValue = rawValue
  }
}

/// One command that was sent to the lease store, unique in the daemon's life.
public struct CommandID: Hashable, Sendable {
  /// The number.
  public var rawValue: UInt64

  /// The command of this number.
  public init(_ rawValue: UInt64) {
    self.rawValue = rawValue
  }
}

/// The name of a lock: any bytes that are valid UTF-8, compared byte for byte.
///
/// A `String` would not do: Swift compares strings by canonical equivalence, so that two names which differ in Redis
/// would share one local queue.
public struct LockName: Hashable, Comparable, Sendable, CustomStringConvertible {
  /// The name's UTF-8 bytes.
  public let bytes: [UInt8]

  /// The name with these UTF-8 bytes.
  public init(bytes: [UInt8]) {
    self.bytes = bytes
  }

  /// The name that `string` spells.
  public init(_ string: String) {
    self.bytes = Array(string.utf8)
  }

  /// The name as text; bytes that are not UTF-8 are shown as U+FFFD.
  public var description: String {
    String(decoding: bytes, as: UTF8.self)
  }

  /// Whether the name is not empty and its bytes are UTF-8.
  public var isText: Bool {
    !bytes.isEmpty && String(validating: bytes, as: UTF8.self) != nil
  }

  /// Hashes the bytes.
  public func hash(into hasher: inout Hasher) {
    bytes.withUnsafeBytes { hasher.combine(bytes: $0) }
  }

  /// Names are ordered by their bytes.
  public static func < (a: LockName, b: LockName) -> Bool {
    // Eight at a time: names can be long and begin alike.
    a.bytes.withUnsafeBytes { a in
      b.bytes.withUnsafeBytes { b in
        let shared = min(a.count, b.count)
        var offset = 0
        while offset + 8 <= shared {
          let left = UInt64(bigEndian: a.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
          let right = UInt64(bigEndian: b.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
          if left != right { return left < right }
          offset += 8
        }
        while offset < shared {
          if a[offset] != b[offset] { return a[offset] < b[offset] }
          offset += 1
        }
        return a.count < b.count
      }
    }
  }

  /// Whether the name begins with these bytes.
  public func hasPrefix(_ prefix: [UInt8]) -> Bool {
    bytes.starts(with: prefix)
  }
}

/// A fencing token: greater than the token of every earlier grant of the same name, and below 2^53.
public typealias Token = Int64

/// How a name is held or asked for.
public enum HoldMode: Hashable, Sendable {
  /// By one alone.
  case exclusive
  /// By any number together, while nobody has it exclusively.
  case shared
  /// As one permit of a semaphore of that capacity, at least 1.
  case permit(of: Int64)

  /// Whether both use the name as the same thing: a lock, or a semaphore of one capacity.
  public func isSameKind(as other: HoldMode) -> Bool {
    switch (self, other) {
    case (.exclusive, .exclusive), (.exclusive, .shared), (.shared, .exclusive), (.shared, .shared): true
    case (.permit(let a), .permit(let b)): a == b
    case (.permit, .exclusive), (.permit, .shared), (.exclusive, .permit), (.shared, .permit): false
    }
  }
}

/// What happens to the process of a client that loses a lock.
public enum LossAction: String, Hashable, Sendable, CaseIterable {
  /// It is told.
  case notify
  /// It gets SIGTERM, and SIGKILL before anybody else can have the lock.
  case terminate
  /// It gets SIGKILL.
  case kill
}
