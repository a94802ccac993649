import RESP
import SystemStrings
import TestSupport
import Testing

/// A URL and what it means.
struct Address: Sendable, CustomTestStringConvertible {
  var url: String
  var endpoint: RedisURL.Endpoint
  var usesTLS = false
  var username: String?
  var password: String?
  var database = 0
  var shown: String

  var testDescription: String { url }

  static let all: [Address] = [
    Address(url: "redis://h", endpoint: .tcp(host: "h", port: 6379), shown: "redis://h:6379/0"),
    Address(url: "REDIS://h/", endpoint: .tcp(host: "h", port: 6379), shown: "redis://h:6379/0"),
    Address(url: "redis://h:1/15", endpoint: .tcp(host: "h", port: 1), database: 15, shown: "redis://h:1/15"),
    Address(
      url: "redis://10.0.0.1:65535", endpoint: .tcp(host: "10.0.0.1", port: 65535), shown: "redis://10.0.0.1:65535/0"),
    Address(url: "redis://[::1]", endpoint: .tcp(host: "::1", port: 6379), shown: "redis://[::1]:6379/0"),
    Address(
      url: "redis://[fe80::1%25eth0]:7/2", endpoint: .tcp(host: "fe80::1%eth0", port: 7), database: 2,
      shown: "redis://[fe80::1%25eth0]:7/2"),
    Address(
      url: "redis://u:pw@a-b.example:7/3", endpoint: .tcp(host: "a-b.example", port: 7), username: "u",
      password: "pw", database: 3, shown: "redis://u:***@a-b.example:7/3"),
    Address(
      url: "redis://:pw@h", endpoint: .tcp(host: "h", port: 6379), password: "pw", shown: "redis://:***@h:6379/0"),
    Address(
      url: "redis://u%40x:p%2F%3F%23%40%3A%25%20@h", endpoint: .tcp(host: "h", port: 6379), username: "u@x",
      password: "p/?#@:% ", shown: "redis://u%40x:***@h:6379/0"),
    Address(
      url: "redis://u:p:w+=é@[::1]:7", endpoint: .tcp(host: "::1", port: 7), username: "u", password: "p:w+=é",
      shown: "redis://u:***@[::1]:7/0"),
    Address(url: "rediss://h", endpoint: .tcp(host: "h", port: 6379), usesTLS: true, shown: "rediss://h:6379/0"),
    Address(
      url: "Rediss://u:pw@[::1]:6380/3", endpoint: .tcp(host: "::1", port: 6380), usesTLS: true, username: "u",
      password: "pw", database: 3, shown: "rediss://u:***@[::1]:6380/3"),
    Address(url: "unix:///run/r.sock", endpoint: .unix(path: "/run/r.sock"), shown: "unix:///run/r.sock"),
    Address(
      url: "unix:///run/a@b%20c%3F.sock?db=4", endpoint: .unix(path: "/run/a@b c?.sock"), database: 4,
      shown: "unix:///run/a%40b%20c%3F.sock?db=4"),
    Address(
      url: "unix://u:pw@/r.sock?db=0", endpoint: .unix(path: "/r.sock"), username: "u", password: "pw",
      shown: "unix://u:***@/r.sock"),
    Address(
      url: "unix://:pw@/r.sock", endpoint: .unix(path: "/r.sock"), password: "pw", shown: "unix://:***@/r.sock"),
    Address(
      url: "unix:///r%FF.sock", endpoint: .unix(path: SystemText.text(Array("/r".utf8) + [0xFF] + Array(".sock".utf8))),
      shown: "unix:///r%FF.sock"),
    Address(
      url: SystemText.text(Array("unix:///r".utf8) + [0xE9]),
      endpoint: .unix(path: SystemText.text(Array("/r".utf8) + [0xE9])), shown: "unix:///r%E9"),
    Address(
      url: "unix:///" + String(repeating: "x", count: 106),
      endpoint: .unix(path: "/" + String(repeating: "x", count: 106)),
      shown: "unix:///" + String(repeating: "x", count: 106)),
  ]
}

@Suite struct RedisURLTests {
  @Test(arguments: Address.all)
  func urlIsTakenApart(address: Address) throws {
    let url = try RedisURL(parsing: address.url)
    #expect(url.endpoint == address.endpoint)
    #expect(url.usesTLS == address.usesTLS)
    #expect(url.username == address.username)
    #expect(url.password?.bytes == address.password.map { bytes($0) })
    #expect(url.database == address.database)
    #expect(url.description == address.shown)
  }

  @Test func passwordMayBeAnyBytes() throws {
    #expect(try RedisURL(parsing: "redis://u:%FF%00@h").password?.bytes == [0xFF, 0])
    let text = SystemText.text(Array("redis://u:p".utf8) + [0xE9] + Array("@h".utf8))
    #expect(try RedisURL(parsing: text).password?.bytes == [0x70, 0xE9])
  }

