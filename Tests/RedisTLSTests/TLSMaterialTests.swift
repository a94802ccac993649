import Glibc
import NIOSSL
import ProcessSupport
import RESP
import Testing

@testable import RedisTLS

/// What is said of the files, with real ones.
@Suite struct TLSMaterialTests {
  private let made: Certificates
  /// Never before a certificate was made.
  private var now: Int { Int(time(nil)) }

  init() throws {
    made = try Certificates()
    try made.make("ca")
    try made.make("own", names: "DNS:own.test", days: 30)
    try made.make("other")
  }

  private func options(ca: String = "", certificate: String = "", key: String = "") -> RedisTLSOptions {
    var options = RedisTLSOptions()
    (options.caFile, options.certificateFile, options.keyFile) = (ca, certificate, key)
    return options
  }

  private func problem(_ options: RedisTLSOptions) -> TLSMaterial.Problem? {
    do throws(TLSMaterial.Problem) {
      _ = try TLSMaterial(options)
      return nil
    } catch { return error }
  }

  @Test func goodFilesAreTaken() throws {
    let material = try TLSMaterial(
      options(ca: made.path("ca.pem"), certificate: made.path("own.pem"), key: made.path("own.key")))
    #expect(material.roots?.count == 1)
    #expect(material.chain.count == 1)
    #expect(material.warnings(now: now).isEmpty)
    _ = try TLSClient(material, host: "own.test")
  }

  @Test func theKeyMayStandBesideTheCertificate() throws {
    let both = try made.write(made.bytes("own.key") + made.bytes("own.pem") + made.bytes("ca.pem"), to: "both.pem")
    let material = try TLSMaterial(options(certificate: both))
    #expect(material.key != nil)
    #expect(material.chain.count == 2)
    #expect(
      problem(options(certificate: made.path("own.pem")))?.message == "it has no key beside it: give redis_tls_key")
    #expect(problem(options(key: made.path("own.key")))?.message == "it needs a certificate: give redis_tls_cert")
  }

  @Test func nothingIsNamedNothingIsRead() throws {
    let material = try TLSMaterial(options()) { _, _ in .failure(.missing) }
    #expect(material.roots == nil && material.chain.isEmpty && material.key == nil)
  }

  @Test func aFileThatCannotBeReadIsNamed() throws {
    let missing = try #require(problem(options(ca: "/missing.pem")))
    #expect(missing == .init(file: .ca, path: "/missing.pem", message: "there is no such file"))
    #expect(missing.description == "cannot use /missing.pem: there is no such file")
    #expect(problem(options(ca: "/"))?.message == "Is a directory")
    let key = try #require(problem(options(certificate: made.path("own.pem"), key: "/missing.key")))
    #expect(key.file == .key)
  }

  @Test func aFileOfAnotherKindIsTold() throws {
    let text = try made.write(Array("hunter2\n".utf8), to: "text")
    let empty = try made.write([], to: "empty")
    #expect(problem(options(ca: text))?.message == "it is not PEM")
    #expect(problem(options(ca: empty))?.message == "the file is empty")
    #expect(problem(options(ca: made.path("ca.key")))?.message == "it has no certificate, but PRIVATE KEY")
    let swapped = options(certificate: made.path("own.key"), key: made.path("own.pem"))
    #expect(problem(swapped)?.message == "it has no certificate, but PRIVATE KEY")
    let twice = options(certificate: made.path("own.pem"), key: made.path("own.pem"))
    #expect(problem(twice) == .init(file: .key, path: made.path("own.pem"), message: "it has no key, but CERTIFICATE"))
    #expect(problem(options(certificate: made.path("own.pem"), key: text))?.message == "it is not PEM")
  }

  @Test func damageIsTold() throws {
    let broken = try made.write(made.bytes("ca.pem").map { $0 == UInt8(ascii: "M") ? 0x21 : $0 }, to: "broken.pem")
    #expect(problem(options(ca: broken))?.message == "a certificate in it is damaged")
    // A bundle of which one part is damaged is not taken in part.
    let half = try made.write(made.bytes("own.pem") + made.bytes("broken.pem"), to: "half.pem")
    #expect(problem(options(ca: half))?.message == "a certificate in it is damaged")
    let key = try made.write(made.bytes("own.key").map { $0 == UInt8(ascii: "M") ? 0x21 : $0 }, to: "broken.key")
    #expect(problem(options(certificate: made.path("own.pem"), key: key))?.message == "the key in it is damaged")
  }

  @Test func aByteOrderMarkHidesNothing() throws {
    let marked = try made.write([0xEF, 0xBB, 0xBF] + made.bytes("ca.pem") + made.bytes("other.pem"), to: "marked.pem")
    #expect(try TLSMaterial(options(ca: marked)).roots?.count == 2)
    let key = try made.write([0xEF, 0xBB, 0xBF] + made.bytes("own.key"), to: "marked.key")
    #expect(problem(options(certificate: made.path("own.pem"), key: key)) == nil)
  }

  @Test func authoritiesThatAreOverAreLeftOutUnlessAllAre() throws {
    try made.make("short", days: 1)
    let both = try made.write(made.bytes("short.pem") + made.bytes("ca.pem"), to: "both-ca.pem")
    let material = try TLSMaterial(options(ca: both))
    #expect(material.trusted(now: now)?.count == 2)
    #expect(material.trusted(now: now + 2 * 86_400) == material.roots?.suffix(1))
    #expect(material.trusted(now: now + 40 * 86_400)?.count == 2)
    #expect(try TLSMaterial(options()).trusted(now: now) == nil)
  }

  @Test func anEncryptedKeyIsTold() throws {
    for form in ["-traditional", "-out"] {
      let path = made.path("locked\(form).key")
      let older = form == "-traditional" ? [form] : []
      try made.openssl(
        ["pkey", "-in", made.path("own.key"), "-aes128", "-passout", "pass:hunter2", "-out", path] + older)
      let found = try #require(problem(options(certificate: made.path("own.pem"), key: path)))
      #expect(found.message.hasPrefix("the key in it is encrypted"))
    }
  }

  @Test func aKeyThatDoesNotFitIsTold() throws {
    let found = try #require(problem(options(certificate: made.path("own.pem"), key: made.path("other.key"))))
    #expect(found.file == .key)
    #expect(found.path == made.path("other.key"))
    #expect(found.message == "the key does not fit the certificate: that is \(made.path("own.pem"))")
  }

  @Test func timesAreWarnedOf() throws {
    let own = try TLSMaterial(
      options(ca: made.path("ca.pem"), certificate: made.path("own.pem"), key: made.path("own.key")))
    let later = own.warnings(now: now + 40 * 86_400)
    #expect(later.map(\.file) == [.certificate, .ca])
    #expect(later.allSatisfy { $0.message.hasPrefix("the certificate has expired on 20") })
    let earlier = own.warnings(now: now - 2 * 86_400)
    #expect(earlier.count == 2)
    #expect(earlier.allSatisfy { $0.message.hasPrefix("the certificate is not valid before 20") })
  }
}
