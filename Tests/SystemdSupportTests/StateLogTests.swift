import Glibc
import Testing

@testable import SystemdSupport

/// Memory that is all zero, as a new file in memory is.
private final class Memory {
  let bytes: UnsafeMutableRawBufferPointer
  init(_ count: Int = 1 << 20) {
    bytes = .allocate(byteCount: count, alignment: 8)
    bytes.initializeMemory(as: UInt8.self, repeating: 0)
  }
  deinit { bytes.deallocate() }

  func image() throws -> StateImage { try StateImage(memory: UnsafeRawBufferPointer(bytes)) }
  func log(garbageBytesMax: Int = 1 << 20, sliceBytes: Int = StateLog.sliceBytes) throws -> StateLog {
    try #require(StateLog(memory: bytes, garbageBytesMax: garbageBytesMax, sliceBytes: sliceBytes))
  }
}

private func key(_ id: UInt64, kind: UInt8 = 1) -> StateLog.Key { StateLog.Key(kind: kind, id: id) }
private func note(_ text: String, input id: UInt64, _ log: StateLog) throws {
  try Array(text.utf8).withUnsafeBytes { try log.noteInput(id, $0) }
}
private func note(_ text: String, output id: UInt64, _ log: StateLog) throws {
  try Array(text.utf8).withUnsafeBytes { try log.noteOutput(id, $0) }
}

@Suite struct StateLogTests {
  @Test func memoryThatWasNeverWrittenIsEmpty() throws {
    let memory = Memory()
    #expect(throws: StateUnreadable.empty) { try memory.image() }
    let log = try memory.log()
    try log.put(key(1), [1])
    // Nothing counts before the first commit.
    #expect(throws: StateUnreadable.empty) { try memory.image() }
  }

  /// A table is copied when it grows, and numbers come one after another.
  @Test func noTableOfRecordsIsLarge() throws {
    let memory = Memory(1 << 24)
    let log = try memory.log()
    for id in 0..<20_000 as Range<UInt64> { try log.put(StateLog.Key(kind: 3, id: id), []) }
    #expect(log.tableMax < 300)
  }

  @Test func aCommitMakesEverythingBeforeItValidAtOnce() throws {
    let memory = Memory()
    let log = try memory.log()
    try log.put(key(1), [1])
    try log.put(key(2, kind: 9), [2, 2])
    try log.commit(counters: [7, 8])
    var image = try memory.image()
    #expect(image.records == [key(1): [1], key(2, kind: 9): [2, 2]])
    #expect(image.counters.prefix(3) == [7, 8, 0])
    try log.put(key(1), [3])
    try log.remove(key(2, kind: 9))
    try log.put(key(4), [])
    #expect(try memory.image().records == image.records)
    try log.commit(counters: [])
    image = try memory.image()
    #expect(image.records == [key(1): [3], key(4): []])
  }

  @Test func oneRecordIsReadWithoutTheOthers() throws {
    let memory = Memory()
    func record(_ key: StateLog.Key) throws -> [UInt8]? {
      try StateImage.record(key, in: UnsafeRawBufferPointer(memory.bytes))
    }
    #expect(throws: StateUnreadable.empty) { try record(key(1)) }
    let log = try memory.log()
    try log.put(key(1), [1])
    try log.put(key(2), [2])
    try log.commit(counters: [])
    #expect(try record(key(1)) == [1])
    try log.put(key(1), [3])
    try log.remove(key(2))
    #expect(try record(key(1)) == [1])
    try log.commit(counters: [])
    #expect(try record(key(1)) == [3])
    #expect(try record(key(2)) == nil && record(key(3)) == nil)
  }

  @Test func inputCountsAtOnceAndUntilTheNextCommit() throws {
    let memory = Memory()
    let log = try memory.log()
    try log.commit(counters: [])
    try note("a", input: 5, log)
    try note("b", input: 6, log)
    try Array("c".utf8).withUnsafeBytes { try log.noteInput(5, $0, isPeeked: true) }
    #expect(try memory.image().inputs.map(\.id) == [5, 6, 5])
    #expect(try memory.image().inputs.map(\.isPeeked) == [false, false, true])
    #expect(try memory.image().inputs.map { String(decoding: $0.bytes, as: UTF8.self) } == ["a", "b", "c"])
    // What was changed meanwhile does not become valid with the input.
    try log.put(key(1), [1])
    try note("d", input: 7, log)
    #expect(try memory.image().records == [:])
    try log.commit(counters: [])
    #expect(try memory.image().inputs.isEmpty)
    #expect(try memory.image().records == [key(1): [1]])
  }

