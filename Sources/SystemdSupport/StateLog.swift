import CLinux

/// The state of a daemon in memory that outlives it: a file in memory whose descriptor the service manager keeps.
///
/// State is a set of records, each under a key. A change is appended; many changes become valid at one moment
/// (``commit()``), so that whoever reads the memory after the process was killed, at whatever instruction, finds the
/// state as it was before a turn of the event loop or after it. Two kinds of entries stand beside the records, because
/// the outside world is no part of the state: *input* that is taken from a socket counts from the moment it was noted
/// until the commit that says what came of it, and *output* counts from its commit until it was handed to the socket.
///
/// ```
/// page 0    magic, version, size of an area, the area in use and its generation, attempts to begin, outputs that were handed over
/// area 0    bytes in use, then entries: length, kind, key, checksum, payload; a commit has the counters in its payload
/// area 1    the same; only one of them is in use. When the entries that mean nothing any more outweigh the others, those
///           are copied to the other area, and that is in use from one store on
/// ```
/// Each number of those that are stored by themselves carries a check, and that of an area's bytes in use is made with the
/// area's generation: what is damaged is refused, and never an earlier commit taken for the last one.
///
/// Both areas are as large as can ever be needed; memory that was never written, or was given back, costs nothing.
///
/// Not thread-safe: one event loop owns it.
public final class StateLog {
  /// What a record is about.
  public struct Key: Hashable, Sendable {
    /// Which kind of thing.
    public var kind: UInt8
    /// Which of its kind.
    public var id: UInt64

    /// The key of thing `id` of that kind.
    public init(kind: UInt8, id: UInt64) {
      self.kind = kind
      self.id = id
    }
  }

  /// Why no more state can be kept.
  public enum Failure: Error, Equatable {
    /// The records need more room than there is.
    case full
  }

  private let memory: UnsafeMutableRawBufferPointer
  private let areaBytes: Int
  /// Above this many bytes of entries that mean nothing any more, what is left is copied.
  private let garbageBytesMax: Int
  private let areas: StateLayout
  private var area: Int
  /// Where the next entry goes, and how far entries are valid, in bytes from the beginning of the area.
  private var end = StateLayout.areaHeadBytes
  private var isAreaInUse: Bool
  /// Counts the areas that were taken into use.
  private var generation: UInt64
  /// Those of the last commit.
  private var counters: [UInt64] = []
  /// Each record's place and size in the area.
  private var live: [Key: (offset: Int, bytes: Int)] = [:]
  private var liveBytes = 0
  /// Outputs that were noted, and that were handed over, since there is this memory.
  private var outputsNoted: UInt64
  private var outputsHandedOver: UInt64
  private var isFull = false

  /// Counters that are stored with every commit.
  public static let countersMax = StateLayout.countersMax

  /// A log in memory that is all zero, or, to go on after what another process left there, in memory that ``StateImage``
  /// has read. In either case it has no records yet, and what stood there before counts until the first commit.
  ///
  /// `memory` is aligned to 8 bytes and outlives the log.
  public init?(memory: UnsafeMutableRawBufferPointer, garbageBytesMax: Int = 1 << 20) {
    guard let areas = StateLayout(bytes: memory.count) else { return nil }
    self.memory = memory
    self.areas = areas
    areaBytes = areas.areaBytes
    self.garbageBytesMax = garbageBytesMax
    if let old = try? StateHead(memory: UnsafeRawBufferPointer(memory)) {
      area = old.area == 0 ? 1 : 0
      outputsHandedOver = old.outputsHandedOver
      generation = old.generation + 1
    } else {
      area = 0
      outputsHandedOver = 0
      generation = 1
    }
    outputsNoted = outputsHandedOver
    isAreaInUse = false
    store(0, at: areas.start(of: area))
    storeOutputs()
  }

  /// Bytes that records may take in memory of that size.
  public static func recordBytesMax(memoryBytes: Int) -> Int {
    (StateLayout(bytes: memoryBytes)?.areaBytes ?? 0) / 2
  }

  /// Bytes that the records take.
  public var recordBytes: Int { liveBytes }

  // MARK: Changes

  /// Puts a record in the place of the one that has this key, from the next commit on.
  public func put(_ key: Key, _ payload: [UInt8]) throws(Failure) {
    let offset = end
    try append(.put, key, payload)
    let bytes = end - offset
    if let old = live.updateValue((offset, bytes), forKey: key) { liveBytes -= old.bytes }
    liveBytes += bytes
  }

  /// Removes the record that has this key, if there is one, from the next commit on.
  public func remove(_ key: Key) throws(Failure) {
    guard let old = live.removeValue(forKey: key) else { return }
    liveBytes -= old.bytes
    try append(.remove, key, [])
  }

  /// Notes bytes that were taken from the socket of `id`, at once. `isPeeked`: they are about to be taken.
  public func noteInput(_ id: UInt64, _ bytes: UnsafeRawBufferPointer, isPeeked: Bool = false) throws(Failure) {
    // Before the first commit the old state counts, and nothing is read from clients.
    guard isAreaInUse else { return }
    try append(.input, Key(kind: isPeeked ? 1 : 0, id: id), bytes)
    storeEnd()
  }

  /// Notes bytes that the socket of `id` will be handed after the next commit.
  public func noteOutput(_ id: UInt64, _ bytes: UnsafeRawBufferPointer) throws(Failure) {
    try append(.output, Key(kind: 0, id: id), bytes)
    outputsNoted += 1
  }

