import Glibc
import NIOSSL
public import ProcessSupport
public import RESP
import SystemStrings

/// What the files of ``RedisTLSOptions`` hold: whom to trust, and who one is. Reading and checking them may take long, so
/// that it is no work for an event loop.
public struct TLSMaterial: Sendable {
  /// The files, by the setting that names each.
  public enum File: Sendable {
    case ca
    case certificate
    case key
  }

  /// Why a file cannot be used.
  public struct Problem: Error, Equatable, Sendable, CustomStringConvertible {
    /// Which one.
    public var file: File
    /// Its path, as `SystemText` has it.
    public var path: String
    /// What is wrong with it.
    public var message: String

    /// One line for people.
    public var description: String { "cannot use \(SystemText.shown(path)): \(message)" }
  }

  /// How long a file may be, in bytes: five times the CAs of a system.
  public static let fileBytesMax = 1 << 20

  /// The options that named the files.
  let options: RedisTLSOptions
  /// Certificates to trust; nil: those of the system.
  let roots: [NIOSSLCertificate]?
  /// One's own certificate and those that stand behind it; empty: none.
  let chain: [NIOSSLCertificate]
  let key: NIOSSLPrivateKey?

  /// Reads the files, with `readFile`, and checks that they are what they should be and that key and certificate fit. Whether
  /// they are good today is ``warnings(now:)``.
  public init(
    _ options: RedisTLSOptions,
    readFile: (_ path: String, _ bytesMax: Int) -> Result<[UInt8], FileReadError> = readSmallFileAgain
  ) throws(Problem) {
    self.options = options
    func contents(of file: File, at path: String) throws(Problem) -> [UInt8] {
      switch readFile(path, Self.fileBytesMax) {
      case .failure(let error): throw Problem(file: file, path: path, message: error.message)
      case .success(let bytes):
        guard !bytes.isEmpty else { throw Problem(file: file, path: path, message: "the file is empty") }
        // The library would overlook the first block behind a byte order mark.
        return bytes.starts(with: [0xEF, 0xBB, 0xBF]) ? Array(bytes.dropFirst(3)) : bytes
      }
    }
    if options.caFile.isEmpty {
      roots = nil
    } else {
      let bytes = try contents(of: .ca, at: options.caFile)
      roots = try Self.certificates(in: bytes, .ca, options.caFile)
    }
    guard !options.certificateFile.isEmpty else {
      guard options.keyFile.isEmpty else {
        throw Problem(file: .key, path: options.keyFile, message: "it needs a certificate: give redis_tls_cert")
      }
      (chain, key) = ([], nil)
      return
    }
    let certificate = try contents(of: .certificate, at: options.certificateFile)
    chain = try Self.certificates(in: certificate, .certificate, options.certificateFile)
    if options.keyFile.isEmpty {
      guard PEM.kinds(in: certificate).contains(where: \.isKey) else {
        throw Problem(
          file: .certificate, path: options.certificateFile, message: "it has no key beside it: give redis_tls_key")
      }
      key = try Self.key(in: certificate, .certificate, options.certificateFile)
    } else {
      key = try Self.key(in: contents(of: .key, at: options.keyFile), .key, options.keyFile)
    }
    try checkFit()
  }

  private static func certificates(
    in bytes: [UInt8], _ file: File, _ path: String
  ) throws(Problem) -> [NIOSSLCertificate] {
    let kinds = PEM.kinds(in: bytes)
    guard !kinds.isEmpty else { throw Problem(file: file, path: path, message: "it is not PEM") }
    guard kinds.contains(where: \.isCertificate) else {
      throw Problem(file: file, path: path, message: "it has no certificate, but \(PEM.words(for: kinds))")
    }
    do { return try NIOSSLCertificate.fromPEMBytes(bytes) } catch {
      throw Problem(file: file, path: path, message: "a certificate in it is damaged")
    }
  }

