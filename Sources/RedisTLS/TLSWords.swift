import Glibc
import NIOCore
import NIOSSL
import SystemStrings

// The words for an operator whose server cannot be reached by TLS.

extension TLSClient {
  /// Why a connection failed; nil where all there is to say is that it was closed.
  ///
  /// - Parameters:
  ///   - certificate: the server's, as far as it has shown one.
  ///   - now: in seconds since 1970.
  func words(for error: any Error, certificate: NIOSSLCertificate?, now: Int) -> String? {
    switch error {
    case let failure as TLSFailure: return failure.description
    case let error as IOError: return String(cString: strerror(error.errnoCode))
    case NIOSSLError.uncleanShutdown, BoringSSLError.zeroReturn: return nil
    case NIOSSLError.handshakeFailed(let error), NIOSSLError.shutdownFailed(let error):
      return words(for: Self.reasons(of: error), certificate, now)
    case let error as BoringSSLError: return words(for: Self.reasons(of: error), certificate, now)
    case _: return "TLS failed: \(CertificateText.shown("\(error)".utf8))"
    }
  }

  /// What the library calls the reasons, such as `CERTIFICATE_VERIFY_FAILED`. It tells them in its descriptions alone.
  private static func reasons(of error: BoringSSLError) -> [String] {
    switch error {
    case .sslError(let stack), .unknownError(let stack), .invalidSNIName(let stack), .failedToSetALPN(let stack):
      return stack.compactMap { reason(in: $0.description) }
    case .noError, .zeroReturn, .wantRead, .wantWrite, .wantConnect, .wantAccept, .wantX509Lookup,
      .wantCertificateVerify, .syscallError:
      return []
    }
  }

  /// The last part of `error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED at /file:1`; nil for texts of
  /// another form, such as that of an end in the handshake.
  static func reason(in description: String) -> String? {
    guard description.utf8.contains(sequence: Array("OPENSSL_internal:".utf8)) else { return nil }
    let words = description.split(separator: " ").first { $0.utf8.contains(sequence: Array("OPENSSL_internal:".utf8)) }
    return words?.split(separator: ":").last.map(String.init)
  }

  private func words(for reasons: [String], _ certificate: NIOSSLCertificate?, _ now: Int) -> String? {
    guard let reason = reasons.first else { return nil }
    let own = SystemText.shown(material.options.certificateFile)
    let isShown = !material.chain.isEmpty
    switch reason {
    case "CERTIFICATE_VERIFY_FAILED": return distrust(of: certificate, now: now)
    case "UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION": return "the server does not speak TLS 1.2 or newer"
    case "WRONG_VERSION_NUMBER": return "the server does not speak TLS on this port"
    case "TLSV1_ALERT_CERTIFICATE_REQUIRED", "TLSV1_CERTIFICATE_REQUIRED":
      return Self.wantsCertificate
    case "SSLV3_ALERT_HANDSHAKE_FAILURE":
      return isShown
        ? "the server refuses the TLS handshake: it may refuse the certificate \(own), or all ciphers of ours"
        : "the server refuses the TLS handshake: it may want a client certificate (redis_tls_cert, redis_tls_key), or "
          + "refuse all ciphers of ours"
    case "TLSV1_ALERT_UNKNOWN_CA":
      return "the server does not know the CA of our certificate \(own)\(issuer)"
    case "SSLV3_ALERT_CERTIFICATE_EXPIRED":
      let times = material.chain.first.flatMap { CertificateTime($0).words(now: now) }
      return "the server says that our certificate \(own) is over" + (times.map { ": it \($0)" } ?? "")
    case "SSLV3_ALERT_BAD_CERTIFICATE", "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE", "SSLV3_ALERT_CERTIFICATE_REVOKED",
      "SSLV3_ALERT_CERTIFICATE_UNKNOWN", "TLSV1_ALERT_ACCESS_DENIED", "TLSV1_ALERT_DECRYPT_ERROR":
      let times = material.chain.first.flatMap { CertificateTime($0).words(now: now) }
      return "the server refuses our certificate \(own)\(issuer) (\(reason))" + (times.map { ": it \($0)" } ?? "")
    case "TLSV1_UNRECOGNIZED_NAME", "TLSV1_ALERT_UNRECOGNIZED_NAME":
      return "the server does not know the name \(name.text) (redis_tls_server_name)"
    case _: return "TLS failed: \(reasons.joined(separator: ", "))"
    }
  }

  /// Said of a server that has closed a connection over which no certificate was shown.
  public static let wantsCertificate = "the server wants a client certificate: give redis_tls_cert and redis_tls_key"

  /// Whether a server that wants a client certificate is shown one.
  public var showsCertificate: Bool { !material.chain.isEmpty }

  private var issuer: String { material.chain.first.map { ", signed by \(CertificateText.issuer(of: $0))" } ?? "" }

  /// Why a certificate was not trusted. The library says only that it is not, and looks are free.
  private func distrust(of certificate: NIOSSLCertificate?, now: Int) -> String {
    guard let certificate else { return "the server's certificate is not trusted" }
    if let times = CertificateTime(certificate).words(now: now) { return "the server's certificate \(times)" }
    let place = material.roots == nil ? "the CAs of this system" : SystemText.shown(material.options.caFile)
    let signer = CertificateText.issuer(of: certificate)
    let named = (material.roots ?? []).filter { $0.subjectName == certificate.issuerName }
    let over = named.compactMap { CertificateTime($0).words(now: now) }
    if !named.isEmpty, over.count == named.count, let over = over.first {
      return "the server's certificate is signed by \(signer), whose certificate in \(place) \(over)"
    }
    if let between = named.first(where: { $0.subjectName != $0.issuerName }) {
      let root = CertificateText.issuer(of: between)
      return "the server's certificate is signed by \(signer), which is in \(place), and was itself signed by \(root): "
        + "that must be there, too"
    }
    if !named.isEmpty {
      return "the server's certificate is signed by another \(signer) than that in \(place), or is not for a server"
    }
    if certificate.subjectName == certificate.issuerName {
      return "the server's certificate is signed by itself, and is not in \(place)"
    }
    let help = material.roots == nil ? " (redis_tls_ca)" : ""
    return "the server's certificate is signed by \(signer), which is unknown: it is not in \(place)\(help)"
  }
}
