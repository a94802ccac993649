import ClientProtocol
import TestSupport
import Testing

struct LineFramerTests {
  /// What a framer told, with the bytes of the lines.
  enum Told: Equatable {
    case line([UInt8])
    case tooLong
    case hopeless
  }

  /// Feeds the chunks, then the end of the stream, to a framer of small limits.
  private func frame(_ chunks: [[UInt8]], lineBytesMax: Int = 8, unendedBytesMax: Int = 32) -> [Told] {
    var framer = LineFramer(lineBytesMax: lineBytesMax, unendedBytesMax: unendedBytesMax)
    var told: [Told] = []
    func take(_ frame: LineFramer.Frame<[UInt8]>) -> Bool {
      switch frame {
      case .line(let line): told.append(.line(line))
      case .tooLong: told.append(.tooLong)
      case .hopeless:
        told.append(.hopeless)
        return false
      case .needsInput: return false
      }
      return true
    }
    for chunk in chunks {
      chunk.withUnsafeBytes { bytes in
        var input = bytes
        while take(framer.next(from: &input, { Array($0) })) {}
        #expect(input.isEmpty)
        #expect(framer.bufferedBytes <= lineBytesMax + 1)
      }
      if told.last == .hopeless { return told }
    }
    _ = take(framer.finish { Array($0) })
    return told
  }

  struct Vector: Sendable, CustomTestStringConvertible {
    var testDescription: String
    var input: String
    var told: [Told]

    init(_ description: String, _ input: String, _ told: [Told]) {
      testDescription = description
      self.input = input
      self.told = told
    }
  }

  private static func line(_ text: String) -> Told { .line(Array(text.utf8)) }
  private static let a32 = String(repeating: "a", count: 32)

  static let vectors: [Vector] = [
    Vector("nothing", "", []),
    Vector("one line", "abc\n", [line("abc")]),
    Vector("several lines", "a\nbc\ndef\n", [line("a"), line("bc"), line("def")]),
    Vector("carriage returns before the line end", "abc\r\nd\r\n", [line("abc"), line("d")]),
    Vector("only one carriage return goes", "abc\r\r\n", [line("abc\r")]),
    Vector("a carriage return inside a line stays", "a\rb\n", [line("a\rb")]),
    Vector("blank lines", "\n\r\n\n\na\n\n\r\nb\n\n", [line("a"), line("b")]),
    Vector("spaces are a line", " \n", [line(" ")]),
    Vector("an unterminated last line", "a\nbc", [line("a"), line("bc")]),
    Vector("an unterminated last line with a carriage return", "a\nbc\r", [line("a"), line("bc")]),
    Vector("nothing but a carriage return at the end", "a\n\r", [line("a")]),
    Vector("NUL and bytes that are not ASCII", "\u{0}é\u{8A}\n", [line("\u{0}é\u{8A}")]),
    Vector("at the limit", "12345678\n", [line("12345678")]),
    Vector("at the limit with a carriage return", "12345678\r\n", [line("12345678")]),
    Vector("at the limit, unterminated", "12345678", [line("12345678")]),
    Vector("at the limit, unterminated, with a carriage return", "12345678\r", [line("12345678")]),
    Vector("one past the limit", "123456789\nab\n", [.tooLong, line("ab")]),
    Vector("one past the limit with a carriage return", "123456789\r\nab\n", [.tooLong, line("ab")]),
    Vector("two carriage returns past the limit", "12345678\r\r\nab\n", [.tooLong, line("ab")]),
    Vector("one past the limit, unterminated", "123456789", [.tooLong]),
    Vector("far past the limit", "\(String(repeating: "x", count: 31))\nab\n", [.tooLong, line("ab")]),
    Vector("several too long", "123456789\n123456789\n1\n1234567890\n", [.tooLong, .tooLong, line("1"), .tooLong]),
    Vector("as many bytes without a line end as may be", "\(a32)\nab\n", [.tooLong, line("ab")]),
    Vector("as many as may be, unterminated", a32, [.tooLong]),
    Vector("one more", "\(a32)a\nab\n", [.hopeless]),
    Vector("one more, a carriage return", "\(a32)\r\nab\n", [.hopeless]),
    Vector("many more", "ab\n\(a32)\(a32)\(a32)\(a32)", [line("ab"), .hopeless]),
  ]

  @Test(arguments: vectors) func framesWhole(_ vector: Vector) {
    #expect(frame([Array(vector.input.utf8)]) == vector.told)
  }

  @Test(arguments: vectors) func framesByteByByte(_ vector: Vector) {
    #expect(frame(vector.input.utf8.map { [$0] }) == vector.told)
  }

  @Test(arguments: vectors) func framesCutInTwoAnywhere(_ vector: Vector) {
    let bytes = Array(vector.input.utf8)
    for cut in bytes.indices {
      #expect(frame([Array(bytes[..<cut]), Array(bytes[cut...])]) == vector.told)
    }
  }

