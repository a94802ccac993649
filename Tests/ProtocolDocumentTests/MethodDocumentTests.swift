import ClientProtocol
import Foundation
import LockEngine
import LockTypes
import TestSupport
import Testing

@Suite struct MethodDocumentTests {
  private func schema(_ name: String) throws -> Node {
    try Documents.openRPC()["components"]["schemas"][name]
  }

  /// A copy would leave the daemon on the text of before.
  @Test func theDaemonAnswersDiscoverWithTheDocumentItself() throws {
    let resource = Repository.root.appending(path: "Sources/Sidecar/Resources/openrpc.json")
    let destination = try FileManager.default.destinationOfSymbolicLink(atPath: resource.path)
    #expect(destination == "../../../protocol/openrpc.json")
  }

  @Test func theDocumentHasTheMethodsAndParametersOfTheDecoder() throws {
    let methods = try Documents.openRPC()["methods"].elements
    #expect(methods.compactMap { $0["name"].string }.sorted() == ProtocolMethod.allCases.map { "\($0.name)" }.sorted())
    for method in ProtocolMethod.allCases {
      let node = try #require(methods.first { $0["name"].string == "\(method.name)" })
      let documented = node["params"].elements.compactMap { $0["name"].string }
      #expect(Set(documented) == Set(method.parameterNames.map { "\($0)" }), "\(method)")
    }
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
      [LostReason.leaseExpired, .maxHold, .dataLoss, .shutdown, .broken, .halfClosed].map(\.rawValue))
    #expect(Set(try schema("LostReason")["enum"].strings) == coded)
    let rows = try Documents.table(headedBy: ["reason", "why"])
    #expect(Set(rows.map { $0[0] }) == coded)
  }

  @Test func theReasonsForTakingALockAreTheCodes() throws {
    let coded = TakenInfo.Reason.allCases.map(\.rawValue)
    #expect(try schema("Taken")["properties"]["reason"]["enum"].strings == coded)
    let text = try Documents.text("README.md")
    for reason in coded { #expect(text.contains("`\(reason)`: ")) }
  }

  @Test func theModesAndLossActionsAreTheCodes() throws {
    #expect(try schema("Mode")["enum"].strings == ["exclusive", "shared", "permit"])
    let acquire = try #require(try Documents.openRPC()["methods"].elements.first { $0["name"].string == "acquire" })
    let schemas = Dictionary(
      uniqueKeysWithValues: acquire["params"].elements.map { ($0["name"].string ?? "", $0["schema"]) })
    #expect(schemas["on_lost"]?["enum"].strings == LossAction.allCases.map(\.rawValue))
    #expect(schemas["mode"]?["enum"].strings == ["exclusive", "shared"])
  }

  @Test func theKindsOfEventsAreTheWriters() throws {
    let events: [LockEvent] = [
      .acquired(SessionID(1), 1, .permit(of: 2)), .released(SessionID(1), 1),
      .lost(SessionID(1), 1, .broken), .waiting(SessionID(1), waiters: 1),
      .gaveUp(SessionID(1), waiters: 0), .remote(host: "h"),
    ]
    let rows = try Documents.table(headedBy: ["kind", "more members"])
    #expect(try schema("EventKind")["enum"].strings == rows.map { $0[0] })
    #expect(rows.count == events.count)
    for (event, row) in zip(events, rows) {
      var writer = MessageWriter()
      writer.event(watch: 1, name: LockName("a"), event)
      let params = Node(try JSONSerialization.jsonObject(with: Data(writer.bytes)))["params"]
      #expect(params["kind"].string == row[0])
      let members = Set(row[1].replacing("?", with: "").components(separatedBy: ", "))
      let isPermit = params.keys.contains("permits")
      #expect(params.keys == members.subtracting(isPermit ? [] : ["permits"]).union(["watch", "kind", "name"]))
    }
  }

  @Test func theStatesOfTheBackendAreTheCodes() throws {
    let backend = try Documents.openRPC()["x-notifications"].elements.first { $0["name"].string == "backend" }
    let state = try #require(backend)["params"].elements.first?["schema"]
    #expect(state?["enum"].strings == BackendState.allCases.map(\.rawValue))
  }

  @Test func theStatesOfALeaseAreTheCodes() throws {
    let coded = LeaseState.allCases.map(\.rawValue)
    #expect(Set(try schema("LeaseState")["enum"].strings) == Set(coded))
    #expect(Set(try Documents.table(headedBy: ["state", "meaning"]).map { $0[0] }) == Set(coded))
  }
}
