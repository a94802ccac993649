import ClientProtocol
import Foundation
import LockTypes
import TestSupport
import Testing

/// The documents in `protocol/` against the code.
struct SpecificationTests {
  private let document: NSDictionary

  init() throws {
    let data = try Data(contentsOf: Repository.root.appending(path: "protocol/openrpc.json"))
    document = try #require(try JSONSerialization.jsonObject(with: data) as? NSDictionary)
  }

  private var methods: [NSDictionary] { document["methods"] as? [NSDictionary] ?? [] }

  private func text(_ names: [StaticString]) -> Set<String> {
    Set(names.map(\.description))
  }

  @Test func theMethodsAreThoseOfTheDocument() {
    #expect(Set(methods.compactMap { $0["name"] as? String }) == text(ProtocolMethod.allCases.map(\.name)))
  }

  @Test(arguments: ProtocolMethod.allCases) func theParamsAreThoseOfTheDocument(method: ProtocolMethod) throws {
    let entry = try #require(methods.first { $0["name"] as? String == method.name.description })
    let names = (entry["params"] as? [NSDictionary] ?? []).compactMap { $0["name"] as? String }
    #expect(Set(names) == text(method.parameterNames))
  }

  private func schema(_ name: String) throws -> NSDictionary {
    let components = try #require(document["components"] as? NSDictionary)
    let schemas = try #require(components["schemas"] as? NSDictionary)
    return try #require(schemas[name] as? NSDictionary)
  }

  @Test func theWordsAreThoseOfTheDocument() throws {
    #expect(try schema("LeaseState")["enum"] as? [String] == LeaseState.allCases.map(\.rawValue))
    let initialize = try #require(methods.first { $0["name"] as? String == "initialize" })
    let params = try #require(initialize["params"] as? [NSDictionary])
    let lifetime = try #require(params.first { $0["name"] as? String == "lifetime" })["schema"] as? NSDictionary
    #expect(lifetime?["enum"] as? [String] == InitializeParams.Lifetime.allCases.map(\.rawValue))
    let halfClose = try #require(params.first { $0["name"] as? String == "half_close" })["schema"] as? NSDictionary
    #expect(halfClose?["enum"] as? [String] == InitializeParams.HalfClose.allCases.map(\.rawValue))
  }

  @Test func theLimitsAreThoseOfTheDocument() throws {
    #expect(try Set(schema("Limits")["required"] as? [String] ?? []) == text(Limits.told.map(\.name)))
    let initialize = try #require(methods.first { $0["name"] as? String == "initialize" })
    let example = try #require((initialize["examples"] as? [NSDictionary])?.first)
    let value = try #require((example["result"] as? NSDictionary)?["value"] as? NSDictionary)
    #expect(value["limits"] as? [String: Int64] == Dictionary(uniqueKeysWithValues: Limits.told.map { ("\($0)", $1) }))
  }

  /// Every request of the transcripts that is answered at once with an error of JSON-RPC gets that error here too.
  @Test(arguments: ["envelope", "params"]) func theTranscriptsAreRefusedAsTheySay(transcript: String) throws {
    let text = try Repository.text("protocol/transcripts/\(transcript).jsonl")
    var sent: [UInt8]?
    var compared = 0
    for line in text.split(separator: "\n") {
      let step = try json(String(line))
      if let request = step["send"] {
        sent = Array(try JSONSerialization.data(withJSONObject: request))
      } else if let text = step["send_text"] as? String, text.count(where: { $0 == "\n" }) == 1, text.hasSuffix("\n") {
        sent = Array(text.utf8.dropLast())
      } else if let expected = step["expect"] as? NSDictionary, let line = sent {
        sent = nil
        guard let error = expected["error"] as? NSDictionary, let code = error["code"] as? Int, code < 0 else {
          continue
        }
        let message = Self.decode(line)
        // What the decoder reads and the daemon refuses.
        if case .request(_, .initialize) = message { continue }
        guard case .refused(let refusal) = message else {
          Issue.record("accepted: \(String(decoding: line, as: UTF8.self))")
          continue
        }
        compared += 1
        #expect(refusal.code.rawValue == code, "\(step)")
        let told = try written { $0.refusal(refusal) }
        let data = try #require((told["error"] as? NSDictionary)?["data"] as? NSDictionary)
        for (key, value) in error["data"] as? [String: NSObject] ?? [:] {
          #expect(data[key] as? NSObject == value, "\(step)")
        }
      } else {
        sent = nil
      }
    }
    #expect(compared > 20)
  }

  private static func decode(_ line: [UInt8]) -> ClientMessage {
    var decoder = RequestDecoder()
    return decoder.decode(line)
  }
}
