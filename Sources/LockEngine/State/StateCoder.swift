public import LockTypes

/// Appends values, for a successor of this process to read with ``StateReader``. Numbers are little-endian; bytes and
/// texts have their length before them.
public struct StateWriter: Sendable {
  /// What was written.
  public private(set) var bytes: [UInt8] = []

  /// A writer that has written nothing.
  public init() {
    bytes.reserveCapacity(96)
  }

  /// Writes one byte.
  public mutating func write(_ value: UInt8) { bytes.append(value) }

  /// Writes a truth value.
  public mutating func write(_ value: Bool) { bytes.append(value ? 1 : 0) }

  /// Writes a number.
  public mutating func write(_ value: UInt64) {
    withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
  }

  /// Writes a number.
  public mutating func write(_ value: Int64) { write(UInt64(bitPattern: value)) }

  /// Writes a number or that there is none.
  public mutating func write(_ value: Int64?) {
    write(value != nil)
    if let value { write(value) }
  }

  /// Writes a moment of the boot clock.
  public mutating func write(_ value: BootInstant) { write(value.nanoseconds) }

  /// Writes a moment of the boot clock or that there is none.
  public mutating func write(_ value: BootInstant?) { write(value?.nanoseconds) }

  /// Writes bytes.
  public mutating func write(_ value: some Collection<UInt8>) {
    write(UInt64(value.count))
    bytes.append(contentsOf: value)
  }

  /// Writes a text.
  public mutating func write(_ value: String) {
    write(UInt64(value.utf8.count))
    bytes.append(contentsOf: value.utf8)
  }

  /// Writes a text or that there is none.
  public mutating func write(_ value: String?) {
    write(value != nil)
    if let value { write(value) }
  }

  mutating func write(_ value: HoldMode) {
    switch value {
    case .exclusive: write(UInt8(0))
    case .shared: write(UInt8(1))
    case .permit(let capacity):
      write(UInt8(2))
      write(capacity)
    }
  }

  mutating func write(_ value: UnusedTokens) {
    switch value {
    case .all: write(UInt8(0))
    case .from(let token):
      write(UInt8(1))
      write(token)
    case .unknown: write(UInt8(2))
    }
  }

  mutating func write(_ value: LossAction) { write(value.rawValue) }
}

/// Bytes that are not what a ``StateWriter`` wrote.
public struct StateDamage: Error, Equatable, CustomStringConvertible {
  /// What is wrong, in words.
  public let description: String

  /// Something that makes no sense.
  public init(_ description: String = "a record makes no sense") {
    self.description = description
  }
}

/// Reads what a ``StateWriter`` has written. Whatever the bytes are, it throws or gives values; it never traps.
public struct StateReader: Sendable {
  private let all: [UInt8]
  private var position = 0

  /// A reader at the beginning of `bytes`.
  public init(_ bytes: [UInt8]) {
    all = bytes
  }

  /// Throws unless everything was read; a later format may have more.
  public func finish(isOfLaterFormat: Bool = false) throws(StateDamage) {
    guard isOfLaterFormat || position == all.count else { throw StateDamage() }
  }

  /// Whether everything was read.
  public var isAtEnd: Bool { position == all.count }

  /// Reads one byte.
  public mutating func byte() throws(StateDamage) -> UInt8 {
    guard position < all.count else { throw StateDamage() }
    defer { position += 1 }
    return all[position]
  }

  /// Reads a truth value.
  public mutating func bool() throws(StateDamage) -> Bool {
    switch try byte() {
    case 0: return false
    case 1: return true
    case _: throw StateDamage()
    }
  }

  /// Reads a number.
  public mutating func unsigned() throws(StateDamage) -> UInt64 {
    guard all.count - position >= 8 else { throw StateDamage() }
    defer { position += 8 }
    return all.withUnsafeBytes { UInt64(littleEndian: $0.loadUnaligned(fromByteOffset: position, as: UInt64.self)) }
  }

  /// Reads a number.
  public mutating func signed() throws(StateDamage) -> Int64 { Int64(bitPattern: try unsigned()) }

  /// Reads a number or that there is none.
  public mutating func optional() throws(StateDamage) -> Int64? { try bool() ? signed() : nil }

  /// Reads a moment of the boot clock.
  public mutating func moment() throws(StateDamage) -> BootInstant { BootInstant(nanoseconds: try signed()) }

  /// Reads a moment of the boot clock or that there is none.
  public mutating func optionalMoment() throws(StateDamage) -> BootInstant? { try bool() ? moment() : nil }

  /// Reads bytes.
  public mutating func bytes() throws(StateDamage) -> [UInt8] {
    let count = try count()
    defer { position += count }
    return Array(all[position..<(position + count)])
  }

  /// Reads a text.
  public mutating func text() throws(StateDamage) -> String {
    guard let text = String(validating: try bytes(), as: UTF8.self) else { throw StateDamage() }
    return text
  }

  /// Reads a text or that there is none.
  public mutating func optionalText() throws(StateDamage) -> String? { try bool() ? text() : nil }

  /// Reads how many things follow, each of which takes at least one byte.
  public mutating func count() throws(StateDamage) -> Int {
    guard let count = Int(exactly: try unsigned()), count <= all.count - position else { throw StateDamage() }
    return count
  }

  mutating func name() throws(StateDamage) -> LockName { LockName(bytes: try bytes()) }

  mutating func mode() throws(StateDamage) -> HoldMode {
    switch try byte() {
    case 0: return .exclusive
    case 1: return .shared
    case 2:
      let capacity = try signed()
      guard capacity >= 1 else { throw StateDamage() }
      return .permit(of: capacity)
    case _: throw StateDamage()
    }
  }

  mutating func unused() throws(StateDamage) -> UnusedTokens {
    switch try byte() {
    case 0: return .all
    case 1: return .from(try signed())
    case 2: return .unknown
    case _: throw StateDamage()
    }
  }

  mutating func lossAction() throws(StateDamage) -> LossAction {
    guard let action = LossAction(rawValue: try text()) else { throw StateDamage() }
    return action
  }
}
