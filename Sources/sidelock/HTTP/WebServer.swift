import ArgumentParser
import Glibc
import NIOCore
import NIOHTTP1
import NIOPosix
import SidelockClient
import SystemStrings

/// HTTP for programs and people of this host. What a peer sends can neither end it nor keep it busy: requests are small and come in time,
/// answers are taken in time and one after the other, and there are few connections: when there are as many as there may be, one that
/// asks for nothing makes room for the next.
final class WebServer {
  /// Connections at a time.
  static let connectionsMax = 64
  /// Bytes of all header fields of a request.
  static let headerBytesMax = 8192
  /// Bytes of a request's body.
  static let bodyBytesMax = 8192
  /// Bytes that are read at a time. No more are read while an answer is due.
  static let readBytes = 2048
  /// Bytes that may come while an answer is due: at the end of its input, all that a peer has sent is read.
  static let aheadBytesMax = 8192
  /// How long a request may take to come, from its first byte on, and an answer to be taken.
  static let transferTime = TimeAmount.seconds(10)
  /// How long a connection may be silent between requests; longer than most intervals of scrapes.
  static let idleTime = TimeAmount.seconds(150)

  private let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
  private let channel: any Channel
  private let socket: ListenSocket?
  /// Where it listens, with the port that it was given.
  let address: ListenAddress

  /// Listens at `address`. Throws what the system says against it.
  ///
  /// - Parameter mode: the rights of a Unix socket.
  init(at address: ListenAddress, mode: mode_t, _ site: some WebSite) throws {
    let loop = group.next()
    let desk = NIOLoopBoundBox.makeBoxSendingValue(AnswerDesk(loop), as: AnswerDesk.self, eventLoop: loop)
    let bootstrap = ServerBootstrap(group: group)
      .serverChannelOption(.backlog, value: 128)
      .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
      .childChannelOption(.allowRemoteHalfClosure, value: true)
      .childChannelOption(.maxMessagesPerRead, value: 1)
      .childChannelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: Self.readBytes))
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          let desk = desk.value
          guard desk.makeRoom(max: Self.connectionsMax) else { throw TooManyConnections() }
          let handler = RequestHandler(desk, site, channel)
          desk.connections.append(handler)
          channel.closeFuture.assumeIsolated().whenComplete { _ in desk.connections.removeAll { $0 === handler } }
          var limits = NIOHTTPDecoderLimitConfiguration()
          limits.maxHeaderFieldSize = Self.headerBytesMax
          limits.maxHeaderListSize = Self.headerBytesMax
          limits.maxHeaderFieldCount = 64
          try channel.pipeline.syncOperations.addHandler(ArrivalHandler(handler))
          try channel.pipeline.syncOperations.configureHTTPServerPipeline(
            withEncoderConfiguration: .init(), withDecoderLimitConfiguration: limits)
          try channel.pipeline.syncOperations.addHandler(handler)
        }
      }
    switch address {
    case .internet(let host, let port):
      socket = nil
      channel = try bootstrap.bind(host: host, port: port).wait()
      self.address = .internet(host: host, port: channel.localAddress?.port ?? port)
    case .unix(let path):
      let socket = try ListenSocket(path: SystemText.bytes(path), mode: mode)
      self.socket = socket
      self.address = address
      channel = try bootstrap.withBoundSocket(socket.descriptor).wait()
    }
  }

  /// Takes no more connections, and removes its socket.
  func end() {
    try? channel.close().wait()
    socket?.remove()
  }

  private struct TooManyConnections: Error {}

  /// A server that listens. Says why there can be none, and throws the exit status.
  static func listening(at address: ListenAddress, mode: mode_t = 0o666, _ site: some WebSite) throws -> WebServer {
    do {
      return try WebServer(at: address, mode: mode, site)
    } catch {
      Descriptor.say("cannot listen on \(address): \(words(error))")
      throw ExitCode(ExitStatus.software)
    }
  }

  private static func words(_ error: any Error) -> String {
    switch error {
    case let error as IOError: UnixSocket.describe(error.errnoCode)
    case let error as SocketAddressError.UnknownHost:
      "--listen names a host that is not known (\(error.errorDescription)); give an address, such as 127.0.0.1"
    case _: "\(error)"
    }
  }
}

/// Tells of bytes before they are a request.
private final class ArrivalHandler: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer
  typealias InboundOut = ByteBuffer

  private let requests: RequestHandler

  init(_ requests: RequestHandler) {
    self.requests = requests
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    if requests.bytesCame(unwrapInboundIn(data).readableBytes, context.channel) {
      context.fireChannelRead(data)
    } else {
      context.close(promise: nil)
    }
  }
}

