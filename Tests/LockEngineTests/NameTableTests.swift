import LockTypes
import Testing

@testable import LockEngine

@Suite struct NameTableTests {
  private func name(_ number: Int) -> LockName { LockName("name-\(number)") }

  /// With few entries and with many, and while the few become many.
  @Test func itIsADictionary() {
    var table = NameTable<Int>()
    for number in 0..<5000 {
      #expect(table.updateValue(number, forKey: name(number)) == nil)
      #expect(table.count == number + 1)
    }
    for number in 0..<5000 { #expect(table[name(number)] == number) }
    #expect(table.values.sorted() == Array(0..<5000))
    #expect(table.updateValue(-1, forKey: name(17)) == 17)
    table[name(18)] = -2
    #expect(table.count == 5000)
    #expect(table[name(17)] == -1 && table[name(18)] == -2)
    table[name(5001)] = nil
    for number in 0..<5000 { table[name(number)] = nil }
    #expect(table.isEmpty && Array(table.values) == [] && table[name(17)] == nil)
  }

  /// Whatever is left of very many: a session could otherwise leave the memory of all its holds behind.
  @Test(arguments: [1024, 1100, 40_000])
  func itGivesMemoryBack(count: Int) {
    var table = NameTable<Int>()
    for number in 0..<count { table[name(number)] = number }
    #expect(table.capacity >= count)
    for number in 0..<(count - 1) {
      table[name(number)] = nil
      #expect(table.count == count - number - 1 && table[name(count - 1)] == count - 1)
    }
    #expect(table.capacity <= 512)
    table[name(count - 1)] = nil
    #expect(table.isEmpty && table.capacity <= 512)
    // And it takes as many again.
    for number in 0..<count { table[name(number)] = number }
    #expect(table.values.sorted() == Array(0..<count))
  }

  @Test func namesAreOrderedByTheirBytes() {
    var names: [LockName] = [LockName(bytes: [])]
    for length in 1...20 {
      for place in 0..<length {
        for byte in [UInt8(0), 1, 0x7F, 0x80, 0xFF] {
          var bytes = [UInt8](repeating: 0x61, count: length)
          bytes[place] = byte
          names.append(LockName(bytes: bytes))
        }
      }
    }
    for a in names {
      for b in names { #expect((a < b) == a.bytes.lexicographicallyPrecedes(b.bytes)) }
    }
  }

  /// Names of every length, and those that differ in one byte, wherever that is.
  @Test func namesThatAreNearlyTheSameAreDifferent() {
    var table = NameTable<Int>()
    var names = Set<LockName>()
    for length in 1...40 {
      for place in 0..<length {
        for byte in UInt8(0x61)...0x64 {
          var bytes = [UInt8](repeating: 0x60, count: length)
          bytes[place] = byte
          names.insert(LockName(bytes: bytes))
        }
      }
    }
    for (number, name) in names.sorted().enumerated() { table[name] = number }
    #expect(table.count == names.count)
    for (number, name) in names.sorted().enumerated() { #expect(table[name] == number) }
  }
}

@Suite struct NameIndexTests {
  private func all(_ index: NameIndex) -> [LockName] {
    var names: [LockName] = []
    index.forEach(from: LockName(bytes: []), inclusive: true) {
      names.append($0)
      return false
    }
    return names
  }

  /// However they begin and end alike, and where one is the beginning of another.
  @Test func manyNamesAtOnceAreTheSameAsOneAfterTheOther() {
    var names: Set<LockName> = []
    for number in 0..<3000 {
      names.insert(LockName("a/common/beginning/\(number &* 7919 % 3000)"))
      names.insert(LockName(bytes: Array("a/common/beginning/".utf8) + [UInt8](repeating: 0, count: number % 12)))
      names.insert(LockName("a/common/beginning/eight-to-compare/\(number % 40)"))
    }
    for those in [Array(names), Array(names.prefix(1)), [], [LockName("x"), LockName("")]] {
      var one = NameIndex()
      for name in those { one.insert(name) }
      var many = NameIndex(those)
      #expect(all(many) == those.sorted() && all(one) == all(many))
      // It goes on as one that came to be in the other way.
      many.insert(LockName("a/common/middle"))
      if let first = those.first { many.remove(first) }
      #expect(all(many) == (those.dropFirst() + [LockName("a/common/middle")]).sorted())
    }
  }
}