  @Test(arguments: [
    ("unix:///run/%C3%A9", "unix:///run/e%CC%81"), ("redis://%C3%A9:x@h", "redis://e%CC%81:x@h"),
  ])
  func partsAreThemselvesByteForByte(composed: String, decomposed: String) throws {
    #expect(try RedisURL(parsing: composed) != RedisURL(parsing: decomposed))
    #expect(try RedisURL(parsing: composed) == RedisURL(parsing: composed))
  }

  @Test func passwordIsNotShown() throws {
    let url = try RedisURL(parsing: "redis://u:hunter2@h")
    var dumped = "\(url) \(String(reflecting: url)) \([url])"
    dump(url, to: &dumped)
    #expect(!dumped.contains("hunter2"))
    #expect(!dumped.contains("104"))
  }

  static let bad: [(String, RedisURLError.Field)] = [
    ("", .scheme),
    ("h:6379", .scheme),
    ("redis:h", .scheme),
    ("redis:/h", .scheme),
    ("://h", .scheme),
    ("http://h", .scheme),
    ("valkey://h", .scheme),
    ("redis-cluster://", .host),
    ("redis-cluster://a,,b", .host),
    ("redis-cluster://a:x", .port),
    ("redis-cluster://a/1", .database),
    ("redis-cluster://a?db=0", .query),
    ("redis-cluster://u@a", .password),
    ("redis-cluster://u:hunter2@a,u:hunter2@b", .password),
    ("redis-sentinel://u:hunter2@h#m", .url),
    ("redis-cluster://" + Array(repeating: "a", count: 33).joined(separator: ","), .host),
    ("redis-sentinel://", .host),
    ("redis-sentinel://h", .query),
    ("redis-sentinel://h?", .query),
    ("redis-sentinel://h?sentinelMasterId", .query),
    ("redis-sentinel://h?sentinelMasterId=", .query),
    ("redis-sentinel://h?sentinelMasterId=a%20b", .query),
    ("redis-sentinel://h?sentinelMasterId=%zz", .query),
    ("redis-sentinel://h?sentinelMasterId=m&timeout=1s", .query),
    ("redis-sentinel://h?db=1", .query),
    ("redis-sentinel://h?sentinelMasterId=" + String(repeating: "m", count: 256), .query),
    ("redis-sentinel://h/x?sentinelMasterId=m", .database),
    ("redis-sentinel://u:hunter2@h,?sentinelMasterId=m", .host),
    ("redis-sentinel://h:1,i:0?sentinelMasterId=m", .port),
    ("redis-sentinel://h?sentinelMasterId=u:hunter2@m", .password),
    ("redis-sentinel://" + String(repeating: "h,", count: 32) + "h?sentinelMasterId=m", .host),
    ("redis-cluster://u:hunter2@h/1", .database),
    ("rediss-cluster://", .host),
    ("redisss://u:hunter2@h", .scheme),
    ("rediss://", .host),
    ("rediss://h?verifyPeer=NONE", .query),
    ("rediss://u:hun/ter2@h", .password),
    ("redis://h ", .url),
    ("redis://h\n", .url),
    ("redis://h/0#x", .url),
    ("redis://u:hun#ter2@h", .url),
    ("redis://", .host),
    ("redis:///0", .host),
    ("redis://:6379", .host),
    ("redis://u:hunter2@", .host),
    ("redis://u:hunter2@:7", .host),
    ("redis://h_%20", .host),
    ("redis://" + String(repeating: "h", count: 256), .host),
    ("redis://::1", .host),
    ("redis://u:hunter2:7", .host),
    ("redis://[::1", .host),
    ("redis://[]", .host),
    ("redis://[::1]7", .host),
    ("redis://[::g]", .host),
    ("redis://[hunter2]", .host),
    ("redis://[::1%25]", .host),
    ("redis://[::1%25a%2Fb]", .host),
    ("redis://[::1%eth0]", .host),
    ("redis://h:", .port),
    ("redis://h:0", .port),
    ("redis://h:65536", .port),
    ("redis://h:07", .port),
    ("redis://h:+7", .port),
    ("redis://h:-7", .port),
    ("redis://h:99999999999999999999", .port),
    ("redis://u:hunter2", .port),
    ("redis://h/x", .database),
    ("redis://h/-1", .database),
    ("redis://h/01", .database),
    ("redis://h/1/", .database),
    ("redis://h/99999999999999999999", .database),
    ("redis://h?db=1", .query),
    ("redis://h/1?x", .query),
    ("redis://hunter2@h", .password),
    ("redis://@h", .password),
    ("redis://u:@h", .password),
    ("redis://u:hunter2%@h", .password),
    ("redis://u:hunter2%4@h", .password),
    ("redis://u:hunter2%zz@h", .password),
    ("redis://u:hun@ter2@h", .password),
    ("redis://u:hun/ter2@h", .password),
    ("redis://u:hun?ter2@h", .password),
    ("redis://u%:hunter2@h", .user),
    ("redis://%FF:hunter2@h", .user),
    ("unix://", .path),
    ("unix:///", .path),
    ("unix://r.sock", .path),
    ("unix://run/r.sock", .path),
    ("unix://u:hun/ter2@/r.sock", .path),
    ("unix:///r%00.sock", .path),
    ("unix:///r%.sock", .path),
    ("unix:///" + String(repeating: "x", count: 107), .path),
    ("unix:///r.sock?db", .query),
    ("unix:///r.sock?x=1", .query),
    ("unix:///r.sock?db=", .database),
    ("unix:///r.sock?db=x", .database),
    ("unix:///r.sock?db=1&db=2", .database),
  ]