  @Test func framesVectorsGlued() {
    let good = Self.vectors.filter { vector in vector.told.last != .hopeless }
    let bytes: [UInt8] = good.flatMap { vector in Array(vector.input.utf8) + [0x0A] }
    let told: [Told] = good.flatMap(\.told)
    #expect(frame([bytes]) == told)
    #expect(frame(bytes.map { [$0] }) == told)
  }

  @Test(arguments: 0..<40 as Range<UInt64>) func framesAnyChunksLikeASimpleReference(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    let letters: [UInt8] = [0x61, 0x62, 0x0D, 0x0A, 0x8A, 0x0A ^ 0x80]
    for _ in 0..<50 {
      let input = (0..<Int.random(in: 0...120, using: &random)).map { _ -> UInt8 in
        // Long runs now and then, so that lines pass both limits.
        Int.random(in: 0..<4, using: &random) > 0 ? 0x61 : letters.randomElement(using: &random)!
      }
      var chunks: [[UInt8]] = []
      var rest = input[...]
      while !rest.isEmpty {
        let count = Int.random(in: 0...min(rest.count, 20), using: &random)
        chunks.append(Array(rest.prefix(count)))
        rest = rest.dropFirst(count)
      }
      #expect(frame(chunks) == reference(input), "seed \(seed), input \(input)")
    }
  }

  private func reference(_ input: [UInt8]) -> [Told] {
    var told: [Told] = []
    for raw in input.split(separator: 0x0A, omittingEmptySubsequences: false) {
      if raw.count > 32 { return told + [.hopeless] }
      let line = raw.last == 0x0D ? raw.dropLast() : raw
      if line.isEmpty { continue }
      told.append(line.count > 8 ? .tooLong : .line(Array(line)))
    }
    return told
  }

  @Test(arguments: [0, 1, 4_096, 65_535, 65_536, 65_537, 65_538, 1_048_575, 1_048_576, 1_048_577])
  func keepsToTheLimitsOfTheProtocol(count: Int) {
    let line = [UInt8](repeating: 0x61, count: count)
    let expected: [Told] =
      switch count {
      case 0: [Self.line("b")]
      case ...65_536: [.line(line), Self.line("b")]
      case ...1_048_576: [.tooLong, Self.line("b")]
      default: [.hopeless]
      }
    let input = line + Array("\nb\n".utf8)
    for size in [input.count, 65_536, 4_093] {
      let chunks = stride(from: 0, to: input.count, by: size).map { Array(input[$0..<min($0 + size, input.count)]) }
      let told = frame(chunks, lineBytesMax: Limits.lineBytesMax, unendedBytesMax: Limits.unendedBytesMax)
      #expect(told == expected)
    }
  }

  @Test func takesOneLineAtATime() {
    var framer = LineFramer()
    Array("a\nbb\nccc".utf8).withUnsafeBytes { bytes in
      var input = bytes
      guard case .line(1) = framer.next(from: &input, { $0.count }) else {
        Issue.record("no line")
        return
      }
      #expect(input.count == 6, "what was not taken stays with the caller")
      #expect(!framer.isInsideLine)
      guard case .line(2) = framer.next(from: &input, { $0.count }) else {
        Issue.record("no line")
        return
      }
      #expect(input.count == 3)
      guard case .needsInput = framer.next(from: &input, { $0.count }) else {
        Issue.record("no end")
        return
      }
      #expect(input.isEmpty)
      #expect(framer.isInsideLine)
      #expect(framer.bufferedBytes == 3)
    }
  }

  @Test func handsOutAWholeLineWithoutACopy() {
    var framer = LineFramer()
    Array("abc\r\ndef\n".utf8).withUnsafeBytes { bytes in
      var input = bytes
      _ = framer.next(from: &input) { #expect($0.baseAddress == bytes.baseAddress) }
      _ = framer.next(from: &input) { #expect($0.baseAddress == bytes.baseAddress.map { $0 + 5 }) }
    }
  }

  @Test func staysHopeless() {
    var framer = LineFramer(lineBytesMax: 1, unendedBytesMax: 2)
    for chunk in ["aaa", "\n", "b\n"] {
      Array(chunk.utf8).withUnsafeBytes { bytes in
        var input = bytes
        guard case .hopeless = framer.next(from: &input, { _ in }) else {
          Issue.record("not hopeless after \(chunk)")
          return
        }
        #expect(input.isEmpty)
      }
    }
    guard case .hopeless = framer.finish({ _ in }) else {
      Issue.record("not hopeless at the end")
      return
    }
  }

  @Test func readsAHundredMegabytesInBoundedMemory() {
    var framer = LineFramer(lineBytesMax: 100, unendedBytesMax: Int.max - 1)
    let chunk = [UInt8](repeating: 0x61, count: 65_536)
    for _ in 0..<1_600 {
      chunk.withUnsafeBytes { bytes in
        var input = bytes
        _ = framer.next(from: &input) { _ in Issue.record("a line") }
      }
      #expect(framer.bufferedBytes <= 101)
    }
  }
}