  @Test func outputCountsFromItsCommitUntilItWasHandedOver() throws {
    let memory = Memory()
    let log = try memory.log()
    try note("a", output: 5, log)
    try log.commit(counters: [])
    try note("b", output: 6, log)
    #expect(try memory.image().outputs.map(\.id) == [5])
    try log.commit(counters: [])
    #expect(try memory.image().outputs.map(\.id) == [5, 6])
    log.handedOver()
    #expect(try memory.image().outputs.map(\.id) == [6])
    log.handedOver()
    #expect(try memory.image().outputs.isEmpty)
    try note("c", output: 7, log)
    try log.commit(counters: [])
    #expect(try memory.image().outputs.map(\.id) == [7])
  }

  @Test func aSuccessorGoesOnInTheSameMemoryAndTheOldStateCountsUntilItsFirstCommit() throws {
    let memory = Memory()
    let first = try memory.log()
    try first.put(key(1), [1])
    try note("x", output: 5, first)
    try first.commit(counters: [3])
    let before = try memory.image()
    for round in 2...5 {
      let next = try memory.log()
      try next.put(key(UInt64(round)), [UInt8(round)])
      #expect(try memory.image().records.count == 1)
      #expect(try memory.image().outputs.elementsEqual(before.outputs) { $0 == $1 })
      try note("x", output: 5, next)
      try next.commit(counters: [3])
      #expect(try memory.image().records == [key(UInt64(round)): [UInt8(round)]])
      #expect(try memory.image().outputs.map(\.id) == [5])
    }
  }

  @Test func garbageIsGivenBackAndNothingIsLost() throws {
    let memory = Memory(64 * 1024)
    let log = try memory.log(garbageBytesMax: 4096)
    try log.put(key(1000), Array("kept".utf8))
    for round in 0..<5000 {
      try log.put(key(UInt64(round % 7)), [UInt8(truncatingIfNeeded: round)])
      if round % 3 == 0 { try log.remove(key(UInt64(round % 5))) }
      try note("o", output: 1, log)
      try log.commit(counters: [UInt64(round)])
      log.handedOver()
      try log.tidy()
      let image = try memory.image()
      #expect(image.records[key(1000)] == Array("kept".utf8))
      #expect(image.outputs.isEmpty)
      #expect(image.counters[0] == UInt64(round))
    }
    #expect(try memory.image().records[key(4999 % 7)] == [UInt8(truncatingIfNeeded: 4999)])
  }

  /// Whoever reads it between two slices, because the process was killed there, finds the last commit.
  @Test(arguments: 1...3)
  func recordsAreCopiedInSlicesAndTheLastCommitCountsThroughout(seed: UInt64) throws {
    var word = seed
    func random(_ bound: UInt64) -> UInt64 {
      word = word &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return (word >> 33) % bound
    }
    let memory = Memory(256 * 1024)
    let log = try memory.log(garbageBytesMax: 2048, sliceBytes: 100)
    var model: [StateLog.Key: [UInt8]] = [:]
    var committed = model
    var slices = 0
    try log.commit(counters: [])
    for round in 0..<500 {
      for _ in 0..<random(4) {
        let one = key(random(150))
        if random(3) == 0 {
          try log.remove(one)
          model[one] = nil
        } else {
          let bytes = [UInt8](repeating: UInt8(truncatingIfNeeded: round), count: Int(random(60)))
          try log.put(one, bytes)
          model[one] = bytes
        }
      }
      try note("input", input: 4, log)
      #expect(try memory.image().records == committed)
      try note("output", output: 3, log)
      try log.commit(counters: [UInt64(round)])
      committed = model
      if random(2) == 0 { try note("half a line", input: 5, log) }
      let inputs = try memory.image().inputs.count
      log.allHandedOver()
      try log.tidy()
      let image = try memory.image()
      #expect(image.records == committed && image.counters[0] == UInt64(round))
      #expect(image.inputs.count == inputs && image.outputs.isEmpty)
      if log.isTidying { slices += 1 }
    }
    #expect(slices > 100)
  }

