// How a `StateLog` looks in memory. Numbers are little-endian. A change of it raises `StateLayout.version`, and a
// daemon reads no other one. The records in it have a format of their own: protocol/formats.md.

/// Where things stand.
struct StateLayout {
  static let magic: UInt64 = 0x3154_4154_534B_4C53
  static let version: UInt64 = 2
  static let headBytes = 4096
  static let areaHeadBytes = 8
  static let countersMax = 16

  static let magicOffset = 0
  static let versionOffset = 8
  static let areaBytesOffset = 16
  static let areaOffset = 24
  static let attemptsOffset = 40
  static let outputsOffset = 48

  private static let areaSalt: UInt64 = 1
  static let outputsSalt: UInt64 = 2
  static func endSalt(_ generation: UInt64) -> UInt64 { 3 + generation }

  /// What is stored of the area in use and its generation.
  static func areaWord(_ area: Int, generation: UInt64) -> UInt64 {
    SealedWord.seal(generation << 1 | UInt64(area), salt: areaSalt)
  }

  /// Bytes of one of the two areas.
  let areaBytes: Int

  /// nil when the memory is too small for anything.
  init?(bytes: Int) {
    guard bytes >= Self.headBytes * 3 else { return nil }
    areaBytes = (bytes - Self.headBytes) / 2 / Self.headBytes * Self.headBytes
  }

  /// The area that a word names, and its generation; nil when it names none.
  static func area(in word: UInt64) -> (Int, UInt64)? {
    guard let value = SealedWord.open(word, salt: areaSalt), value >= 2 else { return nil }
    return (Int(value & 1), value >> 1)
  }

  func start(of area: Int) -> Int { Self.headBytes + area * areaBytes }

  func writeHead(to memory: UnsafeMutableRawBufferPointer) {
    memory.storeBytes(of: Self.version.littleEndian, toByteOffset: Self.versionOffset, as: UInt64.self)
    memory.storeBytes(of: UInt64(areaBytes).littleEndian, toByteOffset: Self.areaBytesOffset, as: UInt64.self)
    memory.storeBytes(of: Self.magic.littleEndian, toByteOffset: Self.magicOffset, as: UInt64.self)
  }
}

/// What a reader needs to know first.
struct StateHead {
  let layout: StateLayout
  let area: Int
  /// Counts the areas that were in use.
  let generation: UInt64
  let outputsHandedOver: UInt64

  init(memory: UnsafeRawBufferPointer) throws(StateUnreadable) {
    guard let layout = StateLayout(bytes: memory.count) else { throw .damaged("it is too small") }
    func word(_ offset: Int) -> UInt64 {
      UInt64(littleEndian: memory.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
    }
    let magic = word(StateLayout.magicOffset)
    if magic == 0 { throw .empty }
    guard magic == StateLayout.magic else { throw .damaged("it does not begin as it should") }
    let version = word(StateLayout.versionOffset)
    guard version == StateLayout.version else { throw .otherVersion(version) }
    guard word(StateLayout.areaBytesOffset) == UInt64(layout.areaBytes) else { throw .damaged("its size is wrong") }
    self.layout = layout
    guard let inUse = StateLayout.area(in: word(StateLayout.areaOffset)) else { throw .damaged("it names no area") }
    (area, generation) = inUse
    guard let outputs = SealedWord.open(word(StateLayout.outputsOffset), salt: StateLayout.outputsSalt) else {
      throw .damaged("its head is damaged")
    }
    outputsHandedOver = outputs
  }

  /// How far the entries of the area are valid, in bytes from its beginning; nil when that is damaged.
  func end(_ word: UInt64) -> UInt64? { SealedWord.open(word, salt: StateLayout.endSalt(generation)) }
}

/// A number below 2^48 with a check in the bits above: one store writes both.
enum SealedWord {
  private static let valueBits: UInt64 = 48
  private static let valueMax: UInt64 = 1 << valueBits - 1

  /// What is stored. `salt`: what the number is about, so that one is not taken for another.
  static func seal(_ value: UInt64, salt: UInt64) -> UInt64 {
    let value = value & valueMax
    return value | check(value, salt) << valueBits
  }

  /// The number; nil when it is not what was stored.
  static func open(_ word: UInt64, salt: UInt64) -> UInt64? {
    let value = word & valueMax
    return word >> valueBits == check(value, salt) ? value : nil
  }

  private static func check(_ value: UInt64, _ salt: UInt64) -> UInt64 {
    var sum = (value ^ salt << valueBits) &* 0xFF51_AFD7_ED55_8CCD
    sum ^= sum >> 32
    sum = (sum ^ salt) &* 0xC4CE_B9FE_1A85_EC53
    sum ^= sum >> 29
    return sum >> 16 & 0xFFFF
  }
}

/// State that cannot be used.
public enum StateUnreadable: Error, Equatable, CustomStringConvertible {
  /// Nothing was ever committed.
  case empty
  /// Another program wrote it, or another version of this one.
  case otherVersion(UInt64)
  /// It is not what was written.
  case damaged(String)

