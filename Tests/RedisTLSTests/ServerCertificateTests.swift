import NIOSSL
import Testing

@testable import RedisTLS

@Suite struct ServerCertificateTests {
  private func names(_ hosts: [String], _ addresses: [[UInt8]] = [], commonName: String? = nil) -> CertificateNames {
    CertificateNames(hosts: hosts.map { Array($0.utf8) }, addresses: addresses, commonName: commonName)
  }

  @Test(arguments: [
    ("redis.example.com", "redis.example.com"), ("Redis.Example.com", "redis.example.COM"),
    ("redis.example.com.", "redis.example.com"), ("redis.example.com", "redis.example.com."),
    ("*.example.com", "redis.example.com"), ("localhost", "localhost"), ("a_b", "a_b"),
  ])
  func aNameIsFound(pattern: String, host: String) {
    #expect(names(["other", pattern]).includes(ServerName(host)))
  }

  @Test(arguments: [
    ("redis.example.com", "redis.example.org"), ("example.com", "redis.example.com"),
    ("redis.example.com", "example.com"), ("*.example.com", "example.com"), ("*.example.com", "a.b.example.com"),
    ("*.example.com", ".example.com"), ("*.com", "example.com"), ("*", "localhost"), ("*.", "localhost"),
    ("r*.example.com", "redis.example.com"), ("redis.*.com", "redis.example.com"), ("", "localhost"), ("", "."),
    ("redis.example.com\0.evil.org", "redis.example.com"), ("127.0.0.1", "127.0.0.1"),
  ])
  func anotherNameIsNot(pattern: String, host: String) {
    #expect(!names([pattern]).includes(ServerName(host)))
  }

  @Test func anAddressIsFoundAmongAddressesOnly() {
    let loopback = [UInt8](repeating: 0, count: 15) + [1]
    let some = names(["h"], [[127, 0, 0, 1], loopback])
    for text in ["127.0.0.1", "::1", "::1%lo", "0:0:0:0:0:0:0:1"] {
      #expect(some.includes(ServerName(text)), "\(text)")
    }
    for text in ["127.0.0.2", "::2", "localhost"] { #expect(!some.includes(ServerName(text)), "\(text)") }
    #expect(ServerName("127.0.0.1").hint == nil)
    #expect(ServerName("redis.example.com.").hint == "redis.example.com")
    // The library takes neither an address nor nothing.
    for text in ["127.0.0.1.", "."] { #expect(ServerName(text).hint == nil, "\(text)") }
  }

  @Test func aCommonNameCountsForNothing() {
    let common = names([], commonName: "redis.example.com")
    #expect(!common.includes(ServerName("redis.example.com")))
    #expect(
      common.words == "no subject alternative names, only the common name redis.example.com, which is not used")
    #expect(names([]).words == "no subject alternative names")
  }

  @Test func theNamesAreTold() {
    let loopback = [UInt8](repeating: 0, count: 15) + [1]
    #expect(names(["a", "*.b"], [[10, 0, 0, 1], loopback]).words == "a, *.b, 10.0.0.1, ::1")
    #expect(names((0..<11).map { "h\($0)" }).words == "h0, h1, h2, h3, h4, h5, h6, h7 and 3 more")
    #expect(names([], [[1, 2]]).words == "an address of 2 bytes")
    #expect(names(["10.0.0.1"]).words == "the name 10.0.0.1, which is no address")
  }

  @Test func nothingOfOthersReachesTheTerminal() {
    #expect(names(["a\u{1B}[31m\n\u{E9}"]).words == "a?[31m???")
    #expect(names([String(repeating: "x", count: 500)]).words.utf8.count < 100)
  }

  @Test func namesAreReadFromACertificate() throws {
    let made = try Certificates()
    try made.make("server", names: "DNS:redis.test,IP:10.1.2.3,IP:::1,email:a@b.c,URI:http://x")
    let certificate = try #require(try NIOSSLCertificate.fromPEMBytes(made.bytes("server.pem")).first)
    let found = CertificateNames(certificate)
    #expect(found.words == "redis.test, 10.1.2.3, ::1")
    #expect(found.commonName == "server")
    #expect(CertificateText.issuer(of: certificate) == "'server'")
  }

  @Test func timesAreTold() {
    let time = CertificateTime(from: 1_000_000_000, to: 2_000_000_000)
    #expect(time.words(now: 1_500_000_000) == nil)
    #expect(time.words(now: 2_000_000_000) == nil)
    #expect(time.words(now: 2_000_000_001) == "has expired on 2033-05-18 03:33:20 UTC")
    #expect(
      time.words(now: 999_999_999)
        == "is not valid before 2001-09-09 01:46:40 UTC, and here it is 2001-09-09 01:46:39 UTC")
  }

  @Test func theReasonOfALibraryIsFound() {
    let text = "Error: 268435581 error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED at /a b.cc:1"
    #expect(TLSClient.reason(in: text) == "CERTIFICATE_VERIFY_FAILED")
    #expect(TLSClient.reason(in: "Error:  EOF during handshake") == nil)
    #expect(TLSClient.reason(in: "") == nil)
  }
}
