import RESP
import Testing

/// A text on the wire and the value that it is.
struct Vector: Sendable, CustomTestStringConvertible {
  var wire: String
  var value: RESPValue

  init(_ wire: String, _ value: RESPValue) {
    self.wire = wire
    self.value = value
  }

  var testDescription: String { wire.debugDescription }

  static let all: [Vector] = [
    Vector("+OK\r\n", .simple("OK")),
    Vector("+\r\n", .simple("")),
    Vector("-ERR no\r\n", .error("ERR no")),
    Vector("!6\r\nERR\r\nx\r\n", .error("ERR\r\nx")),
    Vector(":0\r\n", .integer(0)),
    Vector(":-1\r\n", .integer(-1)),
    Vector(":+7\r\n", .integer(7)),
    Vector(":9223372036854775807\r\n", .integer(.max)),
    Vector(":-9223372036854775808\r\n", .integer(.min)),
    Vector("$0\r\n\r\n", .blob("")),
    Vector("$4\r\n\r\n\r\n\r\n", .blob("\r\n\r\n")),
    Vector("$-1\r\n", .null),
    Vector("*-1\r\n", .null),
    Vector("_\r\n", .null),
    Vector("=8\r\ntxt:some\r\n", .blob("some")),
    Vector("=4\r\nmkd:\r\n", .blob("")),
    Vector(",1.5\r\n", .double(1.5)),
    Vector(",-10\r\n", .double(-10)),
    Vector(",+2.5e-3\r\n", .double(0.0025)),
    Vector(",1E5\r\n", .double(100_000)),
    Vector(",inf\r\n", .double(.infinity)),
    Vector(",-inf\r\n", .double(-.infinity)),
    Vector("#t\r\n", .boolean(true)),
    Vector("#f\r\n", .boolean(false)),
    Vector(
      "(-3492890328409238509324850943850943825024385\r\n",
      .bigNumber(bytes("-3492890328409238509324850943850943825024385"))),
    Vector("*0\r\n", .array([])),
    Vector("*3\r\n:1\r\n$1\r\na\r\n*-1\r\n", .array([.integer(1), .blob("a"), .null])),
    Vector(
      "*2\r\n*2\r\n:1\r\n:2\r\n*1\r\n*0\r\n", .array([.array([.integer(1), .integer(2)]), .array([.array([])])])),
    Vector("%0\r\n", .map([])),
    Vector(
      "%2\r\n+a\r\n:1\r\n+a\r\n%1\r\n_\r\n~0\r\n",
      .map([
        RESPPair(.simple("a"), .integer(1)), RESPPair(.simple("a"), .map([RESPPair(.null, .set([]))])),
      ])),
    Vector("~2\r\n:1\r\n:1\r\n", .set([.integer(1), .integer(1)])),
    Vector(">2\r\n+invalidate\r\n_\r\n", .push([.simple("invalidate"), .null])),
    Vector(">0\r\n", .push([])),
    Vector("|1\r\n+ttl\r\n:3600\r\n:5\r\n", .integer(5)),
    Vector("|0\r\n|1\r\n+a\r\n*1\r\n:1\r\n+OK\r\n", .simple("OK")),
    Vector("|1\r\n+a\r\n:1\r\n>1\r\n+a\r\n", .push([.simple("a")])),
    Vector("*2\r\n|1\r\n+a\r\n|1\r\n+b\r\n:0\r\n:1\r\n:2\r\n:3\r\n", .array([.integer(2), .integer(3)])),
    Vector("%1\r\n|1\r\n+a\r\n:1\r\n+k\r\n|1\r\n+a\r\n:1\r\n+v\r\n", .map([RESPPair(.simple("k"), .simple("v"))])),
  ]
}

@Suite struct RESPDecoderTests {
  @Test(arguments: Vector.all, Cut.allCases)
  func valueIsReadHoweverItIsCut(vector: Vector, cut: Cut) {
    #expect(decode(bytes(vector.wire), cut) == Decoded(values: [vector.value]))
  }

