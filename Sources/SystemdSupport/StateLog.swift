import CLinux

/// The state of a daemon in memory that outlives it: a file in memory whose descriptor the service manager keeps.
///
/// State is a set of records, each under a key. A change is appended; many changes become valid at one moment
/// (``commit()``): a reader of the memory, after the process was killed at any instruction, finds the state
/// before a turn of the event loop or after it. Two kinds of entries stand beside the records, as the outside world is
/// no part of the state: *input* that is taken from a socket counts from when it was noted until the commit that says
/// what came of it, and *output* from its commit until it was handed to the socket.
///
/// ```
/// page 0    magic, version, size of an area, area in use, its generation, attempts to begin, outputs handed over
/// area 0    bytes in use, then entries: length, kind, key, checksum, payload; a commit has the counters in its payload
/// area 1    the same; only one of them is in use. When garbage outweighs the records, these are copied to the
///           other area, which one store then takes into use
/// ```
/// Copying takes as many turns as it needs, a slice in each: what changes meanwhile is written to both areas, and this
/// one counts until the other one is in use.
///
/// The numbers that say what is valid carry a check, and that of an area's bytes in use is made with the area's
/// generation: damage is refused, and an earlier commit never taken for the last one.
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
    /// What was written is no longer there.
    case damaged
  }

  /// Where a record stands.
  fileprivate struct Place {
    /// In each of the areas, in bytes from its beginning. In the area that is not in use it means something only while
    /// records are copied there.
    private var offsets: (Int, Int)
    /// Its size.
    let bytes: Int

    init(_ offset: Int, _ bytes: Int) {
      offsets = (offset, offset)
      self.bytes = bytes
    }

    subscript(area: Int) -> Int {
      get { area == 0 ? offsets.0 : offsets.1 }
      set { if area == 0 { offsets.0 = newValue } else { offsets.1 = newValue } }
    }
  }

  /// How far the records have been copied to the other area.
  private struct Move {
    /// How far the entries of the area in use were looked at, and up to where they are: later ones are written to both
    /// areas.
    var looked = StateLayout.areaHeadBytes
    let until: Int
    /// Where the next entry goes in the other area.
    var end = StateLayout.areaHeadBytes
  }

  /// How many bytes of entries one call of ``tidy()`` looks at, at least; more where many were appended.
  public static let sliceBytes = 1 << 18

  private let memory: UnsafeMutableRawBufferPointer
  private let areaBytes: Int
  /// Records are copied when garbage exceeds them by more than this, in bytes.
  private let garbageBytesMax: Int
  private let sliceBytes: Int
  private let areas: StateLayout
  private var area: Int
  /// Where the next entry goes, and how far entries are valid, in bytes from the beginning of the area.
  private var end = StateLayout.areaHeadBytes
  private var isAreaInUse: Bool
  /// Counts the areas that were taken into use.
  private var generation: UInt64
  /// Those of the last commit.
  private var counters: [UInt64] = []
  private var live = Records()
  private var liveBytes = 0
  private var move: Move?
  /// What is still to be given back of the memory.
  private var unreturned: [Range<Int>] = []
  /// Where `end` was at the last ``tidy()``.
  private var tidiedEnd = 0
  /// Whether there is input that counts until the next commit.
  private var hasInput = false
  /// Outputs that were noted, and that were handed over, in all logs of this memory.
  private var outputsNoted: UInt64
  private var outputsHandedOver: UInt64
  private var isFull = false

  /// Counters that are stored with every commit.
  public static let countersMax = StateLayout.countersMax

  /// A log in memory that is all zero, or, to go on after another process, in memory that ``StateImage`` has read. In
  /// either case it has no records yet, and what stood there before counts until the first commit.
  ///
  /// `memory` is aligned to 8 bytes and outlives the log.
  ///
  /// - Parameters:
  ///   - garbageBytesMax: by how many bytes garbage may exceed the records before they are copied.
  ///   - sliceBytes: see ``sliceBytes``.
  public init?(
    memory: UnsafeMutableRawBufferPointer, garbageBytesMax: Int = 1 << 20, sliceBytes: Int = StateLog.sliceBytes
  ) {
    guard let areas = StateLayout(bytes: memory.count) else { return nil }
    self.memory = memory
    self.areas = areas
    areaBytes = areas.areaBytes
    self.garbageBytesMax = garbageBytesMax
    self.sliceBytes = sliceBytes
    if let old = try? StateHead(memory: UnsafeRawBufferPointer(memory)) {
      area = old.area == 0 ? 1 : 0
      outputsHandedOver = old.outputsHandedOver
      generation = old.generation + 1
      // What the other process may have begun there.
      giveBack(memory, from: areas.start(of: area), bytes: areaBytes)
      let start = areas.start(of: old.area)
      let end = old.end(UInt64(littleEndian: memory.loadUnaligned(fromByteOffset: start, as: UInt64.self)))
      unreturned = [start..<(start + min(areaBytes, Int(clamping: end ?? .max)))]
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

  /// How many records stand in the largest of the tables in which they are found: so many are copied when it grows.
  var tableMax: Int { live.tableMax }

  /// Bytes that the records take.
  public var recordBytes: Int { liveBytes }

  /// Whether ``tidy()`` has more to do, even if nothing changes.
  public var isTidying: Bool { !unreturned.isEmpty && (isAreaInUse || isFull) || move != nil && !isFull }

  // MARK: Changes

  /// Puts a record in the place of the one that has this key, from the next commit on.
  public func put(_ key: Key, _ payload: [UInt8]) throws(Failure) {
    let (offset, copiedTo) = (end, move?.end)
    try append(.put, key, payload)
    var place = Place(offset, end - offset)
    if let copiedTo { place[1 - area] = copiedTo }
    if let old = live[key].updateValue(place, forKey: key) { liveBytes -= old.bytes }
    liveBytes += place.bytes
  }

  /// Removes the record that has this key, if there is one, from the next commit on.
  public func remove(_ key: Key) throws(Failure) {
    guard let old = live[key].removeValue(forKey: key) else { return }
    liveBytes -= old.bytes
    try append(.remove, key, [])
  }

  /// Notes bytes that were taken from the socket of `id`; valid at once. `isPeeked`: they are about to be taken.
  public func noteInput(_ id: UInt64, _ bytes: UnsafeRawBufferPointer, isPeeked: Bool = false) throws(Failure) {
    // Before the first commit the old state counts, and nothing is read from clients.
    guard isAreaInUse else { return }
    try append(.input, Key(kind: isPeeked ? 1 : 0, id: id), bytes)
    hasInput = true
    storeEnd()
  }

  /// Notes bytes that the socket of `id` will be handed after the next commit.
  public func noteOutput(_ id: UInt64, _ bytes: UnsafeRawBufferPointer) throws(Failure) {
    try append(.output, Key(kind: 0, id: id), bytes)
    outputsNoted += 1
  }

  /// The oldest output that was noted and is left was handed to its socket.
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
  /// - Parameter counters: at most ``countersMax`` numbers that are read back as they are.
  public func commit(counters: [UInt64]) throws(Failure) {
    self.counters = Array(counters.prefix(Self.countersMax))
    try appendCommit()
    hasInput = false
    storeEnd()
    if !isAreaInUse { takeIntoUse() }
  }

  /// Gives memory back when it is worth it, a slice of the work in each call. To be called when no output is pending.
  public func tidy() throws(Failure) {
    if isFull { return giveBackSlice(sliceBytes) }
    guard isAreaInUse else { return }
    let appended = max(0, end - tidiedEnd)
    tidiedEnd = end
    // Faster than entries are appended, and much faster as the area fills up.
    let bytes = max(sliceBytes, appended * (end > areaBytes / 2 ? 8 : 2))
    if !unreturned.isEmpty { return giveBackSlice(bytes) }
    if move == nil {
      guard end - liveBytes > garbageBytesMax + liveBytes || end > areaBytes / 8 * 5 else { return }
      move = Move(until: end)
    }
    try copyRecords(bytes)
    // Input that was noted stands in this area alone, until the next commit says what came of it.
    guard let move, move.looked == move.until, !hasInput else { return }
    unreturned = [areas.start(of: area)..<(areas.start(of: area) + end)]
    area = 1 - area
    generation += 1
    end = move.end
    self.move = nil
    isAreaInUse = false
    try appendCommit()
    storeEnd()
    takeIntoUse()
  }

  /// Looks at `bytes` bytes of entries, and copies the records among them.
  private func copyRecords(_ bytes: Int) throws(Failure) {
    guard var move else { return }
    let (from, to) = (areas.start(of: area), areas.start(of: 1 - area))
    let entries = UnsafeRawBufferPointer(rebasing: memory[from..<(from + move.until)])
    let stop = min(move.until, move.looked + bytes)
    while move.looked < stop {
      guard let (kind, key, total) = StateEntry.head(entries, at: move.looked) else { throw .damaged }
      if kind == .put, let index = live[key].index(forKey: key), live[key].values[index][area] == move.looked {
        guard total <= areaBytes - move.end else {
          // What was written to both areas took the room. The next attempt has less to copy.
          self.move = nil
          return
        }
        UnsafeMutableRawBufferPointer(rebasing: memory[(to + move.end)..<(to + move.end + total)])
          .copyMemory(from: UnsafeRawBufferPointer(rebasing: entries[move.looked..<(move.looked + total)]))
        live[key].values[index][1 - area] = move.end
        move.end += total
      }
      move.looked += total
    }
    self.move = move
  }

  /// Gives a slice of what is still to be given back to the kernel.
  private func giveBackSlice(_ bytes: Int) {
    guard let range = unreturned.popLast() else { return }
    let page = StateLayout.headBytes
    // Both begin at a page, and an area is whole pages: behind it may lie the one that is in use.
    func roundedUp(_ bytes: Int) -> Int { (bytes + page - 1) / page * page }
    let end = min(roundedUp(range.upperBound), range.lowerBound + roundedUp(bytes * 4))
    giveBack(memory, from: range.lowerBound, bytes: end - range.lowerBound)
    if end < range.upperBound { unreturned.append(end..<range.upperBound) }
  }

  /// Makes the state unreadable, because it is no longer true. From then on only ``tidy()`` is of use, which gives
  /// the memory back; then another log may begin in it.
  public func invalidate() {
    isFull = true
    store(0, at: StateLayout.magicOffset)
    store(0, at: StateLayout.areaOffset)
    for (area, end) in [(area, end), (1 - area, move?.end ?? 0)] where end > 0 {
      unreturned.append(areas.start(of: area)..<(areas.start(of: area) + end))
    }
    move = nil
    live = Records()
    liveBytes = 0
  }

  /// Counts one more attempt to begin with this state. Returns how many there were before without success.
  public static func countAttempt(_ memory: UnsafeMutableRawBufferPointer) -> UInt64 {
    guard memory.count >= StateLayout.headBytes else { return 0 }
    let before = memory.loadUnaligned(fromByteOffset: StateLayout.attemptsOffset, as: UInt64.self)
    memory.storeBytes(of: before &+ 1, toByteOffset: StateLayout.attemptsOffset, as: UInt64.self)
    return before
  }

  /// The daemon has begun with the inherited state: attempts are counted anew.
  public func resetAttempts() { store(0, at: StateLayout.attemptsOffset) }

  private func takeIntoUse() {
    areas.writeHead(to: memory)
    store(StateLayout.areaWord(area, generation: generation), at: StateLayout.areaOffset)
    isAreaInUse = true
    tidiedEnd = end
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
    if kind == .put || kind == .remove { appendToOther(start, total) }
    return true
  }

  /// Appends an entry to the other area, too, while records are copied there.
  private func appendToOther(_ start: Int, _ total: Int) {
    guard let move else { return }
    guard total <= areaBytes - move.end else { return self.move = nil }
    let other = areas.start(of: 1 - area) + move.end
    UnsafeMutableRawBufferPointer(rebasing: memory[other..<(other + total)])
      .copyMemory(from: UnsafeRawBufferPointer(rebasing: memory[start..<(start + total)]))
    self.move?.end += total
  }

  private func store(_ value: UInt64, at offset: Int) {
    guard let base = memory.baseAddress else { return }
    store_in_order(base.advanced(by: offset), value.littleEndian)
  }
}

/// Where each record stands. A full hash table is copied when it grows, which takes long when there are very many, so
/// they are spread over many tables, each of which grows at another time.
private struct Records {
  private static let count = 256
  /// A secret, so that nobody can have records that all come into one table.
  private let salt = UInt64.random(in: 0 ... .max)
  private var tables = [[StateLog.Key: StateLog.Place]](repeating: [:], count: Self.count)

  var tableMax: Int { tables.reduce(0) { max($0, $1.count) } }

  /// The table in which that record is.
  subscript(key: StateLog.Key) -> [StateLog.Key: StateLog.Place] {
    get { tables[index(of: key)] }
    _modify { yield &tables[index(of: key)] }
  }

  private func index(of key: StateLog.Key) -> Int {
    var hash = (key.id ^ salt) &* 0xFF51_AFD7_ED55_8CCD &+ UInt64(key.kind)
    hash ^= hash >> 32
    hash &*= 0xC4CE_B9FE_1A85_EC53
    return Int(truncatingIfNeeded: hash >> 32) % Self.count
  }
}

/// Gives the whole pages among these bytes back to the kernel, as far as they are of a file in memory.
private func giveBack(_ memory: UnsafeMutableRawBufferPointer, from offset: Int, bytes: Int) {
  guard let base = memory.baseAddress else { return }
  memory_give_back(base.advanced(by: offset), Int64(bytes))
}
