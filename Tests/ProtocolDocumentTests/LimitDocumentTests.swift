import ClientProtocol
import Foundation
import Testing

@Suite struct LimitDocumentTests {
  private var told: [String: Int64] {
    Dictionary(uniqueKeysWithValues: Limits.told.map { ("\($0.name)", $0.limit) })
  }

  @Test func theDocumentNamesEveryLimitThatInitializeTells() throws {
    let document = try Documents.openRPC()
    let limits = document["components"]["schemas"]["Limits"]
    #expect(limits["properties"].keys == Set(told.keys))
    #expect(Set(limits["required"].strings) == Set(told.keys))
    let initialize = try #require(document["methods"].elements.first { $0["name"].string == "initialize" })
    let example = try #require(initialize["examples"].elements.first)["result"]["value"]["limits"]
    #expect(example.keys == Set(told.keys))
    for (name, limit) in told {
      #expect(example[name].integer == limit, "\(name)")
    }
  }

  @Test func theProseNamesEveryLimitWithItsFigure() throws {
    var documented: [String: String] = [:]
    for row in try Documents.table(headedBy: ["limit", "value"]) {
      for name in row[0].components(separatedBy: ", ") {
        documented[name] = row[1]
      }
    }
    for (name, limit) in told {
      let text = try #require(documented[name], "\(name)")
      let figures = text.replacing(",", with: "").split { !$0.isNumber }.compactMap { Int64($0) }
      #expect(figures.contains(limit) || limit == 1_048_576 && text.hasPrefix("1 MiB"), "\(name): \(text)")
    }
  }

  @Test func theSchemasHaveTheBoundsOfTheDecoder() throws {
    let document = try Documents.openRPC()
    let schemas = document["components"]["schemas"]
    #expect(schemas["Name"]["maxLength"].integer == Int64(Limits.nameBytesMax))
    #expect(schemas["Meta"]["maxLength"].integer == Int64(Limits.metaBytesMax))
    #expect(schemas["Owner"]["maxLength"].integer == Int64(Limits.ownerBytesMax))
    #expect(schemas["Permits"]["maximum"].integer == Limits.permitsMax)
    #expect(schemas["Token"]["maximum"].integer == Limits.integerMax)
    let bounds: [(String, String, Int64)] = [
      ("acquire", "wait_ms", Limits.waitMillisecondsMax), ("acquire", "max_hold_ms", Limits.maxHoldMillisecondsMax),
      ("list", "limit", Limits.listCountMax), ("initialize", "keepalive_ms", Limits.keepaliveMillisecondsMax),
    ]
    for (method, parameter, bound) in bounds {
      #expect(try schema(of: parameter, in: method)["maximum"].integer == bound, "\(parameter)")
    }
    #expect(try schema(of: "names", in: "acquire")["maxItems"].integer == Int64(Limits.namesMax))
    #expect(try schema(of: "prefix", in: "watch")["maxLength"].integer == Int64(Limits.nameBytesMax))
    #expect(try schema(of: "reason", in: "break")["maxLength"].integer == Int64(Limits.breakReasonBytesMax))
    #expect(try schema(of: "session", in: "transfer")["maxLength"].integer == Int64(Limits.sessionBytesMax))
  }

  private func schema(of parameter: String, in method: String) throws -> Node {
    let node = try #require(try Documents.openRPC()["methods"].elements.first { $0["name"].string == method })
    return try #require(node["params"].elements.first { $0["name"].string == parameter })["schema"]
  }

  @Test func theDocumentFitsIntoALine() throws {
    let object = try JSONSerialization.jsonObject(with: Data(Documents.text("openrpc.json").utf8))
    let compact = try JSONSerialization.data(withJSONObject: object, options: [.withoutEscapingSlashes])
    // Some room for the envelope around it.
    #expect(compact.count < Limits.lineBytesMax - 1_024)
  }
}
