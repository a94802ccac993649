import ClientProtocol
import Foundation
import TestSupport
import Testing

struct ErrorCodeTests {
  private struct Table: Decodable {
    struct Entry: Decodable {
      var code: Int
      var reason: String
      var message: String
      var retry: String
    }
    var errors: [Entry]
  }

  @Test func theTableInTheSpecificationSaysTheSame() throws {
    let data = try Data(contentsOf: Repository.root.appending(path: "protocol/errors.json"))
    let table = try JSONDecoder().decode(Table.self, from: data)
    let documented = table.errors.map { "\($0.code) \($0.reason) \($0.retry) \($0.message)" }
    let coded = ErrorCode.allCases.map { "\($0.rawValue) \($0.reason) \($0.retry.rawValue) \($0.defaultMessage)" }
    #expect(Set(documented) == Set(coded))
    #expect(documented.count == coded.count)
  }

  @Test func everyErrorHasAReasonOfItsOwn() {
    #expect(Set(ErrorCode.allCases.map { "\($0.reason)" }).count == ErrorCode.allCases.count)
  }

  @Test func codesOfTheServiceAreConsecutiveFromOne() {
    #expect(ErrorCode.allCases.map(\.rawValue).filter { $0 > 0 } == Array(1...14))
  }
}