  /// So that what one user changes costs nobody a long turn.
  @Test func noSliceCopiesMuchAndWhatIsNotChangedAnyMoreComesToAnEnd() throws {
    let memory = try #require(StateMemory(bytes: 1 << 24))
    let log = try #require(StateLog(memory: memory.bytes, garbageBytesMax: 1 << 16, sliceBytes: 4096))
    for _ in 0..<3 { for id in 0..<4000 { try log.put(key(UInt64(id)), [UInt8](repeating: 7, count: 100)) } }
    try log.commit(counters: [])
    try log.tidy()
    // More than a thousand kilobytes, of which each call looks at four.
    var calls = 0
    while log.isTidying {
      try log.tidy()
      calls += 1
      #expect(calls < 10_000)
    }
    #expect(calls > 200)
    #expect(try StateImage(memory: UnsafeRawBufferPointer(memory.bytes)).records.count == 4000)
    // Nothing is worth it a second time.
    try log.tidy()
    #expect(!log.isTidying)
  }

  /// However much is given back at once, the other area stays as it is.
  @Test func nothingIsGivenBackOfTheAreaInUse() throws {
    let memory = try #require(StateMemory(bytes: 1 << 22))
    let log = try #require(StateLog(memory: memory.bytes))
    for round in 0..<100 {
      try log.put(key(1), [UInt8](repeating: UInt8(round), count: 400_000))
      try log.commit(counters: [UInt64(round)])
      try log.tidy()
      let image = try StateImage(memory: UnsafeRawBufferPointer(memory.bytes))
      #expect(image.records[key(1)]?.first == UInt8(round) && image.counters[0] == UInt64(round))
    }
  }

  @Test func recordsThatNeedMoreThanThereIsAreRefusedAndWhatWasCommittedStays() throws {
    let memory = Memory(64 * 1024)
    let log = try memory.log()
    try log.put(key(1), [1])
    try log.commit(counters: [])
    // Half of an area is for records: 15 KiB fit, and as many again do not.
    try log.put(key(2), [UInt8](repeating: 0, count: 14_000))
    #expect(throws: StateLog.Failure.full) { try log.put(key(3), [UInt8](repeating: 0, count: 14_000)) }
    // From then on nothing is taken any more, so that no commit makes half of a change valid.
    #expect(throws: StateLog.Failure.full) { try log.commit(counters: []) }
    #expect(try memory.image().records == [key(1): [1]])
  }

  @Test func whatWasInvalidatedIsGivenBackInSlicesAndBegunAnew() throws {
    let memory = try #require(StateMemory(bytes: 1 << 22))
    let log = try #require(StateLog(memory: memory.bytes, sliceBytes: 1024))
    let large = [UInt8](repeating: 7, count: 1 << 19)
    try log.put(key(1), large)
    try log.commit(counters: [1])
    #expect(throws: StateLog.Failure.full) { try log.put(key(2), large) }
    log.invalidate()
    #expect(log.isTidying)
    var calls = 0
    while log.isTidying {
      try log.tidy()
      calls += 1
    }
    #expect(calls > 100)
    #expect(memory.bytes[StateLayout.headBytes...].allSatisfy { $0 == 0 })
    let next = try #require(StateLog(memory: memory.bytes))
    try next.put(key(3), [3])
    #expect(throws: StateUnreadable.self) { try StateImage(memory: UnsafeRawBufferPointer(memory.bytes)) }
    try next.commit(counters: [2])
    let image = try StateImage(memory: UnsafeRawBufferPointer(memory.bytes))
    #expect(image.records == [key(3): [3]] && image.counters[0] == 2)
  }

  @Test(arguments: [0, StateLayout.version - 1, StateLayout.version + 1])
  func anotherVersionIsNotRead(_ version: UInt64) throws {
    let memory = Memory()
    try memory.log().commit(counters: [])
    memory.bytes.storeBytes(of: version, toByteOffset: StateLayout.versionOffset, as: UInt64.self)
    #expect(throws: StateUnreadable.otherVersion(version)) { try memory.image() }
  }