  /// What is wrong, in words.
  public var description: String {
    switch self {
    case .empty: "nothing was written to it"
    case .otherVersion(let version): "it is of format \(version), and this daemon reads format \(StateLayout.version)"
    case .damaged(let what): what
    }
  }
}

/// One entry: payload bytes (4), kind (1), kind of key (1), nothing (2), id (8), checksum (8), payload, padding to 8.
enum StateEntry {
  enum Kind: UInt8 {
    case put = 1
    case remove = 2
    case input = 3
    case output = 4
    case commit = 5
  }

  static let headBytes = 24
  static let payloadBytesMax = 1 << 28

  /// What an entry takes in all; nil when there is no entry of this size.
  static func bytes(payload: Int) -> Int? {
    guard payload >= 0, payload <= payloadBytesMax else { return nil }
    return (headBytes + payload + 7) & ~7
  }

  static func write(
    _ kind: Kind, _ key: StateLog.Key, _ payload: UnsafeRawBufferPointer, to memory: UnsafeMutableRawBufferPointer
  ) {
    let first = UInt64(payload.count) | UInt64(kind.rawValue) << 32 | UInt64(key.kind) << 40
    memory.storeBytes(of: first.littleEndian, toByteOffset: 0, as: UInt64.self)
    memory.storeBytes(of: key.id.littleEndian, toByteOffset: 8, as: UInt64.self)
    memory.storeBytes(of: checksum(first, key.id, payload).littleEndian, toByteOffset: 16, as: UInt64.self)
    if !payload.isEmpty {
      UnsafeMutableRawBufferPointer(rebasing: memory[headBytes...]).copyMemory(from: payload)
    }
  }

  /// The kind, the key and the padded size of the entry that begins at `offset`, without a look at its checksum; nil
  /// when there can be none.
  static func head(_ entries: UnsafeRawBufferPointer, at offset: Int) -> (kind: Kind, key: StateLog.Key, total: Int)? {
    guard entries.count - offset >= headBytes else { return nil }
    let first = UInt64(littleEndian: entries.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
    let id = UInt64(littleEndian: entries.loadUnaligned(fromByteOffset: offset + 8, as: UInt64.self))
    guard let kind = Kind(rawValue: UInt8(truncatingIfNeeded: first >> 32)),
      let total = bytes(payload: Int(first & 0xFFFF_FFFF)), total <= entries.count - offset
    else { return nil }
    return (kind, StateLog.Key(kind: UInt8(truncatingIfNeeded: first >> 40), id: id), total)
  }

  /// The entry that begins at `offset`, and its padded size; nil when none is there, or its checksum is wrong.
  static func read(
    _ entries: UnsafeRawBufferPointer, at offset: Int
  ) -> (kind: Kind, key: StateLog.Key, payload: UnsafeRawBufferPointer, total: Int)? {
    guard entries.count - offset >= headBytes else { return nil }
    func word(_ place: Int) -> UInt64 {
      UInt64(littleEndian: entries.loadUnaligned(fromByteOffset: offset + place, as: UInt64.self))
    }
    let (first, id, sum) = (word(0), word(8), word(16))
    let count = Int(first & 0xFFFF_FFFF)
    guard let kind = Kind(rawValue: UInt8(truncatingIfNeeded: first >> 32)), first >> 48 == 0,
      let total = bytes(payload: count), total <= entries.count - offset
    else { return nil }
    let payload = UnsafeRawBufferPointer(rebasing: entries[(offset + headBytes)..<(offset + headBytes + count)])
    guard checksum(first, id, payload) == sum else { return nil }
    return (kind, StateLog.Key(kind: UInt8(truncatingIfNeeded: first >> 40), id: id), payload, total)
  }

  /// Detects damage, not malice.
  static func checksum(_ first: UInt64, _ id: UInt64, _ payload: UnsafeRawBufferPointer) -> UInt64 {
    var sum: UInt64 = 0x9E37_79B9_7F4A_7C15
    func mix(_ word: UInt64) {
      sum = (sum ^ word) &* 0xFF51_AFD7_ED55_8CCD
      sum ^= sum >> 32
    }
    mix(first)
    mix(id)
    var offset = 0
    while payload.count - offset >= 8 {
      mix(UInt64(littleEndian: payload.loadUnaligned(fromByteOffset: offset, as: UInt64.self)))
      offset += 8
    }
    var last: UInt64 = 0
    while offset < payload.count {
      last = last << 8 | UInt64(payload[offset])
      offset += 1
    }
    mix(last)
    return sum
  }
}

/// What a ``StateLog`` holds, as another process reads it.
public struct StateImage: Equatable, Sendable {
  /// The numbers of the last commit, all of ``StateLog/countersMax``.
  public var counters: [UInt64]
  /// The records as they were at the last commit.
  public var records: [StateLog.Key: [UInt8]]
  /// Input that was taken from sockets after the last commit, in its order. Where it was peeked, the last of a socket
  /// may be there still.
  public var inputs: [(id: UInt64, bytes: [UInt8], isPeeked: Bool)]
  /// Output that may not have been handed to its socket, in its order. Only the first of them may have been.
  public var outputs: [(id: UInt64, bytes: [UInt8])]

