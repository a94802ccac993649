import ClientProtocol
import Foundation
import Testing

/// A corpus of small texts, each of which RFC 8259 or the stricter rules of this protocol decide.
struct JSONConformanceTests {
  static let accepted: [String] = [
    // Values by themselves.
    "null", "true", "false", "0", "-0", "1", "\"\"", "[]", "{}", " {} ", "\t[\r\n]\n", " \n 1 \r\t",
    // Numbers.
    "10", "-1", "123456789012345678901234567890", "0.0", "-0.0", "0.5", "1.25", "1e1", "1E1", "1e+1", "1e-1", "1E+01",
    "0e0", "0E-0", "-1.5e-5", "1e999999999999999999999999", "1e-999999999999999999999999", "0.00000000000000000001",
    "9007199254740993", "-9007199254740993", "1000000000000000000000e-21",
    // Arrays.
    "[1]", "[1,2]", "[ 1 , 2 ]", "[[],[]]", "[{}]", "[null,true,false,\"\",0]",
    // Objects.
    #"{"a":1}"#, #"{"a":1,"b":2}"#, #"{ "a" : 1 , "b" : [ ] }"#, #"{"":0}"#, #"{"a":{"a":{"a":1}}}"#, #"{"a":1,"A":2}"#,
    #"{"a":null,"a\u0000":null}"#, "{\"\u{65}\u{301}\":1,\"\u{E9}\":2}",
    // Strings.
    #""abc""#, #""\"\\\/\b\f\n\r\t""#, #""\u0000""#, #""\u00e9\u00E9""#, #""\uFFFF""#, #""\ud83d\ude00""#,
    #""\uDBFF\uDFFF""#, #""\uD800\uDC00""#, #""\ud83dx""#.replacing("\\ud83d", with: "\\ud7ff"), #""\ue000""#,
    "\"\u{7F}\"", "\"\u{80}\"", "\"\u{7FF}\"", "\"\u{800}\"", "\"\u{FFFD}\"", "\"\u{FFFF}\"", "\"\u{10000}\"",
    "\"\u{10FFFF}\"", "\"\u{2028}\u{2029}\"", "\"\u{FEFF}\"", #""\\u0041""#, #""/""#, #""'""#, #""[{,:}]""#,
  ]

