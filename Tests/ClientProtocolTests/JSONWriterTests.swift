import ClientProtocol
import Foundation
import TestSupport
import Testing

struct JSONWriterTests {
  private func text(_ body: (inout JSONWriter) -> Void) -> String {
    var writer = JSONWriter()
    body(&writer)
    return String(decoding: writer.bytes, as: UTF8.self)
  }

  @Test func setsCommas() {
    let written = text { json in
      json.object { json in
        json.member("a", 1)
        json.member("b", "c")
        json.array("d") { json in
          json.value(Int64(1))
          json.value("x")
          json.value(true)
          json.null()
          json.array { _ in }
          json.object { _ in }
          json.object { $0.member("e", false) }
          json.raw(Array("[0]".utf8))
        }
        json.object("f") { _ in }
        json.member("g", orNull: nil)
        json.member("h", orNull: 2)
        json.member("i", literal: "j")
        json.member("k", utf8: [0x6C])
        json.key("m\n")
        json.value(literal: "n")
      }
    }
    #expect(
      written
        == #"{"a":1,"b":"c","d":[1,"x",true,null,[],{},{"e":false},[0]],"f":{},"g":null,"h":2,"i":"j","k":"l","m\n":"n"}"#
    )
  }

  @Test func escapesWhatMustBeEscapedAndNothingElse() {
    let controls =
      #"\u0000\u0001\u0002\u0003\u0004\u0005\u0006\u0007\b\t\n\u000b\f\r\u000e\u000f"#
      + #"\u0010\u0011\u0012\u0013\u0014\u0015\u0016\u0017\u0018\u0019\u001a\u001b\u001c\u001d\u001e\u001f"#
    let bytes = (0..<0x20).map { UInt8($0) } + Array("\"\\/ \u{7F}é\u{2028}😀".utf8)
    let written = text { json in json.value(utf8: bytes) }
    #expect(written == "\"\(controls)\\\"\\\\/ \u{7F}é\u{2028}😀\"")
  }

  @Test(arguments: 0..<20 as Range<UInt64>) func anyBytesBecomeWhatTheStandardLibraryMakesOfThem(seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    let interesting: [UInt8] = [
      0x00, 0x1F, 0x22, 0x41, 0x5C, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xDF, 0xE0, 0xE1, 0xED, 0xEF,
      0xF0,
      0xF1, 0xF4, 0xF5, 0xFF,
    ]
    for _ in 0..<200 {
      let bytes = (0..<Int.random(in: 0...12, using: &random)).map { _ in interesting.randomElement(using: &random)! }
      var writer = JSONWriter()
      writer.value(utf8: bytes)
      #expect(mistake(in: writer.bytes) == nil)
      let value = try JSONSerialization.jsonObject(with: Data(writer.bytes), options: .fragmentsAllowed) as? String
      let expected = String(decoding: bytes, as: UTF8.self)
      #expect(value.map { Array($0.utf8) } == Array(expected.utf8), "seed \(seed), bytes \(bytes)")
    }
  }

  @Test(arguments: [
    0, 1, 9, 10, 11, 99, 100, 12_345, -1, -9, -10, 9_007_199_254_740_991, Int64.max, Int64.min, Int64.max - 1,
    1_000_000_000_000,
  ])
  func writesIntegers(number: Int64) {
    let one = text { json in json.value(number) }
    #expect(one == String(number))
    let two = text { json in
      json.array { json in
        json.value(number)
        json.value(number)
      }
    }
    #expect(two == "[\(number),\(number)]")
  }

  @Test func goesBackToAMark() {
    let written = text { json in
      json.array { json in
        json.value(Int64(1))
        let mark = json.mark
        json.object { $0.member("a", "b") }
        json.rewind(to: mark)
        json.value(Int64(2))
      }
    }
    #expect(written == "[1,2]")
    let atTheBeginning = text { json in
      json.array { json in
        let mark = json.mark
        json.value(Int64(1))
        json.rewind(to: mark)
        json.value(Int64(2))
      }
    }
    #expect(atTheBeginning == "[2]")
  }

  @Test func isUsedAgain() {
    var writer = JSONWriter()
    writer.object { $0.member("a", 1) }
    writer.removeAll()
    #expect(writer.count == 0)
    writer.value(true)
    #expect(writer.bytes == Array("true".utf8))
  }
}
