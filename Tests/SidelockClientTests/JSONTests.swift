import Foundation
import SidelockClient
import Testing

struct JSONTests {
  @Test(arguments: [
    "null", "true", "false", "0", "-17", "9007199254740991", "-9223372036854775808", "1.5", "[]", "{}", #""""#,
    #"[1,[2,{"a":null}],"x"]"#, #"{"b":1,"a":{"c":[true]}}"#, #""é\n\t\"\\\u0001\u007f😀""#,
    #""\u0080\u009bª\u009f""#,
  ])
  func textsComeBackAsTheyWere(text: String) throws {
    #expect(try JSONValue(parsing: text).serialized == text)
  }

  @Test func stringsAreThemselvesByteForByte() {
    let composed = "\u{E9}"
    let decomposed = "e\u{301}"
    #expect(JSONValue.string(composed) != .string(decomposed))
    #expect(Set<JSONValue>([.string(composed), .string(decomposed)]).count == 2)
    let object: JSONValue = [composed: 1, decomposed: 2]
    #expect(object[decomposed] == 2)
    #expect(WatchTarget.name(composed) != .name(decomposed))
    #expect(Set<WatchTarget>([.prefix(composed), .prefix(decomposed)]).count == 2)
    let notices = [composed, decomposed].map { LostNotice(name: $0, token: 1, reason: "broken") }
    #expect(notices[0] != notices[1])
  }

  @Test func escapesAreUnderstood() throws {
    #expect(try JSONValue(parsing: #""\u00e4\/\b\f\r\ud83d\ude00""#) == "ä/\u{8}\u{C}\r😀")
    #expect(try JSONValue(parsing: " { \"a\" : [ 1 , 2 ] } \r\n") == ["a": [1, 2]])
    #expect(try JSONValue(parsing: "1e3") == .double(1000))
    #expect(try JSONValue(parsing: "18446744073709551616") == .double(18_446_744_073_709_551_616))
  }

  @Test(arguments: [
    "", " ", "nul", "truee", "01", "-", "+1", "1.", ".5", "1e", "1e999", "[", "[1", "[1,]", "[,]", "{", "{\"a\"}",
    "{\"a\":}",
    "{\"a\":1,}", "{a:1}", "\"", "\"\\x\"", "\"\\u12\"", "\"\\ud800\"", "\"\\ud800\\u0041\"", "\"\\udc00\"", "\"\n\"",
    "1 2",
    "'a'", "NaN", "\u{FEFF}1",
  ])
  func whatIsNotJSONIsRefused(text: String) {
    #expect(throws: JSONSyntaxError.self) { try JSONValue(parsing: text) }
  }

  @Test func bytesThatAreNotUTF8AreRefused() {
    #expect(throws: JSONSyntaxError.self) { try JSONValue(parsing: [0x22, 0xFF, 0x22] as [UInt8]) }
    #expect(throws: JSONSyntaxError.self) { try JSONValue(parsing: [0x22, 0xC0, 0x80, 0x22] as [UInt8]) }
  }

  @Test func nestingIsBounded() {
    func nested(_ depth: Int) -> String {
      String(repeating: "[", count: depth) + String(repeating: "]", count: depth)
    }
    #expect(throws: Never.self) { try JSONValue(parsing: nested(64)) }
    #expect(throws: JSONSyntaxError.self) { try JSONValue(parsing: nested(65)) }
    #expect(throws: JSONSyntaxError.self) { try JSONValue(parsing: nested(1_000_000)) }
  }

  @Test(arguments: [1, 2, 3] as [UInt64])
  func agreesWithFoundationOnMutilatedTexts(seed: UInt64) throws {
    var state = seed
    func random(_ bound: Int) -> Int {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Int(state >> 33) % bound
    }
    let sample = Array(#"{"id":12,"a":[1.5e2,true,null,"x\u00e9\\"],"b":{"c":-0.25,"d":""}}"#.utf8)
    for _ in 0..<2000 {
      var text = sample
      for _ in 0...random(3) { text[random(text.count)] = UInt8(random(128)) }
      let ours = (try? JSONValue(parsing: text)) != nil
      let theirs = (try? JSONSerialization.jsonObject(with: Data(text), options: .fragmentsAllowed)) != nil
      // Foundation is lenient in places; what it refuses must not pass here.
      if !theirs { #expect(!ours, "\(String(decoding: text, as: UTF8.self))") }
    }
  }
}