  static let refused: [(String, JSONSyntaxError.Kind)] = [
    // Nothing, or half of something.
    ("", .unexpectedEnd), (" ", .unexpectedEnd), ("{", .unexpectedEnd), ("[", .unexpectedEnd), ("\"", .unexpectedEnd),
    ("\"abc", .unexpectedEnd), ("\"\\", .unexpectedEnd), ("\"\\u", .unexpectedEnd), ("\"\\u00", .unexpectedEnd),
    ("tru", .unexpectedEnd), ("n", .unexpectedEnd), ("-", .unexpectedEnd), ("1.", .unexpectedEnd),
    ("1e", .unexpectedEnd),
    ("1e+", .unexpectedEnd), ("[1", .unexpectedEnd), ("[1,", .unexpectedEnd), ("{\"a\"", .unexpectedEnd),
    ("{\"a\":", .unexpectedEnd), ("{\"a\":1", .unexpectedEnd), ("{\"a\":1,", .unexpectedEnd), ("[\"a", .unexpectedEnd),
    // What cannot stand there.
    ("]", .unexpectedByte), ("}", .unexpectedByte), (",", .unexpectedByte), (":", .unexpectedByte),
    ("a", .unexpectedByte),
    ("True", .unexpectedByte), ("trUe", .unexpectedByte), ("NULL", .unexpectedByte), ("nul ", .unexpectedByte),
    ("NaN", .unexpectedByte), ("Infinity", .unexpectedByte), ("undefined", .unexpectedByte), ("'a'", .unexpectedByte),
    ("[1,]", .unexpectedByte), ("[,1]", .unexpectedByte), ("[,]", .unexpectedByte), ("[1 2]", .unexpectedByte),
    ("[1:2]", .unexpectedByte), ("[1}", .unexpectedByte), ("[\"a\":1]", .unexpectedByte), ("{1:1}", .unexpectedByte),
    ("{a:1}", .unexpectedByte), ("{'a':1}", .unexpectedByte), ("{\"a\" 1}", .unexpectedByte),
    ("{\"a\",1}", .unexpectedByte),
    ("{\"a\"}", .unexpectedByte), ("{\"a\":}", .unexpectedByte), ("{\"a\":1,}", .unexpectedByte),
    ("{,}", .unexpectedByte),
    ("{\"a\":1]", .unexpectedByte), ("{\"a\":1 \"b\":2}", .unexpectedByte), ("{\"a\"::1}", .unexpectedByte),
    ("{null:1}", .unexpectedByte), ("{[]:1}", .unexpectedByte), ("+1", .unexpectedByte), (".5", .unexpectedByte),
    ("/* */1", .unexpectedByte), ("// a\n1", .unexpectedByte), ("#1", .unexpectedByte), ("\u{0}", .unexpectedByte),
    ("\u{A0}1", .unexpectedByte), ("\u{B}1", .unexpectedByte), ("\u{C}1", .unexpectedByte),
    ("[1\u{2028}]", .unexpectedByte),
    ("-a", .badNumber), ("--1", .badNumber), ("-.5", .badNumber), ("1.a", .badNumber), ("1.e5", .badNumber),
    ("1ea", .badNumber), ("1e+a", .badNumber), ("1e.5", .badNumber), ("1e--1", .badNumber), ("00", .badNumber),
    ("01", .badNumber), ("-01", .badNumber), ("-00", .badNumber), ("-Infinity", .badNumber), ("1.-5", .badNumber),
    // What follows.
    ("1 2", .trailingBytes), ("{}{}", .trailingBytes), ("[]]", .trailingBytes), ("{}}", .trailingBytes),
    ("nullx", .trailingBytes), ("truefalse", .trailingBytes), ("\"\"\"\"", .trailingBytes), ("1,", .trailingBytes),
    ("0x10", .trailingBytes), ("1_000", .trailingBytes), ("1.5.5", .trailingBytes), ("1e5e5", .trailingBytes),
    ("1e5.5", .trailingBytes), ("1f", .trailingBytes), ("{} // a", .trailingBytes), ("{}\u{0}", .trailingBytes),
    // Strings.
    ("\"\t\"", .controlCharacter), ("\"\n\"", .controlCharacter), ("\"\u{0}\"", .controlCharacter),
    ("\"\u{1F}\"", .controlCharacter), ("{\"\u{1}\":1}", .controlCharacter), ("\"\\a\"", .badEscape),
    ("\"\\'\"", .badEscape), ("\"\\x41\"", .badEscape), ("\"\\U0041\"", .badEscape), ("\"\\0\"", .badEscape),
    ("\"\\\n\"", .badEscape), ("\"\\é\"", .badEscape), ("\"\\u004\"", .badEscape), ("\"\\u00g0\"", .badEscape),
    ("\"\\u+041\"", .badEscape), ("\"\\u 041\"", .badEscape), ("\"\\u{41}\"", .badEscape),
    ("\"\\ud83d\\u12\"", .badEscape),
    ("\"\\ud800\"", .loneSurrogate), ("\"\\udbff\"", .loneSurrogate), ("\"\\udc00\"", .loneSurrogate),
    ("\"\\udfff\"", .loneSurrogate), ("\"\\ud800\\ud800\"", .loneSurrogate), ("\"\\ud800\\u0041\"", .loneSurrogate),
    ("\"\\ud800a\"", .loneSurrogate), ("\"\\ud800\\n\"", .loneSurrogate), ("\"\\ude00\\ud83d\"", .loneSurrogate),
    ("{\"\\ud800\":1}", .loneSurrogate), ("\u{FEFF}{}", .byteOrderMark), ("\u{FEFF}", .byteOrderMark),
    // Members twice, in whatever spelling and however deep.
    (#"{"a":1,"a":1}"#, .duplicateMember), (#"{"a":1,"\u0061":2}"#, .duplicateMember),
    (#"{"":1,"":2}"#, .duplicateMember),
    (#"{"/":1,"\/":2}"#, .duplicateMember), (#"{"\ud83d\ude00":1,"😀":2}"#, .duplicateMember),
    (#"{"x":[{"y":{"a":1,"b":2,"a":3}}]}"#, .duplicateMember), (#"{"params":{},"params":{}}"#, .duplicateMember),
    (#"[{"params":{"a":1,"a":1}}]"#, .duplicateMember),
  ]

  /// Bytes inside a string that are not UTF-8.
  static let invalidUTF8: [[UInt8]] = [
    [0x80], [0xBF], [0xC0, 0x80], [0xC0, 0xAF], [0xC1, 0xBF], [0xC2], [0xC2, 0x41], [0xC2, 0xC2], [0xDF],
    [0xE0, 0x80, 0x80],
    [0xE0, 0x9F, 0xBF], [0xE1, 0x80], [0xE1, 0x80, 0x41], [0xED, 0xA0, 0x80], [0xED, 0xBF, 0xBF],
    [0xED, 0xA0, 0xBD, 0xED, 0xB8, 0x80],
    [0xEF, 0xBF], [0xF0, 0x80, 0x80, 0x80], [0xF0, 0x8F, 0xBF, 0xBF], [0xF0, 0x9F, 0x98], [0xF0, 0x9F, 0x98, 0x41],
    [0xF4, 0x90, 0x80, 0x80], [0xF5, 0x80, 0x80, 0x80], [0xF8, 0x88, 0x80, 0x80, 0x80], [0xFC], [0xFE], [0xFF],
    [0xFF, 0xFE],
  ]

  @Test(arguments: accepted) func accepts(_ text: String) {
    #expect(mistake(in: text) == nil)
  }

  @Test(arguments: refused) func refuses(_ text: String, _ kind: JSONSyntaxError.Kind) {
    #expect(mistake(in: text)?.kind == kind)
  }

  @Test(arguments: invalidUTF8) func refusesWhatIsNotUTF8(_ bytes: [UInt8]) {
    #expect(mistake(in: [0x22] + bytes + [0x22])?.kind == .invalidUTF8)
    #expect(mistake(in: Array("{\"a".utf8) + bytes + Array("\":1}".utf8))?.kind == .invalidUTF8)
    #expect(mistake(in: [0x22] + bytes)?.kind == .invalidUTF8)
    #expect(mistake(in: bytes)?.kind == .unexpectedByte)
  }

  @Test func agreesWithFoundationOnEveryTwoBytesOfUTF8() {
    for first in UInt8(0x80)...0xFF {
      for second in UInt8(0x80)...0xFF {
        let valid = String(validating: [first, second], as: UTF8.self) != nil
        #expect((mistake(in: [0x22, first, second, 0x22]) == nil) == valid)
      }
    }
  }

  @Test func everyPrefixOfAValueIsRefused() {
    let text = Array(#"{"a":[1.5e-3,true,null,"\ud83d\ude00é"],"b":{"c":false}}"#.utf8)
    #expect(mistake(in: text) == nil)
    for count in text.indices {
      #expect(mistake(in: Array(text[..<count])) != nil)
    }
  }

  @Test func tellsWhereTheMistakeIs() {
    #expect(mistake(in: "{\"a\":x}")?.offset == 5)
    #expect(mistake(in: "{} {}")?.offset == 3)
    #expect(mistake(in: "{\"a\":1,\"b\":2,\"a\":3}")?.offset == 14)
    #expect(mistake(in: "[1")?.offset == 2)
  }

  @Test(arguments: [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")])
  func nestsSixteenDeepAndNoDeeper(open: String, close: String) {
    let levels = open.count(where: { $0 == "[" || $0 == "{" })
    func nested(_ depth: Int) -> String {
      String(repeating: open, count: depth / levels) + "0" + String(repeating: close, count: depth / levels)
    }
    #expect(mistake(in: nested(Limits.nestingMax)) == nil)
    let deeper = mistake(in: nested(Limits.nestingMax + levels))
    #expect(deeper?.kind == .nestingTooDeep)
    let explanation = deeper?.explanation.description ?? ""
    #expect(explanation.contains(String(Limits.nestingMax)))
    #expect(mistake(in: String(repeating: open, count: 20_000))?.kind == .nestingTooDeep)
  }

  @Test(arguments: [2, 8, 9, 10, 5_000]) func findsAMemberThatComesTwiceAmongMany(count: Int) {
    let members = (0..<count).map { "\"m\($0)\":0" }
    #expect(mistake(in: "{\(members.joined(separator: ","))}") == nil)
    for index in [0, count / 2, count - 1] {
      let text = "{\((members + ["\"m\(index)\":1"]).joined(separator: ","))}"
      #expect(mistake(in: text)?.kind == .duplicateMember)
    }
  }
}