  @Test(arguments: Cut.allCases)
  func gluedValuesAreReadInOrder(cut: Cut) {
    let wire = Vector.all.map(\.wire).joined()
    #expect(decode(bytes(wire + wire), cut) == Decoded(values: (Vector.all + Vector.all).map(\.value)))
  }

  @Test(arguments: Vector.all)
  func truncatedValueIsNoValueAndNoError(vector: Vector) {
    for count in 0..<vector.wire.utf8.count {
      #expect(decode(Array(bytes(vector.wire).prefix(count)), .byteByByte) == Decoded())
    }
  }

  @Test func notANumberIsRead() throws {
    for wire in [",nan\r\n", ",-nan\r\n"] {
      guard case .double(let number) = try #require(decode(bytes(wire)).values.first) else {
        Issue.record("not a double")
        continue
      }
      #expect(number.isNaN)
    }
  }

  static let hostile: [(String, RESPError)] = [
    ("H", .unknownType(0x48)),
    ("\r\n", .unknownType(0x0D)),
    ("\n", .unknownType(0x0A)),
    (" :1\r\n", .unknownType(0x20)),
    (";4\r\n", .unknownType(0x3B)),
    (".\r\n", .unknownType(0x2E)),
    ("+OK\n", .badLineEnd),
    ("+O\rK\r\n", .badLineEnd),
    ("+O\r\r\n", .badLineEnd),
    (":1\n", .badLineEnd),
    ("$3\r\nabcd\r\n", .badBlobEnd),
    ("$3\r\nabc\n\n", .badBlobEnd),
    ("$3\r\nabc\r\r", .badBlobEnd),
    ("$\r\n", .badLength(type: 0x24)),
    ("$+1\r\n", .badLength(type: 0x24)),
    ("$01\r\n", .badLength(type: 0x24)),
    ("$00\r\n", .badLength(type: 0x24)),
    ("$-0\r\n", .badLength(type: 0x24)),
    ("$-2\r\n", .badLength(type: 0x24)),
    ("$-\r\n", .badLength(type: 0x24)),
    ("$1a\r\n", .badLength(type: 0x24)),
    ("$ 1\r\n", .badLength(type: 0x24)),
    ("$0x10\r\n", .badLength(type: 0x24)),
    ("$-99999999999999999999999\r\n", .badLength(type: 0x24)),
    ("*-2\r\n", .badLength(type: 0x2A)),
    ("%-1\r\n", .badLength(type: 0x25)),
    ("~-1\r\n", .badLength(type: 0x7E)),
    (">-1\r\n", .badLength(type: 0x3E)),
    ("|-1\r\n", .badLength(type: 0x7C)),
    ("=-1\r\n", .badLength(type: 0x3D)),
    ("!-1\r\n", .badLength(type: 0x21)),
    ("$9999999999999\r\n", .blobTooLong(bytesMax: 16 << 20)),
    ("$9223372036854775807\r\n", .blobTooLong(bytesMax: 16 << 20)),
    ("$99999999999999999999999999\r\n", .blobTooLong(bytesMax: 16 << 20)),
    ("!16777217\r\n", .blobTooLong(bytesMax: 16 << 20)),
    ("*2147483647\r\n", .tooManyElements(countMax: 1 << 20)),
    ("*9223372036854775807\r\n", .tooManyElements(countMax: 1 << 20)),
    ("%9223372036854775807\r\n", .tooManyElements(countMax: 1 << 20)),
    ("|4611686018427387904\r\n", .tooManyElements(countMax: 1 << 20)),
    (">99999999999999999999999999\r\n", .tooManyElements(countMax: 1 << 20)),
    ("%524289\r\n", .tooManyElements(countMax: 1 << 20)),
    ("*1\r\n*1048576\r\n", .tooManyElements(countMax: 1 << 20)),
    ("$?\r\n", .streamed),
    ("*?\r\n", .streamed),
    ("%?\r\n", .streamed),
    ("~?\r\n", .streamed),
    (">?\r\n", .streamed),
    ("*1\r\n>1\r\n", .nestedPush),
    ("|1\r\n>1\r\n", .nestedPush),
    ("=3\r\ntxt\r\n", .badVerbatimString),
    ("=4\r\ntxts\r\n", .badVerbatimString),
    (":\r\n", .badScalar(type: 0x3A)),
    (":-\r\n", .badScalar(type: 0x3A)),
    (":+-1\r\n", .badScalar(type: 0x3A)),
    (":++1\r\n", .badScalar(type: 0x3A)),
    (":007\r\n", .badScalar(type: 0x3A)),
    (":9223372036854775808\r\n", .badScalar(type: 0x3A)),
    (":-9223372036854775809\r\n", .badScalar(type: 0x3A)),
    (":1.0\r\n", .badScalar(type: 0x3A)),
    (",\r\n", .badScalar(type: 0x2C)),
    (",.5\r\n", .badScalar(type: 0x2C)),
    (",5.\r\n", .badScalar(type: 0x2C)),
    (",1e\r\n", .badScalar(type: 0x2C)),
    (",0x1p3\r\n", .badScalar(type: 0x2C)),
    (",infinity\r\n", .badScalar(type: 0x2C)),
    (",+-1\r\n", .badScalar(type: 0x2C)),
    ("#\r\n", .badScalar(type: 0x23)),
    ("#true\r\n", .badScalar(type: 0x23)),
    ("#x\r\n", .badScalar(type: 0x23)),
    ("_x\r\n", .badScalar(type: 0x5F)),
    ("(\r\n", .badScalar(type: 0x28)),
    ("(-\r\n", .badScalar(type: 0x28)),
    ("(12x\r\n", .badScalar(type: 0x28)),
  ]

  @Test(arguments: hostile, Cut.allCases)
  func hostileBytesAreAnError(row: (wire: String, error: RESPError), cut: Cut) {
    #expect(decode(bytes("+OK\r\n" + row.wire), cut) == Decoded(values: [.simple("OK")], error: row.error))
    #expect(!row.error.description.isEmpty)
  }

  @Test func errorIsFinal() {
    var decoder = RESPDecoder()
    bytes("?").withUnsafeBytes { decoder.append($0) }
    #expect(throws: RESPError.unknownType(0x3F)) { try decoder.next() }
    bytes("+OK\r\n").withUnsafeBytes { decoder.append($0) }
    #expect(throws: RESPError.unknownType(0x3F)) { try decoder.next() }
    #expect(decoder.bufferCapacity == 0)
  }

  @Test func depthHasALimit() {
    let limits = RESPLimits(depthMax: 3)
    #expect(decode(bytes("*1\r\n*1\r\n*0\r\n"), limits: limits).error == nil)
    #expect(decode(bytes("*1\r\n*1\r\n*1\r\n*0\r\n"), limits: limits).error == .tooDeep(depthMax: 3))
    let deep = String(repeating: "*1\r\n", count: 100_000)
    #expect(decode(bytes(deep)).error == .tooDeep(depthMax: 32))
    #expect(decode(bytes(String(repeating: "|1\r\n", count: 100_000))).error == .tooDeep(depthMax: 32))
  }

  @Test func blobHasALimit() {
    let limits = RESPLimits(blobBytesMax: 4)
    #expect(decode(bytes("$4\r\nabcd\r\n"), limits: limits).values == [.blob("abcd")])
    #expect(decode(bytes("$5\r\n"), limits: limits).error == .blobTooLong(bytesMax: 4))
  }

  @Test(arguments: Cut.allCases)
  func lineHasALimit(cut: Cut) {
    let limits = RESPLimits(lineBytesMax: 4)
    #expect(decode(bytes("+abcd\r\n"), cut, limits: limits).values == [.simple("abcd")])
    #expect(decode(bytes("+abcde\r\n"), cut, limits: limits).error == .lineTooLong(bytesMax: 4))
    #expect(decode(bytes("+abcde"), cut, limits: limits).error == .lineTooLong(bytesMax: 4))
    let digits = String(repeating: "1", count: 129)
    #expect(decode(bytes(":" + digits), cut).error == .lineTooLong(bytesMax: 128))
    #expect(decode(bytes("$" + digits), cut).error == .lineTooLong(bytesMax: 128))
  }

  @Test func elementsOfAllDepthsHaveOneLimit() {
    let limits = RESPLimits(elementCountMax: 4)
    let wire = "*2\r\n*2\r\n:1\r\n:2\r\n:3\r\n"
    #expect(decode(bytes(wire + wire), limits: limits).values.count == 2)
    #expect(decode(bytes("*2\r\n*3\r\n"), limits: limits).error == .tooManyElements(countMax: 4))
    #expect(decode(bytes("%2\r\n:1\r\n:1\r\n:1\r\n:1\r\n"), limits: limits).error == nil)
    #expect(decode(bytes("%3\r\n"), limits: limits).error == .tooManyElements(countMax: 4))
  }

  @Test func replyHasALimit() {
    let limits = RESPLimits(replyBytesMax: 20)
    #expect(decode(bytes("*2\r\n+abcd\r\n+abcdef\r\n"), limits: limits).values.count == 1)
    #expect(decode(bytes("*2\r\n+abcd\r\n+abcdefg\r\n"), limits: limits).error == .replyTooLong(bytesMax: 20))
    #expect(decode(bytes("*2\r\n+abcd\r\n$20\r\n"), limits: limits).error == .replyTooLong(bytesMax: 20))
    // Attributes are dropped, but a reply of nothing else does not go on for ever.
    let attributes = String(repeating: "|0\r\n", count: 6)
    #expect(decode(bytes(attributes), limits: limits).error == .replyTooLong(bytesMax: 20))
  }

  @Test func limitsCountEachReplyAnew() {
    let limits = RESPLimits(elementCountMax: 2, replyBytesMax: 20)
    let wire = String(repeating: "*2\r\n:1\r\n$2\r\nab\r\n", count: 10)
    #expect(decode(bytes(wire), limits: limits).values.count == 10)
    #expect(decode(bytes(wire), limits: limits).error == nil)
  }

  @Test func roomOfWhatIsReadIsUsedAgain() throws {
    var decoder = RESPDecoder()
    // Every piece ends within a value, so that the buffer is never empty.
    bytes("+").withUnsafeBytes { decoder.append($0) }
    let piece = bytes(String(repeating: "OK\r\n+", count: 1000))
    for _ in 0..<200 {
      piece.withUnsafeBytes { decoder.append($0) }
      var count = 0
      while try decoder.next() != nil { count += 1 }
      #expect(count == 1000)
    }
    #expect(decoder.bufferCapacity < 1 << 16)
  }

  @Test func announcedLengthTakesNoMemory() {
    var decoder = RESPDecoder()
    bytes("*1048576\r\n$16777216\r\nabc").withUnsafeBytes { decoder.append($0) }
    #expect(throws: Never.self) { try decoder.next() }
    #expect(decoder.bufferCapacity < 1024)
  }

  @Test func roomOfALargeBlobIsGivenBack() throws {
    var decoder = RESPDecoder()
    let count = 8 << 20
    bytes("$\(count)\r\n").withUnsafeBytes { decoder.append($0) }
    let piece = [UInt8](repeating: 0x78, count: 1 << 16)
    for _ in 0..<(count >> 16) {
      #expect(try decoder.next() == nil)
      piece.withUnsafeBytes { decoder.append($0) }
    }
    bytes("\r\n").withUnsafeBytes { decoder.append($0) }
    #expect(try decoder.next()?.bytes?.count == count)
    bytes("+OK\r\n").withUnsafeBytes { decoder.append($0) }
    #expect(try decoder.next() == .simple("OK"))
    #expect(decoder.bufferCapacity < 1 << 16)
  }

  // Reading again from the start with every piece would take hours for these two.

  @Test func longBlobOfSingleBytesIsReadOnce() throws {
    let count = 1 << 20
    let wire = bytes("$\(count)\r\n") + [UInt8](repeating: 0x0D, count: count) + bytes("\r\n")
    #expect(decode(wire, .byteByByte).values == [.blobString([UInt8](repeating: 0x0D, count: count))])
  }

  @Test func longLineOfSingleBytesIsReadOnce() throws {
    let count = 1 << 20
    let wire = bytes("+") + [UInt8](repeating: 0x78, count: count) + bytes("\r\n")
    let limits = RESPLimits(lineBytesMax: count)
    #expect(decode(wire, .byteByByte, limits: limits).values == [.simpleString(Array(wire[1...count]))])
  }

  @Test(arguments: [Cut.byteByByte, .random])
  func longArrayInPiecesIsReadOnce(cut: Cut) {
    let count = 100_000
    var wire = bytes("*\(count)\r\n")
    for index in 0..<count { wire += bytes(":\(index)\r\n") }
    #expect(decode(wire, cut).values == [.array((0..<count).map { .integer(Int64($0)) })])
  }
}