  /// The output that was noted first, of those that are left, was handed to its socket.
  public func handedOver() {
    outputsHandedOver += 1
    storeOutputs()
  }

  /// All output that was noted was handed to its socket, or its socket is gone.
  public func allHandedOver() {
    guard outputsHandedOver != outputsNoted else { return }
    outputsHandedOver = outputsNoted
    storeOutputs()
  }

  /// Makes everything since the last commit valid at one moment; input that was noted before counts as dealt with.
  ///
  /// - Parameters:
  ///   - counters: at most ``countersMax`` numbers that are read back as they are.
  ///   - inputs: input that is noted with it and was not dealt with, for a successor's first commit.
  public func commit(counters: [UInt64], notDealtWith inputs: [(id: UInt64, bytes: [UInt8])] = []) throws(Failure) {
    self.counters = Array(counters.prefix(Self.countersMax))
    try appendCommit()
    for input in inputs { try append(.input, Key(kind: 0, id: input.id), input.bytes) }
    storeEnd()
    if !isAreaInUse { takeIntoUse() }
  }

  /// Gives memory back when it is worth it. To be called when neither input nor output is pending.
  public func tidy() throws(Failure) {
    guard isAreaInUse, end - liveBytes > garbageBytesMax + liveBytes else { return }
    let old = areas.start(of: area)
    let records = live.sorted { $0.value.offset < $1.value.offset }
    area = 1 - area
    generation += 1
    end = StateLayout.areaHeadBytes
    let new = areas.start(of: area)
    store(0, at: new)
    for (key, place) in records {
      let source = UnsafeRawBufferPointer(
        rebasing: memory[(old + place.offset)..<(old + place.offset + place.bytes)])
      UnsafeMutableRawBufferPointer(rebasing: memory[(new + end)..<(new + end + place.bytes)])
        .copyMemory(from: source)
      live[key] = (end, place.bytes)
      end += place.bytes
    }
    isAreaInUse = false
    try appendCommit()
    storeEnd()
    takeIntoUse()
  }

  /// Makes what is there unreadable, because it is not true any more.
  public func invalidate() {
    isFull = true
    store(0, at: StateLayout.magicOffset)
  }

  /// Counts one more attempt to begin with what is there, and tells how many there were without success.
  public static func countAttempt(_ memory: UnsafeMutableRawBufferPointer) -> UInt64 {
    guard memory.count >= StateLayout.headBytes else { return 0 }
    let before = memory.loadUnaligned(fromByteOffset: StateLayout.attemptsOffset, as: UInt64.self)
    memory.storeBytes(of: before &+ 1, toByteOffset: StateLayout.attemptsOffset, as: UInt64.self)
    return before
  }

  /// Beginning with what was there has had success.
  public func resetAttempts() { store(0, at: StateLayout.attemptsOffset) }

  private func takeIntoUse() {
    areas.writeHead(to: memory)
    store(StateLayout.areaWord(area, generation: generation), at: StateLayout.areaOffset)
    isAreaInUse = true
    giveBack(memory, from: areas.start(of: 1 - area), bytes: areaBytes)
  }

  private func storeEnd() {
    let start = areas.start(of: area)
    store(SealedWord.seal(UInt64(end), salt: StateLayout.endSalt(generation)), at: start)
  }

  private func storeOutputs() {
    store(SealedWord.seal(outputsHandedOver, salt: StateLayout.outputsSalt), at: StateLayout.outputsOffset)
  }

  // MARK: Entries

  private func appendCommit() throws(Failure) {
    try append(
      .commit, Key(kind: 0, id: outputsNoted),
      counters.flatMap { word in
        withUnsafeBytes(of: word.littleEndian) { Array($0) }
      })
  }

  private func append(_ kind: StateEntry.Kind, _ key: Key, _ payload: [UInt8]) throws(Failure) {
    guard payload.withUnsafeBytes({ hasAppended(kind, key, $0) }) else { throw .full }
  }

  private func append(_ kind: StateEntry.Kind, _ key: Key, _ payload: UnsafeRawBufferPointer) throws(Failure) {
    guard hasAppended(kind, key, payload) else { throw .full }
  }

  /// Appends an entry, and tells whether it had room. Records leave half of an area to the entries that become garbage.
  private func hasAppended(_ kind: StateEntry.Kind, _ key: Key, _ payload: UnsafeRawBufferPointer) -> Bool {
    guard !isFull, let total = StateEntry.bytes(payload: payload.count), total <= areaBytes - end,
      liveBytes + total <= areaBytes / 2
    else {
      isFull = true
      return false
    }
    let start = areas.start(of: area) + end
    StateEntry.write(
      kind, key, payload, to: UnsafeMutableRawBufferPointer(rebasing: memory[start..<(start + total)]))
    end += total
    return true
  }

  private func store(_ value: UInt64, at offset: Int) {
    guard let base = memory.baseAddress else { return }
    store_in_order(base.advanced(by: offset), value.littleEndian)
  }
}

/// Tells the kernel that these bytes are of no use any more, as far as they are whole pages of a file in memory.
private func giveBack(_ memory: UnsafeMutableRawBufferPointer, from offset: Int, bytes: Int) {
  guard let base = memory.baseAddress else { return }
  memory_give_back(base.advanced(by: offset), Int64(bytes))
}
