import Glibc
public import NIOCore
import NIOSSL
import NIOTLS
import RESP
import SystemStrings

/// Why a connection by TLS was not made, or ended: for people, naming the file where one is to blame.
public struct TLSFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// Why.
  public var description: String
}

/// What makes connections to a server by TLS 1.2 or newer. Making one reads the CAs of the system where none were named,
/// which takes long: it is no work for an event loop.
public struct TLSClient: Sendable {
  let material: TLSMaterial
  let name: ServerName
  private let context: NIOSSLContext

  /// - Parameters:
  ///   - material: whom to trust, and who one is.
  ///   - host: of the URL: whom the certificate must be for, where the options say nothing.
  public init(_ material: TLSMaterial, host: String) throws(TLSFailure) {
    self.material = material
    let options = material.options
    name = ServerName(options.serverName.isEmpty ? host : options.serverName)
    var configuration = TLSConfiguration.makeClientConfiguration()
    configuration.minimumTLSVersion = .tlsv12
    configuration.verifySignatureAlgorithms = Self.signatures
    configuration.shutdownTimeout = .milliseconds(500)
    switch options.verification {
    // The name is checked here: the library would take an address that the name leads to for the name, and a common name.
    case .full: configuration.certificateVerification = .noHostnameVerification
    case .none: configuration.certificateVerification = .none
    }
    configuration.trustRoots = material.trusted(now: time(nil)).map { .certificates($0) } ?? .default
    material.identify(&configuration)
    do { context = try NIOSSLContext(configuration: configuration) } catch {
      guard material.roots == nil else { throw TLSFailure(description: "TLS cannot begin: \(error)") }
      throw TLSFailure(description: "this system has no CAs to trust (ca-certificates): name a file with redis_tls_ca")
    }
  }

  /// By what a server may prove that it has the key of its certificate: what the library offers by itself, and keys of
  /// Ed25519 and P-521, which openssl makes and Redis takes.
  private static let signatures: [SignatureAlgorithm] = [
    .ecdsaSecp256R1Sha256, .rsaPssRsaeSha256, .rsaPkcs1Sha256, .ecdsaSecp384R1Sha384, .rsaPssRsaeSha384,
    .rsaPkcs1Sha384, .rsaPssRsaeSha512, .rsaPkcs1Sha512, .ed25519, .ecdsaSecp521R1Sha512, .rsaPkcs1Sha1,
  ]

  /// Puts TLS into the pipeline of a connection that is being made, before any other handler. `secured` is told whether the
  /// server is the right one, within `timeoutMilliseconds` from the moment at which the connection is there; nothing may be
  /// sent before. What goes wrong later comes as a ``TLSFailure`` through the pipeline.
  public func secure(
    _ pipeline: ChannelPipeline.SynchronousOperations, timeoutMilliseconds: Int64, _ secured: EventLoopPromise<Void>
  ) throws {
    let tls = try NIOSSLClientHandler(context: context, serverHostname: name.hint)
    try pipeline.addHandler(TLSFirstBytes())
    try pipeline.addHandler(tls)
    try pipeline.addHandler(TLSGate(self, tls, timeoutMilliseconds: timeoutMilliseconds, secured))
  }

  /// Whether anything of a server's certificate is checked.
  public var verifies: Bool { material.options.verification != .none }

  /// Why the certificate of a server is not taken; nil: it is. Who signed it has been checked.
  func problem(with certificate: NIOSSLCertificate?) -> TLSFailure? {
    guard verifies else { return nil }
    guard let certificate else { return TLSFailure(description: "the server has shown no certificate") }
    let names = CertificateNames(certificate)
    guard !names.includes(name) else { return nil }
    return TLSFailure(
      description: "the server's certificate is not for \(name.text): it has \(names.words) (redis_tls_server_name)")
  }
}

/// Sees whether a server speaks TLS at all, and leaves.
private final class TLSFirstBytes: ChannelInboundHandler, RemovableChannelHandler {
  typealias InboundIn = ByteBuffer
  typealias InboundOut = ByteBuffer

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let bytes = unwrapInboundIn(data)
    // What each record begins with: an alert or a part of the handshake.
    if let first = bytes.getInteger(at: bytes.readerIndex, as: UInt8.self), first != 0x15, first != 0x16 {
      context.fireErrorCaught(
        TLSFailure(description: "the server does not speak TLS on this port: write redis:// for a plain connection"))
      return
    }
    context.fireChannelRead(data)
    context.pipeline.syncOperations.removeHandler(self, promise: nil)
  }
}

/// Lets a connection pass when the server has proved who it is, and finds words for what goes wrong.
private final class TLSGate: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer
  typealias InboundOut = ByteBuffer

  private let client: TLSClient
  private let tls: NIOSSLClientHandler
  private let timeoutMilliseconds: Int64
  /// nil: it was told.
  private var secured: EventLoopPromise<Void>?
  private var timeout: Scheduled<Void>?

  init(
    _ client: TLSClient, _ tls: NIOSSLClientHandler, timeoutMilliseconds: Int64, _ secured: EventLoopPromise<Void>
  ) {
    self.client = client
    self.tls = tls
    self.timeoutMilliseconds = timeoutMilliseconds
    self.secured = secured
  }

  func channelActive(context: ChannelHandlerContext) {
    let words =
      "no answer to the TLS handshake within \(timeoutMilliseconds) ms: does the server speak TLS on this port?"
    timeout = context.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(timeoutMilliseconds)) {
      self.fail(context, TLSFailure(description: words))
    }
    context.fireChannelActive()
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if case .handshakeCompleted = event as? TLSUserEvent {
      if let problem = client.problem(with: tls.peerCertificate) { return fail(context, problem) }
      timeout?.cancel()
      secured.take()?.succeed()
    }
    context.fireUserInboundEventTriggered(event)
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    let words = client.words(for: error, certificate: tls.peerCertificate, now: time(nil))
    if secured != nil {
      fail(context, TLSFailure(description: words ?? "the connection was closed in the TLS handshake"))
    } else if let words {
      context.fireErrorCaught(TLSFailure(description: words))
    } else {
      context.fireErrorCaught(error)
    }
  }

  func channelInactive(context: ChannelHandlerContext) {
    fail(context, TLSFailure(description: "the connection was closed in the TLS handshake"))
    context.fireChannelInactive()
  }

  func handlerRemoved(context: ChannelHandlerContext) {
    fail(context, TLSFailure(description: "the connection was closed"))
  }

  /// Tells it, if nothing was told yet, and closes the connection.
  private func fail(_ context: ChannelHandlerContext, _ failure: TLSFailure) {
    timeout?.cancel()
    guard let secured = secured.take() else { return }
    secured.fail(failure)
    context.close(promise: nil)
  }
}