@Suite struct RESPValueTests {
  @Test func stringsAndNumbersAreTold() {
    #expect(RESPValue.blob("12").string == "12")
    #expect(RESPValue.blob("12").integer == 12)
    #expect(RESPValue.integer(12).integer == 12)
    #expect(RESPValue.blob("1x").integer == nil)
    #expect(RESPValue.error("12").integer == nil)
    #expect(RESPValue.error("ERR x").string == nil)
    #expect(RESPValue.error("ERR x").error == bytes("ERR x"))
    #expect(RESPValue.blobString([0xFF]).string == nil)
    #expect(RESPValue.blobString([0xFF]).bytes == [0xFF])
    #expect(RESPValue.simple("OK").isOK)
    #expect(!RESPValue.blob("OK").isOK)
    #expect(RESPValue.set([.null]).elements == [.null])
    #expect(RESPValue.push([.null]).elements == nil)
  }

  @Test func valuesAreFoundByKeyInBothFormsOfAMap() {
    let map = RESPValue.map([RESPPair(.blob("a"), .integer(1)), RESPPair(.blob("b"), .integer(2))])
    let array = RESPValue.array([.blob("a"), .integer(1), .blob("b"), .integer(2), .blob("c")])
    #expect(map.value(forKey: "b") == .integer(2))
    #expect(array.value(forKey: "b") == .integer(2))
    #expect(array.value(forKey: "c") == nil)
    #expect(RESPValue.null.value(forKey: "a") == nil)
  }
}

@Suite struct RESPEncoderTests {
  @Test func commandIsAnArrayOfBlobs() {
    #expect(text(command("SET", "", "a\r\nb")) == "*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\na\r\nb\r\n")
  }

  @Test(arguments: [0, 9, 10, 11, 99, 100, 1000, 65_535, 100_000])
  func lengthsAreDecimal(count: Int) {
    var output = bytes("x")
    RESPEncoder.append(blobString: [UInt8](repeating: 0x61, count: count), to: &output)
    #expect(output == bytes("x$\(count)\r\n" + String(repeating: "a", count: count) + "\r\n"))
  }

  @Test func decoderReadsWhatTheEncoderWrites() {
    let parts = (0..<300).map { index in [UInt8](repeating: UInt8(index & 0xFF), count: index) }
    var output: [UInt8] = []
    RESPEncoder.append(command: parts, to: &output)
    #expect(decode(output, .random).values == [.array(parts.map { .blobString($0) })])
  }
}
