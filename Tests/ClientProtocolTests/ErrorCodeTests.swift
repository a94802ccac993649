import ClientProtocol
import Foundation
import Testing

struct ErrorCodeTests {
  private struct Table: Decodable {
    struct Entry: Decodable {
      var code: Int
      var reason: String
      var retry: String
    }
    var errors: [Entry]
  }

  @Test func theTableInTheSpecificationSaysTheSame() throws {
    let data = try Data(contentsOf: Repository.root.appending(path: "protocol/errors.json"))
    let table = try JSONDecoder().decode(Table.self, from: data)
    let documented = table.errors.map { "\($0.code) \($0.reason) \($0.retry)" }
    let coded = ErrorCode.allCases.map { "\($0.rawValue) \($0.reason) \($0.retry.rawValue)" }
    #expect(Set(documented) == Set(coded))
    #expect(documented.count == coded.count)
  }

  @Test func everyErrorHasAReasonOfItsOwnAndAMessage() {
    #expect(Set(ErrorCode.allCases.map { "\($0.reason)" }).count == ErrorCode.allCases.count)
    for code in ErrorCode.allCases {
      #expect("\(code.defaultMessage)".contains(";"), "\(code): the message says what is wrong; and what to do")
    }
  }

  @Test func codesOfTheServiceAreConsecutiveFromOne() {
    #expect(ErrorCode.allCases.map(\.rawValue).filter { $0 > 0 } == Array(1...13))
  }
}

/// Where the repository's files are.
enum Repository {
  static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()
}