  private static func key(in bytes: [UInt8], _ file: File, _ path: String) throws(Problem) -> NIOSSLPrivateKey {
    let kinds = PEM.kinds(in: bytes)
    guard !kinds.isEmpty else { throw Problem(file: file, path: path, message: "it is not PEM") }
    guard kinds.contains(where: \.isKey) else {
      throw Problem(file: file, path: path, message: "it has no key, but \(PEM.words(for: kinds))")
    }
    guard !PEM.isKeyEncrypted(in: bytes, kinds) else {
      throw Problem(
        file: file, path: path, message: "the key in it is encrypted with a passphrase, which nobody could type in")
    }
    do { return try NIOSSLPrivateKey(bytes: bytes, format: .pem) } catch {
      throw Problem(file: file, path: path, message: "the key in it is damaged")
    }
  }

  /// Whether the certificate is that of the key.
  private func checkFit() throws(Problem) {
    var configuration = TLSConfiguration.makeClientConfiguration()
    // Nothing else is to be loaded.
    configuration.certificateVerification = .none
    identify(&configuration)
    do { _ = try NIOSSLContext(configuration: configuration) } catch {
      let other = options.keyFile.isEmpty ? "the certificate in it" : SystemText.shown(options.certificateFile)
      let file = options.keyFile.isEmpty ? (File.certificate, options.certificateFile) : (.key, options.keyFile)
      throw Problem(file: file.0, path: file.1, message: "the key does not fit the certificate: that is \(other)")
    }
  }

  /// Has a connection show who one is.
  func identify(_ configuration: inout TLSConfiguration) {
    configuration.certificateChain = chain.map { .certificate($0) }
    configuration.privateKey = key.map { .privateKey($0) }
  }

  /// The certificates to trust; nil: those of the system. Those that are over are left out, unless all are: of an authority
  /// that was renewed under its name the library may take the older one alone.
  ///
  /// - Parameter now: in seconds since 1970.
  func trusted(now: Int) -> [NIOSSLCertificate]? {
    guard let roots else { return nil }
    let good = roots.filter { CertificateTime($0).words(now: now) == nil }
    return good.isEmpty ? roots : good
  }

  /// What is wrong with the files today, and may be right on another day.
  ///
  /// - Parameter now: in seconds since 1970.
  public func warnings(now: Int) -> [Problem] {
    let own = chain.prefix(1).compactMap { CertificateTime($0).words(now: now) }.map {
      Problem(file: .certificate, path: options.certificateFile, message: "the certificate \($0)")
    }
    // Those of a bundle that are over harm nobody.
    guard let roots, roots.allSatisfy({ CertificateTime($0).words(now: now) != nil }) else { return own }
    let words = roots.first.flatMap { CertificateTime($0).words(now: now) } ?? ""
    return own + [Problem(file: .ca, path: options.caFile, message: "the certificate \(words)")]
  }
}

/// The blocks of a PEM file, by their first lines. What is in them is read elsewhere.
enum PEM {
  /// What a block says that it is, such as `CERTIFICATE`.
  struct Kind: Equatable {
    var label: String
    var isCertificate: Bool { ["CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"].contains(label) }
    var isKey: Bool { label.hasSuffix("PRIVATE KEY") }
  }

  /// The kinds of all blocks, in order.
  static func kinds(in bytes: [UInt8]) -> [Kind] {
    let begin = Array("-----BEGIN ".utf8)
    return bytes.split(whereSeparator: { $0 == 0x0A || $0 == 0x0D }).compactMap { line in
      guard line.starts(with: begin) else { return nil }
      let label = line.dropFirst(begin.count).prefix { $0 != UInt8(ascii: "-") }
      return Kind(label: CertificateText.shown(label))
    }
  }

  /// Whether the first key cannot be read without a passphrase.
  static func isKeyEncrypted(in bytes: [UInt8], _ kinds: [Kind]) -> Bool {
    guard let key = kinds.first(where: \.isKey) else { return false }
    // The older form says it in a line behind the first.
    return key.label == "ENCRYPTED PRIVATE KEY" || bytes.contains(sequence: Array("Proc-Type: 4,ENCRYPTED".utf8))
  }

  /// What is in a file, for people.
  static func words(for kinds: [Kind]) -> String { kinds.prefix(3).map(\.label).joined(separator: ", ") }
}

extension Collection<UInt8> {
  /// Whether `other` stands somewhere in it.
  func contains(sequence other: [UInt8]) -> Bool {
    indices.contains { self[$0...].starts(with: other) }
  }
}
