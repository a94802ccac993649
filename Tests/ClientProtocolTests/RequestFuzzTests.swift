import ClientProtocol
import Foundation
import LockTypes
import TestSupport
import Testing

/// Random requests, whole and damaged: the decoder and Foundation agree on what is JSON, and on what a request says.
struct RequestFuzzTests {
  static let corpus: [String] = [
    #"{"jsonrpc":"2.0","id":1,"method":"acquire","params":{"name":"orders","wait_ms":1000,"max_hold_ms":5,"meta":"m","progress":true}}"#,
    #"{"id":"a\u00e9\ud83d\ude00\n","method":"release","params":{"token":9007199254740991,"name":"é😀\u0000"}}"#,
    #"{"params":{"name":"x","max_hold_ms":null},"method":"extend","id":-1.0e1}"#,
    #"{"method":"cancel","params":{"id":"w"}}"#,
    #"{"id":2,"method":"list","params":{"prefix":"a/","scope":"all","limit":10,"cursor":"c"}}"#,
    #"{"id":3,"method":"initialize","params":{"client":{"name":"n","version":"1"},"protocol":1,"lifetime":"socket","half_close":"hold"}}"#,
    #"{"id":5,"method":"acquire","params":{"names":["b","a\n","é"],"mode":"shared","owner":"t1","on_lost":"kill","wait_ms":9}}"#,
    #"{"id":6,"method":"acquire","params":{"permits":12,"name":"s"}}"#,
    #"{"id":7,"method":"kill","params":{"session":"12","reason":"x"}}"#,
    #"{"id":7,"method":"transfer","params":{"name":"x","token":5,"session":"12"}}"#,
    #"{"id":8,"method":"watch","params":{"prefix":"a/"}}"#,
    #"{"id":9,"method":"break","params":{"name":"x","token":3,"reason":"why"}}"#,
    #"{"id":9,"method":"unwatch","params":{"watch":3}}"#,
    #" { "id" : 4 , "method" : "ping" , "x-a" : [ 1 , 2.5e-3 , { "b" : [ true , false , null ] } ] , "_" : "" } "#,
    #"[[{"a":[]},-0.5E+2],"\\\/\b\f\r\t\""]"#,
  ]

  /// Pieces to damage a line with. No byte order mark is among them, because Foundation drops it even inside strings.
  static let tokens: [[UInt8]] =
    [
      "{", "}", "[", "]", ":", ",", "\"", "\\", "\\u", "\\ud83d", "\\u0000", "null", "true", "0", "-", "1", "9", ".",
      "e", "E",
      "+", " ", "\t", "\r", "\n", "\u{1}", "\u{7F}", "é", "id", "name", "\"id\":", "\"params\":{", "e400",
      "99999999999999999999", "\"x-\":", "{\"\":",
    ].map { Array($0.utf8) } + [
      [0x80], [0xBF], [0xC0], [0xE2, 0x82], [0xED, 0xA0, 0x80], [0xF0, 0x9F], [0xF4, 0x90], [0xFF],
    ]

  private static func damaged(_ line: [UInt8], by random: inout SeededRandom) -> [UInt8] {
    var line = line
    for _ in 0..<Int.random(in: 0...3, using: &random) {
      let place = Int.random(in: 0...line.count, using: &random)
      let end = min(line.count, place + Int.random(in: 0...4, using: &random))
      switch Int.random(in: 0..<6, using: &random) {
      case 0: line.removeSubrange(place..<end)
      case 1: line.insert(contentsOf: tokens.randomElement(using: &random)!, at: place)
      case 2: line.replaceSubrange(place..<end, with: tokens.randomElement(using: &random)!)
      case 3: line.insert(contentsOf: line[place..<end], at: place)
      case 4: line.removeSubrange(place...)
      default:
        if place < line.count { line[place] ^= UInt8(1) << UInt8.random(in: 0..<8, using: &random) }
      }
    }
    return line
  }

  /// What Foundation makes of a text; nil when it refuses.
  private static func foundation(_ line: [UInt8]) -> Any? {
    try? JSONSerialization.jsonObject(with: Data(line), options: .fragmentsAllowed)
  }

