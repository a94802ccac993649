import AccessPolicy
import Testing

@testable import Sidecar

/// Pages of `clients`.
@Suite struct ClientPagesTests {
  private let host: TestSidecar
  private var sessions: [String] = []

  private static let rule = AccessRule(
    verdict: .deny, rights: .inspect, names: .exactly([0x78]), subjects: [.user(1001)])

  init() throws {
    host = try TestSidecar(isLocal: true) { $0.live.policy = AccessPolicy(rules: [Self.rule]) }
  }

  private func ask(_ client: TestClient, id: Int, limit: Int, cursor: String?) throws -> (page: [UInt64], next: String?)
  {
    let before = client.text.count
    try client.send(
      #"{"id":\#(id),"method":"clients","params":{"limit":\#(limit)\#(cursor.map { #","cursor":"\#($0)""# } ?? "")}}"#)
    host.endTurn()
    while client.text.count == before { host.timerFires() }
    let text = client.text.dropFirst(before)
    let page = text.matches(of: #/"session":"(\d+)"/#).compactMap { UInt64($0.1) }
    return (page, text.firstMatch(of: #/"cursor":"(\d+)"/#).map { String($0.1) })
  }

  private func pages(_ client: TestClient, limit: Int) throws -> [[UInt64]] {
    var pages: [[UInt64]] = []
    var cursor: String?
    repeat {
      let (page, next) = try ask(client, id: pages.count + 1, limit: limit, cursor: cursor)
      pages.append(page)
      #expect(next == nil || next == page.last.map { "\($0)" })
      cursor = next
    } while cursor != nil
    return pages
  }

  private func numbers(of uid: UInt32? = nil) -> [UInt64] {
    host.core.sessions.values.filter { uid == nil || $0.peer?.uid == uid }.map(\.id.rawValue).sorted()
  }

  @Test func whoMayNotInspectEveryLockSeesTheOwnClientsAsIfThereWereNoOthers() throws {
    for index in 0..<30 { _ = try host.connect("\(index)", uid: index % 3 == 0 ? 1001 : 1002) }
    let (one, other) = (try host.connect("one", uid: 1001), try host.connect("other", uid: 1002))
    for limit in [1, 3, 10, 11, 12, 1000] {
      let found = try pages(one, limit: limit)
      #expect(found.flatMap { $0 } == numbers(of: 1001) && found.dropLast().allSatisfy { $0.count == limit })
      #expect(found.count == (11 + limit - 1) / limit)
      let all = try pages(other, limit: limit)
      #expect(all.flatMap { $0 } == numbers() && all.dropLast().allSatisfy { $0.count == limit })
    }
    let stranger = try host.connect("stranger", uid: nil)
    #expect(try pages(stranger, limit: 10).flatMap { $0 } == numbers().suffix(1))
  }

  /// The others are looked through in slices.
  @Test func manyClientsArePassedOverInSeveralTurns() throws {
    let first = try host.connect("first", uid: 1001)
    for index in 0..<2000 { _ = try host.connect("\(index)", uid: 1002) }
    _ = try host.connect("last", uid: 1001)
    try first.send(#"{"id":1,"method":"clients"}"#)
    host.endTurn()
    #expect(first.text == "" && host.core.parts.queries.listings.count == 1)
    while first.text == "" { host.timerFires() }
    #expect(first.text.matches(of: #/"session":/#).count == 2)
  }

  @Test func whoIsGoneIsNotTold() throws {
    let clients = try (0..<100).map { try host.connect("\($0)", uid: 1002) }
    for client in clients where client !== clients[50] && client !== clients[99] { client.channel.close(promise: nil) }
    host.endTurn()
    #expect(try pages(clients[99], limit: 1).flatMap { $0 } == numbers() && numbers().count == 2)
  }
}