/// One connection: requests one after the other, each with a time by which it has come. The next one is not looked at
/// before the answer to the last is on its way.
private final class RequestHandler: ChannelInboundHandler, WebConnection {
  typealias InboundIn = HTTPServerRequestPart

  private enum Phase {
    /// Nothing has come since the last answer.
    case idle
    /// A request is coming.
    case receiving
    /// It has come, and its answer is made or taken.
    case answering
  }

  private let desk: AnswerDesk
  private let site: any WebSite
  private var phase = Phase.receiving
  private var request: HTTPRequestHead?
  private var body: [UInt8] = []
  /// What has come while an answer was due.
  private var aheadBytes = 0
  private var isInputClosed = false
  private var limit: Scheduled<Void>?
  private let channel: any Channel
  private(set) var isSilent = true

  init(_ desk: AnswerDesk, _ site: any WebSite, _ channel: any Channel) {
    self.desk = desk
    self.site = site
    self.channel = channel
  }

  var isAskingNothing: Bool {
    switch phase {
    case .idle, .receiving: true
    case .answering: false
    }
  }

  func shed() { channel.close(promise: nil) }

  func channelActive(context: ChannelHandlerContext) {
    setLimit(WebServer.transferTime, context.channel)
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

  /// Bytes have come, and are handed on after this; false if they are too many.
  func bytesCame(_ count: Int, _ channel: any Channel) -> Bool {
    isSilent = false
    switch phase {
    case .idle: receive(channel)
    case .receiving: break
    case .answering: aheadBytes += count
    }
    return aheadBytes <= WebServer.aheadBytesMax
  }

  private func receive(_ channel: any Channel) {
    phase = .receiving
    aheadBytes = 0
    setLimit(WebServer.transferTime, channel)
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    switch unwrapInboundIn(data) {
    case .head(let head):
      // One that came together with the last has not been announced.
      if phase == .idle { receive(context.channel) }
      request = head
      body = []
    case .body(let bytes):
      if body.count + bytes.readableBytes > WebServer.bodyBytesMax { return context.close(promise: nil) }
      body += bytes.readableBytesView
    case .end:
      guard let request, context.channel.isActive else { return }
      self.request = nil
      limit?.cancel()
      phase = .answering
      answer(request, context.channel)
    }
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    guard case .inputClosed? = event as? ChannelEvent else { return context.fireUserInboundEventTriggered(event) }
    isInputClosed = true
    switch phase {
    case .idle, .receiving: context.close(promise: nil)
    case .answering: break
    }
  }

  private func answer(_ head: HTTPRequestHead, _ channel: any Channel) {
    let request = WebRequest(method: head.method, target: head.uri, headers: head.headers, body: body)
    body = []
    switch site.plan(for: request) {
    case .answer(let answer): write(answer, to: head, channel)
    case .make(let question, let make):
      desk.ask(question, channel, make: make) { answer in
        guard let answer else { return channel.close(promise: nil) }
        self.write(answer, to: head, channel)
      }
    }
  }

  private func write(_ answer: WebAnswer, to request: HTTPRequestHead, _ channel: any Channel) {
    let body = ByteBuffer(bytes: answer.body)
    var headers = HTTPHeaders([
      ("Content-Type", answer.type), ("Content-Length", "\(body.readableBytes)"), ("Cache-Control", "no-store"),
      ("X-Content-Type-Options", "nosniff"),
    ])
    for (name, value) in answer.headers { headers.add(name: name, value: value) }
    let isLast = !request.isKeepAlive || isInputClosed || answer.endsConnection
    headers.add(name: "Connection", value: isLast ? "close" : "keep-alive")
    setLimit(WebServer.transferTime, channel)
    let head = HTTPServerResponsePart.head(
      HTTPResponseHead(version: .http1_1, status: .init(statusCode: answer.status), headers: headers))
    channel.write(head, promise: nil)
    // Nothing is written of an empty body.
    let bytes = request.method == .HEAD ? ByteBuffer() : body
    channel.writeAndFlush(HTTPServerResponsePart.body(.byteBuffer(bytes))).assumeIsolated().whenComplete { result in
      guard case .success = result, !isLast, !self.isInputClosed else { return channel.close(promise: nil) }
      self.phase = .idle
      self.setLimit(WebServer.idleTime, channel)
      // No bytes of its own. Requests that came with this one are let in by it.
      channel.writeAndFlush(HTTPServerResponsePart.end(nil), promise: nil)
    }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    context.close(promise: nil)
  }
}