  /// The record of one key, without reading the others; nil when there is none.
  public static func record(
    _ key: StateLog.Key, in memory: UnsafeRawBufferPointer
  ) throws(StateUnreadable) -> [UInt8]? {
    let (_, entries) = try entries(in: memory)
    var offset = 0
    var found: [UInt8]?
    var changed: [UInt8]??
    while offset < entries.count {
      guard let (kind, other, total) = StateEntry.head(entries, at: offset) else {
        throw .damaged("an entry is damaged")
      }
      switch kind {
      case .put where other == key:
        guard let entry = StateEntry.read(entries, at: offset) else { throw .damaged("an entry is damaged") }
        changed = .some(Array(entry.payload))
      case .remove where other == key: changed = .some(nil)
      case .commit:
        if let changed { found = changed }
        changed = nil
      case .put, .remove, .input, .output: break
      }
      offset += total
    }
    return found
  }

  private static func entries(
    in memory: UnsafeRawBufferPointer
  ) throws(StateUnreadable) -> (head: StateHead, entries: UnsafeRawBufferPointer) {
    let head = try StateHead(memory: memory)
    let start = head.layout.start(of: head.area)
    let area = UnsafeRawBufferPointer(rebasing: memory[start..<(start + head.layout.areaBytes)])
    let word = UInt64(littleEndian: area.loadUnaligned(fromByteOffset: 0, as: UInt64.self))
    guard let valid = head.end(word), valid >= UInt64(StateLayout.areaHeadBytes), valid <= UInt64(area.count) else {
      throw .damaged("its length is wrong")
    }
    return (head, UnsafeRawBufferPointer(rebasing: area[StateLayout.areaHeadBytes..<Int(valid)]))
  }

  /// Reads what is there, whatever that is.
  public init(memory: UnsafeRawBufferPointer) throws(StateUnreadable) {
    let (head, entries) = try Self.entries(in: memory)
    counters = [UInt64](repeating: 0, count: StateLayout.countersMax)
    records = [:]
    inputs = []
    outputs = []
    let noted = try read(entries)
    let (left, underflow) = noted.subtractingReportingOverflow(head.outputsHandedOver)
    outputs.removeFirst(outputs.count - min(outputs.count, underflow ? 0 : Int(clamping: left)))
  }

  private mutating func read(_ entries: UnsafeRawBufferPointer) throws(StateUnreadable) -> UInt64 {
    var offset = 0
    var outputsNoted: UInt64?
    // What was changed since the last commit counts only with the next one.
    var changes: [(key: StateLog.Key, payload: UnsafeRawBufferPointer?)] = []
    // What is replaced later is not copied.
    var found: [StateLog.Key: UnsafeRawBufferPointer] = [:]
    var newOutputs: [(id: UInt64, bytes: [UInt8])] = []
    while offset < entries.count {
      guard let (kind, key, payload, total) = StateEntry.read(entries, at: offset) else {
        throw .damaged("an entry is damaged")
      }
      switch kind {
      case .put: changes.append((key, payload))
      case .remove: changes.append((key, nil))
      case .input: inputs.append((key.id, Array(payload), key.kind == 1))
      case .output: newOutputs.append((key.id, Array(payload)))
      case .commit:
        for change in changes { found[change.key] = change.payload }
        outputs += newOutputs
        outputsNoted = key.id
        if !payload.isEmpty { counters = try Self.counters(payload) }
        changes.removeAll(keepingCapacity: true)
        newOutputs = []
        inputs = []
      }
      offset += total
    }
    guard let outputsNoted else { throw .empty }
    records = found.mapValues { Array($0) }
    return outputsNoted
  }

  private static func counters(_ payload: UnsafeRawBufferPointer) throws(StateUnreadable) -> [UInt64] {
    guard payload.count % 8 == 0, payload.count / 8 <= StateLayout.countersMax else {
      throw .damaged("a commit is damaged")
    }
    let words = (0..<(payload.count / 8)).map {
      UInt64(littleEndian: payload.loadUnaligned(fromByteOffset: 8 * $0, as: UInt64.self))
    }
    return words + [UInt64](repeating: 0, count: StateLayout.countersMax - words.count)
  }

  /// Whether both hold the same.
  public static func == (a: StateImage, b: StateImage) -> Bool {
    a.counters == b.counters && a.records == b.records && a.inputs.elementsEqual(b.inputs) { $0 == $1 }
      && a.outputs.elementsEqual(b.outputs) { $0 == $1 }
  }
}
