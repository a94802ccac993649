import ClientProtocol
import Foundation
import LockEngine
import Testing

@Suite struct MethodDocumentTests {
  private func schema(_ name: String) throws -> Node {
    try Documents.openRPC()["components"]["schemas"][name]
  }

  @Test func theDocumentHasTheMethodsAndParametersOfTheDecoder() throws {
    let methods = try Documents.openRPC()["methods"].elements
    #expect(methods.compactMap { $0["name"].string } == ProtocolMethod.allCases.map { "\($0.name)" })
    for (method, node) in zip(ProtocolMethod.allCases, methods) {
      let reserved = try reservedParameters(of: method)
      let documented = node["params"].elements.compactMap { $0["name"].string }
      #expect(Set(documented) == Set(method.parameterNames.map { "\($0)" }).subtracting(reserved), "\(method)")
    }
  }

  private func reservedParameters(of method: ProtocolMethod) throws -> Set<String> {
    Set(try Documents.openRPC()["x-reserved"]["\(method.name)"].strings)
  }

  @Test func whatIsReservedIsRefusedByTheDecoder() throws {
    let reserved = try Documents.openRPC()["x-reserved"]
    #expect(reserved["methods"].strings == ProtocolMethod.laterMethodNames.map { "\($0)" })
    #expect(reserved["acquire"].strings == ProtocolMethod.acquire.laterParameterNames.map { "\($0)" })
  }

  @Test func everyMethodAndNotificationHasItsChapter() throws {
    let lines = Set(try Documents.text("README.md").split(separator: "\n").map(String.init))
    let chapters = lines.filter { $0.hasPrefix("### ") }.flatMap { $0.dropFirst(4).components(separatedBy: ", ") }
    for method in ProtocolMethod.allCases {
      #expect(chapters.contains("\(method.name)"))
    }
    for notification in try Documents.openRPC()["x-notifications"].elements {
      #expect(chapters.contains(try #require(notification["name"].string)))
    }
  }

  @Test func everyRequestOfTheDocumentIsAccepted() throws {
    var decoder = RequestDecoder()
    for method in try Documents.openRPC()["methods"].elements {
      for example in method["examples"].elements {
        var parameters: [String: Any] = [:]
        for parameter in example["params"].elements {
          parameters[try #require(parameter["name"].string)] = parameter["value"].value
        }
        let name = try #require(method["name"].string)
        let request: [String: Any] = ["jsonrpc": "2.0", "id": 1, "method": name, "params": parameters]
        let line = try JSONSerialization.data(withJSONObject: request)
        guard case .request(.integer(1), let decoded) = decoder.decode(Array(line)) else {
          Issue.record("the example of \(name) is refused: \(decoder.decode(Array(line)))")
          continue
        }
        #expect("\(decoded.method.name)" == name)
      }
    }
  }

  @Test func everyRequestShownInTheProseIsAccepted() throws {
    var decoder = RequestDecoder()
    let shown = try Documents.text("README.md").split(separator: "\n").filter { $0.hasPrefix("> {") }
    #expect(!shown.isEmpty)
    for line in shown {
      guard case .request = decoder.decode(Array(line.dropFirst(2).utf8)) else {
        Issue.record("the specification shows \(line), which is refused")
        continue
      }
    }
  }

  @Test func theReasonsOfLostAreTheEngines() throws {
    let coded: Set<String> = Set(
      [LostReason.leaseExpired, .maxHold, .dataLoss, .shutdown, .broken].map(\.rawValue))
    #expect(Set(try schema("LostReason")["enum"].strings) == coded)
    let rows = try Documents.table(headedBy: ["reason", "why"])
    #expect(Set(rows.map { $0[0] }) == coded)
  }

  @Test func theStatesOfALeaseAreTheCodes() throws {
    let coded = LeaseStateWord.allCases.map(\.rawValue)
    #expect(Set(try schema("LeaseState")["enum"].strings) == Set(coded))
    #expect(Set(try Documents.table(headedBy: ["state", "meaning"]).map { $0[0] }) == Set(coded))
  }
}
