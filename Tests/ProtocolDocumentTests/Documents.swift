import Foundation
import TestSupport

/// The files of `protocol/`, as the tests read them.
enum Documents {
  static let directory = Repository.root.appending(path: "protocol")

  /// The text of a file.
  static func text(_ name: String) throws -> String {
    try String(contentsOf: directory.appending(path: name), encoding: .utf8)
  }

  /// `openrpc.json`.
  static func openRPC() throws -> Node {
    try Node(JSONSerialization.jsonObject(with: Data(contentsOf: directory.appending(path: "openrpc.json"))))
  }

  /// `errors.json`.
  static func errors() throws -> [ErrorEntry] {
    struct Table: Decodable {
      var errors: [ErrorEntry]
    }
    let data = try Data(contentsOf: directory.appending(path: "errors.json"))
    return try JSONDecoder().decode(Table.self, from: data).errors
  }

  /// The cells of the table in `README.md` whose header begins with these cells; without code marks.
  static func table(headedBy header: [String]) throws -> [[String]] {
    let rows = try text("README.md").split(separator: "\n", omittingEmptySubsequences: false).map(cells)
    guard let start = rows.firstIndex(where: { $0.starts(with: header) }) else {
      throw MissingTable(header: header)
    }
    return Array(rows[(start + 2)...].prefix { !$0.isEmpty })
  }

  private static func cells(_ line: Substring) -> [String] {
    guard line.hasPrefix("|"), line.hasSuffix("|"), line.count > 1 else { return [] }
    return line.dropFirst().dropLast().split(separator: "|", omittingEmptySubsequences: false).map {
      $0.trimmingCharacters(in: .whitespaces).replacing("`", with: "")
    }
  }

  struct MissingTable: Error {
    var header: [String]
  }
}

/// A line of the table of errors.
struct ErrorEntry: Decodable, Equatable {
  var code: Int
  var reason: String
  var message: String
  var retry: String
  var given: Bool
}

/// A value of a JSON document, to look into without decoding all of it.
struct Node {
  let value: Any

  init(_ value: Any) {
    self.value = value
  }

  /// The member of that name; a node of nothing when there is none.
  subscript(_ key: String) -> Node { Node((value as? [String: Any])?[key] ?? NSNull()) }

  var string: String? { value as? String }
  var integer: Int64? { (value as? NSNumber)?.int64Value }
  var elements: [Node] { (value as? [Any] ?? []).map(Node.init) }
  var strings: [String] { elements.compactMap(\.string) }
  var keys: Set<String> { Set((value as? [String: Any] ?? [:]).keys) }
}