  @Test(arguments: 0..<60 as Range<UInt64>) func agreesWithFoundation(seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    var decoder = RequestDecoder()
    for _ in 0..<400 {
      let original = Array(Self.corpus.randomElement(using: &random)!.utf8)
      let line = Self.damaged(original, by: &random)
      // Foundation guesses UTF-16 and UTF-32 from zero bytes, which this protocol does not have.
      if line.contains(0) { continue }
      let comment = Comment(rawValue: "seed \(seed): \(String(decoding: line, as: UTF8.self))")
      let message = decoder.decode(line)
      let value = Self.foundation(line)
      switch mistake(in: line)?.kind {
      case nil:
        // Foundation has no number for what is beyond a double.
        if value == nil { #expect(Self.hasHugeNumber(line), comment) }
        if let value { Self.compare(message, with: value, comment) }
      case .duplicateMember, .nestingTooDeep, .byteOrderMark, .loneSurrogate:
        // Stricter here than there.
        Self.expectParseError(message, comment)
      case .unexpectedEnd, .unexpectedByte, .trailingBytes, .badNumber, .controlCharacter, .badEscape, .invalidUTF8:
        // Foundation lets a comma stand behind the last value.
        #expect(value == nil || Self.hasTrailingComma(line), comment)
        Self.expectParseError(message, comment)
      }
    }
  }

  private static func expectParseError(_ message: ClientMessage, _ comment: Comment) {
    guard case .refused(let refusal) = message else {
      Issue.record(comment)
      return
    }
    #expect(refusal.code == .parseError && refusal.id == nil, comment)
  }

  private static func hasHugeNumber(_ line: [UInt8]) -> Bool {
    String(decoding: line, as: UTF8.self).firstMatch(of: /[0-9][eE][+-]?[0-9]{3}|[0-9]{30}/) != nil
  }

  private static func hasTrailingComma(_ line: [UInt8]) -> Bool {
    String(decoding: line, as: UTF8.self).contains(/,\s*[\]}]/)
  }

  /// What was read is what Foundation reads.
  private static func compare(_ message: ClientMessage, with value: Any, _ comment: Comment) {
    switch message {
    case .refused(let refusal):
      #expect(refusal.code != .parseError, comment)
      if let id = refusal.id { expect(id, is: (value as? NSDictionary)?["id"], comment) }
    case .cancelNotification(let id):
      expect(id, is: ((value as? NSDictionary)?["params"] as? NSDictionary)?["id"], comment)
    case .request(let id, let request):
      guard let object = value as? NSDictionary else {
        Issue.record(comment)
        return
      }
      let params = object["params"] as? NSDictionary ?? [:]
      expect(id, is: object["id"], comment)
      #expect(object["method"] as? String == request.method.name.description, comment)
      compare(request, with: params, comment)
    }
  }

  private static func compare(_ request: ClientRequest, with params: NSDictionary, _ comment: Comment) {
    let token = (params["token"] as? NSNumber)?.int64Value
    switch request {
    case .acquire(let acquire):
      compare(acquire, with: params, comment)
    case .release(let name, let given), .downgrade(let name, let given):
      expect(name, is: params["name"], comment)
      #expect(given == token, comment)
    case .extend(let name, _, let maximum):
      expect(name, is: params["name"], comment)
      #expect(maximum == (params["max_hold_ms"] as? NSNumber)?.int64Value, comment)
    case .transfer(let name, let given, let session):
      expect(name, is: params["name"], comment)
      #expect(given == token, comment)
      #expect(session == params["session"] as? String, comment)
    case .cancel(let id): expect(id, is: params["id"], comment)
    case .inspect(let name): expect(name, is: params["name"], comment)
    case .list(let list):
      #expect(list.limit == (params["limit"] as? NSNumber)?.intValue ?? 100, comment)
      #expect(list.cursor == params["cursor"] as? String, comment)
    case .kill(let session, let reason):
      #expect(session == params["session"] as? String, comment)
      #expect(reason == params["reason"] as? String, comment)
    case .clients(let page), .hosts(let page):
      #expect(page.limit == (params["limit"] as? NSNumber)?.intValue ?? 100, comment)
      #expect(page.cursor == params["cursor"] as? String, comment)
    case .watch(let watch):
      switch watch.target {
      case .name(let name): expect(name, is: params["name"], comment)
      case .prefix(let prefix): expect(prefix, is: params["prefix"], comment)
      }
      #expect(watch.scope.rawValue == params["scope"] as? String ?? "host", comment)
    case .trace(.session(let session)): #expect(session == params["session"] as? String, comment)
    case .trace(.process(let pid)): #expect(pid == (params["pid"] as? NSNumber)?.int64Value, comment)
    case .trace(.lock(let name)): expect(name, is: params["name"], comment)
    case .unwatch(let watch): #expect((params["watch"] as? NSNumber)?.int64Value == watch, comment)
    case .break(let name, let given, let reason):
      expect(name, is: params["name"], comment)
      #expect(given == token, comment)
      #expect(reason == params["reason"] as? String, comment)
    case .initialize(let initialize):
      #expect(initialize.clientName == (params["client"] as? NSDictionary)?["name"] as? String, comment)
    case .ping, .stats, .redis, .rpcDiscover: break
    }
  }

  private static func compare(_ acquire: AcquireParams, with params: NSDictionary, _ comment: Comment) {
    if let names = acquire.more?.names {
      #expect((params["names"] as? [String])?.map { LockName($0) } == names, comment)
    } else {
      expect(acquire.name, is: params["name"], comment)
    }
    #expect(acquire.waitMilliseconds == (params["wait_ms"] as? NSNumber)?.int64Value, comment)
    #expect(acquire.maxHoldMilliseconds == (params["max_hold_ms"] as? NSNumber)?.int64Value, comment)
    #expect(acquire.meta == params["meta"] as? String, comment)
    #expect(acquire.progress == (params["progress"] as? Bool ?? false), comment)
    #expect(acquire.more?.owner == params["owner"] as? String, comment)
    #expect((acquire.more?.onLost ?? .notify).rawValue == params["on_lost"] as? String ?? "notify", comment)
    switch acquire.more?.mode ?? .exclusive {
    case .exclusive: #expect(params["mode"] as? String ?? "exclusive" == "exclusive", comment)
    case .shared: #expect(params["mode"] as? String == "shared", comment)
    case .permit(let capacity): #expect((params["permits"] as? NSNumber)?.int64Value == capacity, comment)
    }
  }

  private static func expect(_ name: [UInt8], is value: Any?, _ comment: Comment) {
    #expect((value as? String).map { Array($0.utf8) } == name, comment)
  }

  private static func expect(_ name: LockName, is value: Any?, _ comment: Comment) {
    expect(name.bytes, is: value, comment)
  }

  private static func expect(_ id: MessageID, is value: Any?, _ comment: Comment) {
    switch id {
    case .string(let bytes): expect(bytes, is: value, comment)
    case .integer(let number): #expect((value as? NSNumber)?.int64Value == number, comment)
    }
  }

  @Test(arguments: 0..<20 as Range<UInt64>) func survivesAnyBytes(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var decoder = RequestDecoder()
    var writer = MessageWriter()
    for _ in 0..<500 {
      let line: [UInt8] =
        if Bool.random(using: &random) {
          (0..<Int.random(in: 0...40, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
        } else {
          (0..<Int.random(in: 0...30, using: &random)).flatMap { _ in Self.tokens.randomElement(using: &random)! }
        }
      // Whatever comes is answered with a line that is JSON.
      if case .refused(let refusal) = decoder.decode(line) {
        writer.removeAll()
        writer.refusal(refusal)
        #expect(mistake(in: writer.bytes) == nil, "seed \(seed), line \(line)")
      }
    }
  }

  @Test(arguments: 0..<20 as Range<UInt64>) func readsTheSameHoweverTheRequestIsSpelt(seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    for line in Self.corpus {
      guard let object = try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any] else { continue }
      var spelt: [UInt8] = []
      Self.spell(object, into: &spelt, by: &random)
      var decoder = RequestDecoder()
      #expect(decoder.decode(spelt) == decode(line), "seed \(seed): \(String(decoding: spelt, as: UTF8.self))")
    }
  }

  /// Writes a value with members in any order, and with escapes and white space where there may be some.
  private static func spell(_ value: Any, into bytes: inout [UInt8], by random: inout SeededRandom) {
    func space() {
      for _ in 0..<Int.random(in: 0...2, using: &random) {
        bytes.append([0x20, 0x09, 0x0D].randomElement(using: &random)!)
      }
    }
    space()
    switch value {
    case let object as [String: Any]:
      bytes.append(0x7B)
      for (index, key) in object.keys.sorted().shuffled(using: &random).enumerated() {
        if index > 0 { bytes.append(0x2C) }
        spell(key, into: &bytes, by: &random)
        bytes.append(0x3A)
        spell(object[key] as Any, into: &bytes, by: &random)
      }
      space()
      bytes.append(0x7D)
    case let text as String:
      bytes.append(0x22)
      for unit in text.unicodeScalars {
        if unit.value < 0x20 || unit == "\"" || unit == "\\" || Int.random(in: 0..<3, using: &random) == 0 {
          for half in String(unit).utf16 {
            let digits = String(half, radix: 16, uppercase: Bool.random(using: &random))
            bytes += Array("\\u\(String(repeating: "0", count: 4 - digits.count))\(digits)".utf8)
          }
        } else {
          bytes += Array(String(unit).utf8)
        }
      }
      bytes.append(0x22)
    default:
      let data = try? JSONSerialization.data(withJSONObject: value, options: .fragmentsAllowed)
      bytes += Array(data ?? Data())
    }
    space()
  }
}
