import ClientProtocol
import Testing

@Suite struct ErrorDocumentTests {
  private var coded: [ErrorEntry] {
    ErrorCode.allCases.map {
      ErrorEntry(
        code: $0.rawValue, reason: "\($0.reason)", message: "\($0.defaultMessage)", retry: $0.retry.rawValue,
        given: true)
    }
  }

  @Test func theTableForProgramsSaysWhatTheCodeSays() throws {
    #expect(try Documents.errors() == coded)
  }

  @Test func theTableForPeopleSaysWhatTheCodeSays() throws {
    let rows = try Documents.table(headedBy: ["code", "reason", "again"])
    #expect(rows.map { Array($0.prefix(3)) } == coded.map { ["\($0.code)", $0.reason, $0.retry] })
    for (row, entry) in zip(rows, coded) {
      #expect(row[3].hasPrefix("reserved") == !entry.given, "\(entry.reason)")
    }
  }

  @Test func theOpenRPCDocumentHasTheSameErrors() throws {
    let document = try Documents.openRPC()
    let errors = document["components"]["errors"]
    #expect(errors.keys == Set(coded.map(\.reason)))
    for entry in coded {
      let error = errors[entry.reason]
      #expect(error["code"].integer == Int64(entry.code))
      #expect(error["message"].string == entry.message)
      #expect(error["data"]["reason"].string == entry.reason)
    }
    let reasons = document["components"]["schemas"]["ErrorData"]["properties"]["reason"]["enum"].strings
    #expect(reasons == coded.map(\.reason))
  }

  @Test func noMethodNamesAnErrorThatIsNotGiven() throws {
    let given = Set(coded.filter(\.given).map(\.reason))
    for method in try Documents.openRPC()["methods"].elements {
      for error in method["errors"].elements {
        let reason = try #require(error["$ref"].string).split(separator: "/").last.map(String.init)
        #expect(given.contains(try #require(reason)), "\(method["name"].string ?? "")")
      }
    }
  }
}