  @Test(arguments: bad)
  func errorNamesTheFieldAndQuotesNothing(row: (url: String, field: RedisURLError.Field)) {
    do throws(RedisURLError) {
      let url = try RedisURL(parsing: row.url)
      Issue.record("taken: \(url)")
    } catch {
      #expect(error.field == row.field, "\(error)")
      #expect(error.description.hasPrefix(row.field.rawValue))
      #expect(!error.description.contains("hunter2"))
      #expect(!error.description.contains("hun"))
    }
  }

  @Test func clustersAreTakenApart() throws {
    let url = try RedisURL(parsing: "rediss-cluster://u:hunter,2@a:7000,[::1],b/0")
    let seeds = RedisClusterSeeds(
      addresses: [
        RedisAddress(host: "a", port: 7000), RedisAddress(host: "::1", port: 6379), RedisAddress(host: "b", port: 6379),
      ])
    #expect(url.endpoint == .cluster(seeds))
    #expect(url.usesTLS && url.database == 0 && url.username == "u")
    #expect(url.description == "rediss-cluster://u:***@a:7000,[::1]:6379,b:6379")
    #expect(try RedisURL(parsing: url.withoutLogin.description) == url.withoutLogin)
    // In whichever order they are named.
    #expect(
      seeds.place == RedisClusterSeeds(addresses: seeds.addresses.reversed()).place
        && seeds.place != RedisClusterSeeds(addresses: Array(seeds.addresses.dropLast())).place)
    #expect(try RedisURL(parsing: "redis-cluster://a").description == "redis-cluster://a:6379")
  }

  @Test func sentinelsAreTakenApart() throws {
    let url = try RedisURL(
      parsing: "redis-sentinel://u:hunter,2@a:5000,b,[fe80::1%25eth0]/3?sentinelmasterid=my%2Dlocks")
    #expect(
      url.endpoint
        == .sentinels(
          RedisSentinels(
            addresses: [
              RedisAddress(host: "a", port: 5000), RedisAddress(host: "b", port: 26379),
              RedisAddress(host: "fe80::1%eth0", port: 26379),
            ], master: "my-locks")))
    #expect(url.username == "u" && url.password?.bytes == bytes("hunter,2") && url.database == 3 && !url.usesTLS)
    #expect(
      url.description
        == "redis-sentinel://u:***@a:5000,b:26379,[fe80::1%25eth0]:26379/3?sentinelMasterId=my-locks")
    #expect(try RedisURL(parsing: "rediss-sentinel://h?sentinelMasterId=m").usesTLS)
    let most = String(repeating: "h,", count: 31) + "h"
    #expect(try RedisURL(parsing: "redis-sentinel://\(most)?sentinelMasterId=m").database == 0)
  }

  /// What other programs take, and this one does not.
  @Test(
    arguments: [
      ("redis-sentinel://h,i#m", "write what the sentinels call the primary as ?sentinelMasterId=NAME"),
      ("redis-cluster://u:p@h,u:p@i", "with several hosts the login stands once, before the first one"),
    ])
  func whatIsWrittenInsteadIsNamed(row: (url: String, words: String)) {
    #expect { try RedisURL(parsing: row.url) } throws: { "\($0)".contains(row.words) }
  }

  @Test func theSentinelThatIsWrongIsCounted() {
    do throws(RedisURLError) {
      _ = try RedisURL(parsing: "redis-sentinel://a,b:x,c?sentinelMasterId=m")
      Issue.record("taken")
    } catch {
      #expect(error.description == "port is not a number from 1 to 65535 (sentinel 2 of 3)")
    }
  }

  @Test func plainAndTLSAreNotTheSame() throws {
    let plain = try RedisURL(parsing: "redis://h")
    let secure = try RedisURL(parsing: "rediss://h")
    #expect(!plain.usesTLS && secure.usesTLS)
    #expect(plain != secure)
    #expect(try !RedisURL(parsing: "unix:///s").usesTLS)
  }

  @Test(arguments: 1...4 as ClosedRange<UInt64>)
  func noTextTrapsTheParser(seed: UInt64) {
    var generator = SeededRandom(seed: seed)
    let pieces = [
      "redis", "rediss", "unix", "://", ":", "/", "@", "%", "%41", "%ff", "[", "]", "?", "db=", "#", "1", "h", "é", " ",
    ]
    for _ in 0..<2000 {
      var url = ["redis://", "rediss://", "unix://"].randomElement(using: &generator) ?? ""
      for _ in 0..<Int.random(in: 0...10, using: &generator) { url += pieces.randomElement(using: &generator) ?? "" }
      if let parsed = try? RedisURL(parsing: url) {
        #expect(!parsed.description.isEmpty)
      }
    }
  }
}