  /// Neither another area, nor fewer entries, nor other counters than were committed last.
  @Test func anEarlierCommitIsNeverTakenForTheLast() throws {
    let memory = Memory(64 * 1024)
    let log = try memory.log()
    var ends: [UInt64] = []
    let area = StateLayout.headBytes
    for round in 1...4 {
      try log.put(key(1), [UInt8(round)])
      try note("reply", output: 3, log)
      try log.commit(counters: [UInt64(round), 77])
      ends.append(memory.bytes.loadUnaligned(fromByteOffset: area, as: UInt64.self))
    }
    let good = try memory.image()
    #expect(good.records == [key(1): [4]] && good.counters.prefix(2) == [4, 77])
    let pristine = Array(memory.bytes)
    func isRefused() -> Bool {
      defer { memory.bytes.copyBytes(from: pristine) }
      return (try? memory.image()) == nil
    }
    // How far the entries go, by the bits that differ; and the area, and the outputs that were handed over.
    for end in ends.dropLast() {
      let low = ends[3] & ~0xFFFF_FFFF_FFFF | end & 0xFFFF_FFFF_FFFF
      memory.bytes.storeBytes(of: low, toByteOffset: area, as: UInt64.self)
      #expect(isRefused())
    }
    for offset in [StateLayout.areaOffset, StateLayout.outputsOffset, area] {
      for bit in 0..<64 {
        memory.bytes[offset + bit / 8] ^= 1 << (bit % 8)
        #expect(isRefused(), "bit \(bit) at \(offset)")
      }
    }
    // An area of before is not valid with the generation of now.
    let next = try memory.log()
    try next.put(key(2), [9])
    try next.commit(counters: [5])
    memory.bytes.storeBytes(
      of: StateLayout.areaWord(0, generation: 2), toByteOffset: StateLayout.areaOffset, as: UInt64.self)
    #expect(isRefused())
  }

  @Test func damageIsFoundOrHarmlessButNeverTraps() throws {
    var random = SystemRandomNumberGenerator()
    let memory = Memory(16 * 1024)
    let log = try memory.log()
    for id in 0..<20 { try log.put(key(UInt64(id)), [UInt8](repeating: UInt8(id), count: id * 3)) }
    try note("reply", output: 3, log)
    try log.commit(counters: [1, 2, 3])
    try note("half a li", input: 4, log)
    let good = try memory.image()
    let pristine = Array(memory.bytes)
    let used = 4096 + 1800
    var unread = 0
    for _ in 0..<4000 {
      let place = Int.random(in: 0..<used, using: &random)
      memory.bytes[place] = UInt8.random(in: .min ... .max, using: &random)
      if Bool.random(using: &random) { memory.bytes[Int.random(in: 0..<128, using: &random)] ^= 1 }
      if let image = try? memory.image() {
        // Whatever is read was written: a record that changed would be a lock that nobody asked for.
        for (key, payload) in image.records { #expect(good.records[key] == payload) }
        #expect(image.counters == good.counters)
      } else {
        unread += 1
      }
      memory.bytes.copyBytes(from: pristine)
    }
    #expect(unread > 200)
    for _ in 0..<10 {
      for place in memory.bytes.indices { memory.bytes[place] = UInt8.random(in: .min ... .max, using: &random) }
      func store(_ value: UInt64, at offset: Int) {
        memory.bytes.storeBytes(of: value, toByteOffset: offset, as: UInt64.self)
      }
      store(StateLayout.magic, at: StateLayout.magicOffset)
      store(StateLayout.version, at: StateLayout.versionOffset)
      store(4096, at: StateLayout.areaBytesOffset)
      store(StateLayout.areaWord(0, generation: 1), at: StateLayout.areaOffset)
      store(SealedWord.seal(0, salt: StateLayout.outputsSalt), at: StateLayout.outputsOffset)
      let end = UInt64.random(in: 0...4096, using: &random)
      store(SealedWord.seal(end, salt: StateLayout.endSalt(1)), at: StateLayout.headBytes)
      #expect(throws: StateUnreadable.self) { try memory.image() }
    }
  }

  @Test func aFileInMemoryKeepsItsSize() throws {
    let memory = try #require(StateMemory(bytes: 1 << 20))
    memory.bytes[5] = 7
    let copy = dup(memory.descriptor)
    let again = try #require(StateMemory(owning: copy))
    #expect(again.bytes[5] == 7)
    #expect(ftruncate(memory.descriptor, 0) == -1)
    // Anything else could shrink under whoever has mapped it.
    let pipe = open("/dev/null", O_RDWR)
    #expect(StateMemory(owning: pipe) == nil)
  }
}
