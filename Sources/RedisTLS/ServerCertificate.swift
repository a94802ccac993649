import Glibc
import NIOSSL

/// Whom a certificate must be for.
enum ServerName: Equatable, Sendable {
  case host(String)
  /// The four or sixteen bytes of an address, and as it was written.
  case address([UInt8], String)

  /// A name, or the text of an address; a zone is no part of what a certificate says.
  init(_ text: String) {
    let plain = String(text.prefix { $0 != "%" })
    var (four, sixteen) = (in_addr(), in6_addr())
    if inet_pton(AF_INET, plain, &four) == 1 {
      self = .address(withUnsafeBytes(of: &four) { Array($0) }, plain)
    } else if inet_pton(AF_INET6, plain, &sixteen) == 1 {
      self = .address(withUnsafeBytes(of: &sixteen) { Array($0) }, plain)
    } else {
      self = .host(text)
    }
  }

  /// What the server is told of it (SNI), which takes no addresses.
  var hint: String? {
    switch self {
    case .host(let name) where name.last == ".": name == "." ? nil : ServerName(String(name.dropLast())).hint
    case .host(let name): name
    case .address: nil
    }
  }

  var text: String {
    switch self {
    case .host(let name): name
    case .address(_, let text): text
    }
  }
}

/// Whom a certificate says that it is for (RFC 9525): its subject alternative names, and nothing else. The common name is
/// told only, because whoever may sign any certificate, as one for a client, may write there what he likes.
struct CertificateNames: Equatable {
  var hosts: [[UInt8]] = []
  var addresses: [[UInt8]] = []
  var commonName: String?

  init(hosts: [[UInt8]], addresses: [[UInt8]], commonName: String?) {
    (self.hosts, self.addresses, self.commonName) = (hosts, addresses, commonName)
  }

  init(_ certificate: NIOSSLCertificate) {
    for name in certificate._subjectAlternativeNames() {
      switch name.nameType {
      case .dnsName: hosts.append(Array(name.contents))
      case .ipAddress: addresses.append(Array(name.contents))
      case _: break
      }
    }
    commonName = certificate.subjectName.last { $0.type == .commonName }?.value
  }

  /// Whether it is for that one. A name is never matched by an address to which it leads: who answers name servers would
  /// decide then.
  func includes(_ name: ServerName) -> Bool {
    switch name {
    case .host(let host): hosts.contains { Self.matches(pattern: $0, host: Array(host.utf8)) }
    case .address(let bytes, _): addresses.contains(bytes)
    }
  }

  /// A `*` stands for one whole label, the first.
  private static func matches(pattern: [UInt8], host: [UInt8]) -> Bool {
    let pattern = labels(pattern)
    let host = labels(host)
    guard pattern.count == host.count, !host.contains([]), let first = pattern.first else { return false }
    guard first == [UInt8(ascii: "*")] else { return pattern == host }
    // `*.com` would be for everybody.
    return pattern.count > 2 && pattern.dropFirst() == host.dropFirst()
  }

  /// The parts between the dots, in lower case; one dot at the end means nothing.
  private static func labels(_ name: [UInt8]) -> [[UInt8]] {
    let name = name.last == UInt8(ascii: ".") ? name.dropLast() : name[...]
    let lower = name.map { (0x41...0x5A).contains($0) ? $0 | 0x20 : $0 }
    return lower.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false).map(Array.init)
  }

  /// The names for people.
  var words: String {
    let names = hosts.map { name in
      let shown = CertificateText.shown(name)
      if case .address = ServerName(shown) { return "the name \(shown), which is no address" }
      return shown
    }
    let all = names + addresses.map(Self.text(ofAddress:))
    guard !all.isEmpty else {
      let common =
        commonName.map { ", only the common name \(CertificateText.shown($0.utf8)), which is not used" } ?? ""
      return "no subject alternative names\(common)"
    }
    let more = all.count > Self.namesMax ? " and \(all.count - Self.namesMax) more" : ""
    return all.prefix(Self.namesMax).joined(separator: ", ") + more
  }

  private static let namesMax = 8

  private static func text(ofAddress bytes: [UInt8]) -> String {
    var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
    let family = bytes.count == 4 ? AF_INET : AF_INET6
    guard bytes.count == 4 || bytes.count == 16,
      inet_ntop(family, bytes, &text, socklen_t(text.count)) != nil
    else { return "an address of \(bytes.count) bytes" }
    return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}

/// When a certificate is good, in seconds since 1970.
struct CertificateTime: Equatable {
  var from: Int
  var to: Int

  init(from: Int, to: Int) { (self.from, self.to) = (from, to) }
  init(_ certificate: NIOSSLCertificate) {
    self.init(from: certificate.notValidBefore, to: certificate.notValidAfter)
  }

  /// Why it is not good now, as a half sentence; nil: it is.
  func words(now: Int) -> String? {
    if now > to { return "has expired on \(CertificateText.moment(to))" }
    if now < from {
      return "is not valid before \(CertificateText.moment(from)), and here it is \(CertificateText.moment(now))"
    }
    return nil
  }
}

/// Texts of others' certificates, for messages.
enum CertificateText {
  private static let bytesMax = 80

  /// Printable ASCII as it is, everything else as `?`: it may be anything, and ends in logs and on terminals.
  static func shown(_ bytes: some Collection<UInt8>) -> String {
    let shown = bytes.prefix(bytesMax).map { (0x21...0x7E).contains($0) || $0 == 0x20 ? $0 : UInt8(ascii: "?") }
    return String(decoding: shown, as: UTF8.self) + (bytes.count > bytesMax ? "…" : "")
  }

  /// Who signed a certificate.
  static func issuer(of certificate: NIOSSLCertificate) -> String { name(certificate.issuerName) }

  /// The part of a name by which people know it.
  static func name(_ parts: [SSLCertificateName]) -> String {
    let known = parts.last { $0.type == .commonName } ?? parts.last { $0.type == .organization } ?? parts.last
    return known.map { "'\(shown($0.value.utf8))'" } ?? "somebody without a name"
  }

  /// `2026-11-29 18:57:08 UTC`
  static func moment(_ seconds: Int) -> String {
    var (time, parts) = (time_t(seconds), tm())
    guard gmtime_r(&time, &parts) != nil else { return "\(seconds) s after 1970" }
    var text = [CChar](repeating: 0, count: 64)
    let count = strftime(&text, text.count, "%Y-%m-%d %H:%M:%S UTC", &parts)
    return String(decoding: text.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
