import Glibc
import NIOCore
import NIOPosix
import SidelockClient

/// The yardstick: a server that sends every line back as it is, over the same kind of socket and with the same event
/// library and number of threads as the daemon.
enum EchoServer {
  /// Serves at `path` until it is dismissed, and removes the socket and its directory then.
  static func serve(path: String) throws {
    HelperProcess.passOverSignals()
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let channel = try ServerBootstrap(group: group)
      .serverChannelOption(.backlog, value: 1024)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(EchoHandler()) }
      }
      .bind(unixDomainSocketPath: path)
      .wait()
    try HelperProcess.serveUntilDismissed()
    try channel.close().wait()
    HelperProcess.remove(socket: path)
    try group.syncShutdownGracefully()
  }
}

/// Sends whole lines back, all that one turn of the loop brought in one write.
private final class EchoHandler: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  private var rest = ByteBuffer()

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    var buffer = unwrapInboundIn(data)
    rest.writeBuffer(&buffer)
    while let end = rest.readableBytesView.firstIndex(of: 0x0A),
      let line = rest.readSlice(length: end - rest.readerIndex + 1)
    {
      context.write(wrapOutboundOut(line), promise: nil)
    }
    rest.discardReadBytes()
  }

  func channelReadComplete(context: ChannelHandlerContext) {
    context.flush()
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    context.close(promise: nil)
  }
}

/// The servers to measure beside the daemon, each in a process of its own, for as long as this object lives.
final class Yardsticks {
  /// Where the echo server listens, and the limit server, which grants everything at once.
  let echo: String
  let limit: String
  /// Where the clients of the limit server have one lock in common.
  let limitOfOne: String

  private let directory: String
  private let processes: [HelperProcess]

  init() throws(SidelockError) {
    var template = Array("/tmp/sidelock-bench-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else {
      throw SidelockError(
        reason: .noDaemon, message: "no servers to measure beside: mkdtemp: \(UnixSocket.describe(errno))")
    }
    directory = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    echo = directory + "/echo.sock"
    limit = directory + "/limit.sock"
    limitOfOne = LimitServer.pathOfOne(limit)
    processes = [
      try HelperProcess(bench: ["--echo-server", echo]), try HelperProcess(bench: ["--limit-server", limit]),
    ]
  }
}
