import Testing

@testable import SidelockSettings

@Suite struct RedisURLTests {
  private func tcp(_ host: String, _ port: Int = 6379) -> RedisEndpoint.Address { .tcp(host: host, port: port) }

  @Test func hostAloneTakesTheDefaults() throws {
    #expect(try RedisEndpoint(url: "redis://db") == RedisEndpoint(address: tcp("db")))
    #expect(try RedisEndpoint(url: "redis://db/") == RedisEndpoint(address: tcp("db")))
  }

  @Test func everyPartIsRead() throws {
    let endpoint = try RedisEndpoint(url: "redis://user:p%40ss%2Fword@db.example:7000/12")
    #expect(
      endpoint
        == RedisEndpoint(address: tcp("db.example", 7000), user: "user", password: Secret("p@ss/word"), database: 12))
  }

  @Test func passwordWithoutUser() throws {
    let endpoint = try RedisEndpoint(url: "redis://:secret@db")
    #expect(endpoint.user == nil)
    #expect(endpoint.password?.revealed == "secret")
  }

  @Test func lastAtSignEndsThePassword() throws {
    let endpoint = try RedisEndpoint(url: "redis://u:a@b@db")
    #expect(endpoint.password?.revealed == "a@b")
    #expect(endpoint.address == tcp("db"))
  }

  @Test func ipv6InBrackets() throws {
    #expect(try RedisEndpoint(url: "redis://[::1]:7000").address == tcp("::1", 7000))
    #expect(try RedisEndpoint(url: "redis://[::1]").address == tcp("::1"))
    #expect(try RedisEndpoint(url: "redis://[::1]:7000").redactedURL == "redis://[::1]:7000/0")
  }

  @Test func unixPathAndDatabase() throws {
    let plain = try RedisEndpoint(url: "unix:///run/redis.sock")
    #expect(plain == RedisEndpoint(address: .unix(path: "/run/redis.sock")))
    let full = try RedisEndpoint(url: "unix://u:p@/run/a%20b?db=3")
    #expect(
      full == RedisEndpoint(address: .unix(path: "/run/a b"), user: "u", password: Secret("p"), database: 3))
  }

  @Test func longestPathIsAcceptedAndOneMoreIsNot() throws {
    let longest = "/" + String(repeating: "a", count: 106)
    #expect(try RedisEndpoint(url: "unix://" + longest).address == .unix(path: longest))
    #expect(throws: RedisURLError.self) { try RedisEndpoint(url: "unix://\(longest)a") }
  }

  @Test(arguments: [
    "", "db", "http://db", "rediss://db", "redis://", "redis:///0", "redis://:6379", "redis://db:", "redis://db:0",
    "redis://db:65536", "redis://db:+1", "redis://db:99999999999999999999", "redis://db/x", "redis://db/-1",
    "redis://db/65536", "redis://db/0/1", "redis://user@db", "redis://u:%zz@db", "redis://u:%4@db", "redis://u:%00@db",
    "redis://u:%ff@db", "redis://[::1", "redis://[::1]x", "redis://d b", "redis://db?db=1", "redis://::1",
    "unix://run/redis.sock", "unix:///r?db=", "unix:///r?db=1&x=2", "unix:///r?password=x", "unix://", "redis:/db",
  ])
  func malformedURLsAreRefused(_ url: String) {
    #expect(throws: RedisURLError.self) { try RedisEndpoint(url: url) }
  }

  @Test(arguments: ["redis://u:hunter2@db:x", "redis://u:hunter2@", "hunter2", "unix:///r?password=hunter2"])
  func noErrorRepeatsWhatMayBeAPassword(_ url: String) {
    let error = #expect(throws: RedisURLError.self) { try RedisEndpoint(url: url) }
    #expect(error?.description.contains("hunter2") == false)
  }

  @Test func nothingPrintsThePassword() throws {
    let endpoint = try RedisEndpoint(url: "redis://u:hunter2@db")
    var dumped = ""
    dump(endpoint, to: &dumped)
    for text in ["\(endpoint)", String(reflecting: endpoint), dumped, endpoint.redactedURL] {
      #expect(!text.contains("hunter2"))
    }
    #expect(endpoint.redactedURL == "redis://u:***@db:6379/0")
  }
}
