import NIOHTTP1
import SidelockClient
import Testing

@testable import sidelock

/// Whom the dashboard serves, and what; the rest is a matter of processes and a browser.
@Suite struct DashboardTests {
  private let site = DashboardSite(token: "0123456789abcdef", source: DashboardSource(socket: "/nonexistent"))

  private func status(_ method: HTTPMethod, _ target: String, host: [String] = ["localhost"], token: [String] = [])
    -> Int?
  {
    let headers = HTTPHeaders(host.map { ("Host", $0) } + token.map { (DashboardSite.tokenHeader, $0) })
    let request = WebRequest(method: method, target: target, headers: headers, body: Array("{}".utf8))
    switch site.plan(for: request) {
    case .answer(let answer): return answer.status
    case .make: return nil
    }
  }

  @Test func tokensDifferAndAreLong() {
    let tokens = Set((0..<100).map { _ in DashboardCommand.newToken() })
    #expect(tokens.count == 100)
    #expect(tokens.allSatisfy { $0.utf8.count == 32 && $0.allSatisfy(\.isHexDigit) })
  }

  @Test func onlyTheTokenIsTheToken() {
    #expect(site.isToken("0123456789abcdef"))
    for other in ["", "0", "0123456789abcdeg", "0123456789abcdef0", "1123456789abcdef", "0123456789ABCDEF"] {
      #expect(!site.isToken(other))
    }
  }

  @Test(arguments: ["127.0.0.1", "127.1.2.3", "::1", "0:0::1"])
  func addressesOfTheLoopback(_ address: String) {
    #expect(ListenAddress.isLoopback(address: address))
  }

  @Test(arguments: [
    "", "localhost", "127.1", "128.0.0.1", "10.0.0.1", "0.0.0.0", "::", "::2", "::ffff:127.0.0.1", "1::1",
  ])
  func whatIsNoAddressOfTheLoopback(_ address: String) {
    #expect(!ListenAddress.isLoopback(address: address))
  }

  @Test(arguments: ["localhost", "LocalHost:80", "127.0.0.1:1", "127.255.0.1", "[::1]", "[::1]:65535", "localhost:"])
  func hostsThatAreServed(_ host: String) {
    #expect(ListenAddress.isLoopback(hostHeader: host))
  }

  @Test(arguments: [
    "", "::1", "[::1", "[127.0.0.1]", "[localhost]", "localhost.", "localhost:80:80", "localhost:8a",
    "localhost:123456", "a@localhost",
    "localhost.example.org", "127.0.0.1.example.org", "[::1].example.org", "[]", "]", "[::1]80",
  ])
  func hostsThatAreNotServed(_ host: String) {
    #expect(!ListenAddress.isLoopback(hostHeader: host))
  }

  @Test func eachPathNeedsTheTokenAndTheHost() {
    let token = "0123456789abcdef"
    #expect(status(.GET, "/\(token)/") == 200)
    #expect(status(.HEAD, "/\(token)/graph.js?x") == 200)
    #expect(status(.GET, "/\(token)") == 404)
    #expect(status(.GET, "/\(token)/a/b") == 404)
    #expect(status(.DELETE, "/\(token)/") == 405)
    #expect(status(.POST, "/api/look", token: [token]) == nil)
    #expect(status(.POST, "/api/break", token: [token]) == nil)
    #expect(status(.GET, "/api/break", token: [token]) == 405)
    #expect(status(.POST, "/api/other", token: [token]) == 404)
    for target in [
      "", "/", "//", "*", "x/\(token)/", "http://localhost/\(token)/", "/x/\(token)/", "/api/look",
      "/api/\(token)/look",
    ] {
      #expect(status(.POST, target) == 403, "\(target)")
    }
    #expect(status(.POST, "/api/look", token: [token, token]) == 403)
    for host in [[], ["example.org"], ["localhost", "localhost"], ["localhost", "example.org"]] {
      #expect(status(.GET, "/\(token)/", host: host) == 403)
      #expect(status(.POST, "/api/look", host: host, token: [token]) == 403)
    }
  }

  @Test func whoeverLooksAtTheSameSharesALookAndNobodySharesABreak() {
    func question(_ name: String, _ body: String) -> String?? {
      let headers = HTTPHeaders([("Host", "localhost"), (DashboardSite.tokenHeader, "0123456789abcdef")])
      guard
        case .make(let question, _) = site.plan(
          for: WebRequest(method: .POST, target: "/api/\(name)", headers: headers, body: Array(body.utf8)))
      else { return nil }
      return .some(question)
    }
    #expect(question("look", #"{"all":true}"#) == question("look", #"{ "all" : true }"#))
    #expect(question("look", #"{"all":true}"#) != question("look", #"{"all":false}"#))
    #expect(question("look", "{}") != question("hosts", "{}"))
    #expect(question("break", #"{"name":"a"}"#) == .some(nil))
    #expect(question("break", "[]") == nil)
  }

  @Test(arguments: [
    ("80", "127.0.0.1:80"), ("localhost:80", "127.0.0.1:80"), ("[::1]:0", "[::1]:0"), ("unix:a", "unix:a"),
  ])
  func whereItListens(_ argument: String, _ address: String) throws {
    let given = try #require(ListenAddress(argument: argument))
    #expect(try given.loopbackOnly().description == address)
  }

  @Test(arguments: ["0.0.0.0:80", "[::]:80", "db1:80", "localhost.localdomain:80", "10.1.2.3:80"])
  func whereItDoesNotListen(_ argument: String) throws {
    let given = try #require(ListenAddress(argument: argument))
    #expect(throws: (any Error).self) { try given.loopbackOnly() }
  }

  @Test func aLockMentionsWhatIsInItsNameOrInItsHolder() {
    let lock = LockDescription([
      "name": "orders/1", "holders": [["host": "web1", "pid": 4711, "command": "report", "session": "1", "token": 1]],
    ])
    for words in ["", "orders", "/1", "4711", "report", "web1"] { #expect(lock.mentions(words)) }
    for words in ["orders/2", "mail", "4712"] { #expect(!lock.mentions(words)) }
  }

  @Test func usersHaveNamesWhereTheyAreKnown() {
    var users = KnownUsers()
    let lock = users.named(inLock: [
      "name": "a", "holders": [["uid": 0], ["host": "x"]], "waiters": [["uid": 4_000_000_000]],
    ])
    #expect(
      lock.serialized
        == #"{"name":"a","holders":[{"uid":0,"user":"root"},{"host":"x"}],"waiters":[{"uid":4000000000}]}"#)
  }
}
