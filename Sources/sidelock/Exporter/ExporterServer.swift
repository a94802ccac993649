import Glibc
import NIOCore
import NIOHTTP1
import NIOPosix
import SidelockClient
import SystemStrings

/// HTTP for those who scrape. What a peer sends can neither end it nor keep it busy: requests are small and come in time,
/// and there are few connections.
final class ExporterServer {
  /// Connections at a time.
  static let connectionsMax = 64
  /// Bytes of all header fields of a request.
  static let headerBytesMax = 8192
  /// Bytes of a request's body, which nobody reads.
  static let bodyBytesMax = 4096
  /// How long a request may take to come, and an answer to be taken.
  static let transferTime = TimeAmount.seconds(10)
  /// How long a connection may be silent between requests; longer than most intervals of scrapes.
  static let idleTime = TimeAmount.seconds(150)
  /// Answers that are made at a time; others wait.
  static let answersMax = 4

  private let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
  private let pool = NIOThreadPool(numberOfThreads: answersMax)
  private let channel: any Channel
  private let path: String?
  /// Where it listens, with the port that it was given.
  let address: ExporterAddress

  /// Listens at `address`. Throws what the system says against it.
  init(at address: ExporterAddress, _ scraper: Scraper) throws {
    pool.start()
    let (loop, pool) = (group.next(), pool)
    let count = NIOLoopBoundBox.makeBoxSendingValue(0, as: Int.self, eventLoop: loop)
    let bootstrap = ServerBootstrap(group: group)
      .serverChannelOption(.backlog, value: 128)
      .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          guard count.value < Self.connectionsMax else { throw TooManyConnections() }
          count.value += 1
          channel.closeFuture.assumeIsolated().whenComplete { _ in count.value -= 1 }
          var limits = NIOHTTPDecoderLimitConfiguration()
          limits.maxHeaderFieldSize = Self.headerBytesMax
          limits.maxHeaderListSize = Self.headerBytesMax
          limits.maxHeaderFieldCount = 64
          try channel.pipeline.syncOperations.configureHTTPServerPipeline(
            withEncoderConfiguration: .init(), withDecoderLimitConfiguration: limits)
          try channel.pipeline.syncOperations.addHandler(ExporterHandler(scraper, pool))
        }
      }
    switch address {
    case .internet(let host, let port):
      path = nil
      channel = try bootstrap.bind(host: host, port: port).wait()
      self.address = .internet(host: host, port: channel.localAddress?.port ?? port)
    case .unix(let path):
      self.path = path
      self.address = address
      // One that is left over is in the way; one that somebody serves stays.
      if let descriptor = try? UnixSocket.connect(path: SystemText.bytes(path), milliseconds: 1000) {
        close(descriptor)
        throw InUse()
      }
      channel = try bootstrap.bind(unixDomainSocketPath: path, cleanupExistingSocketFile: true).wait()
    }
  }

  /// Takes no more connections, and removes its socket.
  func end() {
    try? channel.close().wait()
    if let path { unlink(path) }
  }

  private struct TooManyConnections: Error {}

  private struct InUse: Error, CustomStringConvertible {
    var description: String { "another process serves there" }
  }
}

/// One connection: requests one after the other, each with a time by which it has come.
private final class ExporterHandler: ChannelInboundHandler {
  typealias InboundIn = HTTPServerRequestPart

  private let scraper: Scraper
  private let pool: NIOThreadPool
  private var request: HTTPRequestHead?
  private var bodyBytes = 0
  private var limit: Scheduled<Void>?

  init(_ scraper: Scraper, _ pool: NIOThreadPool) {
    self.scraper = scraper
    self.pool = pool
  }

  func channelActive(context: ChannelHandlerContext) {
    setLimit(ExporterServer.transferTime, context.channel)
    context.fireChannelActive()
  }

  func channelInactive(context: ChannelHandlerContext) {
    limit?.cancel()
    context.fireChannelInactive()
  }

  /// Closes the connection after that time, unless another limit is set before.
  private func setLimit(_ time: TimeAmount, _ channel: any Channel) {
    limit?.cancel()
    limit = channel.eventLoop.scheduleTask(in: time) { channel.close(promise: nil) }
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    switch unwrapInboundIn(data) {
    case .head(let head):
      request = head
      bodyBytes = 0
      setLimit(ExporterServer.transferTime, context.channel)
    case .body(let bytes):
      bodyBytes += bytes.readableBytes
      if bodyBytes > ExporterServer.bodyBytesMax { context.close(promise: nil) }
    case .end:
      guard let request, context.channel.isActive else { return }
      self.request = nil
      limit?.cancel()
      answer(request, context.channel)
    }
  }

  private func answer(_ request: HTTPRequestHead, _ channel: any Channel) {
    switch request.method {
    case .GET, .HEAD: break
    case _: return write(.init(status: 405, body: "Only GET and HEAD are served.\n"), to: request, channel)
    }
    let path = String(request.uri.prefix { $0 != "?" })
    let scraper = scraper
    pool.runIfActive(eventLoop: channel.eventLoop) { scraper.answer(to: path) }.assumeIsolated().whenComplete {
      result in
      guard channel.isActive, case .success(let answer) = result else { return channel.close(promise: nil) }
      self.write(answer, to: request, channel)
    }
  }

  private func write(_ answer: Scraper.Answer, to request: HTTPRequestHead, _ channel: any Channel) {
    let body = ByteBuffer(string: answer.body)
    var headers = HTTPHeaders([
      ("Content-Type", answer.type), ("Content-Length", "\(body.readableBytes)"), ("Cache-Control", "no-store"),
      ("X-Content-Type-Options", "nosniff"),
    ])
    if answer.status == 405 { headers.add(name: "Allow", value: "GET, HEAD") }
    headers.add(name: "Connection", value: request.isKeepAlive ? "keep-alive" : "close")
    setLimit(ExporterServer.transferTime, channel)
    channel.write(
      HTTPServerResponsePart.head(
        HTTPResponseHead(version: .http1_1, status: .init(statusCode: answer.status), headers: headers)), promise: nil)
    if request.method != .HEAD { channel.write(HTTPServerResponsePart.body(.byteBuffer(body)), promise: nil) }
    channel.writeAndFlush(HTTPServerResponsePart.end(nil)).assumeIsolated().whenComplete { result in
      guard case .success = result, request.isKeepAlive else { return channel.close(promise: nil) }
      self.setLimit(ExporterServer.idleTime, channel)
    }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    context.close(promise: nil)
  }
}
