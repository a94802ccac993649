import CSupervise
import Glibc
import NIOCore
import NIOPosix
import SidelockClient

/// The yardstick: a server that sends every line back as it is, over the same kind of socket and with the same event
/// library and number of threads as the daemon.
enum EchoServer {
  /// Serves at `path` until standard input ends, and removes the socket and its directory then. Says `ready` on
  /// standard output once it listens.
  static func serve(path: String) throws {
    // Ctrl-C is for the benchmark, whose end is ours, too; then there is still something to remove.
    signal(SIGINT, SIG_IGN)
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let channel = try ServerBootstrap(group: group)
      .serverChannelOption(.backlog, value: 1024)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(EchoHandler()) }
      }
      .bind(unixDomainSocketPath: path)
      .wait()
    Descriptor.print("ready")
    while try Descriptor.read(STDIN_FILENO)?.isEmpty == false {}
    try channel.close().wait()
    unlink(path)
    if let end = path.lastIndex(of: "/") { rmdir(String(path[..<end])) }
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

/// An echo server in a process of its own, for as long as this object lives.
final class EchoProcess {
  /// Where it listens.
  let path: String
  private var process: pid_t = 0
  private let lifeline: CInt

  init() throws(SidelockError) {
    var template = Array("/tmp/sidelock-bench-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw Self.failure("mkdtemp") }
    path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self) + "/echo.sock"
    var ends: [CInt] = [0, 0]
    guard socketpair(AF_UNIX, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
      throw Self.failure("socketpair")
    }
    lifeline = ends[0]

    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDIN_FILENO)
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO)
    let words: [String] = ["sidelock", "bench", "--echo-server", path]
    var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) }
    arguments.append(nil)
    defer { for argument in arguments { free(argument) } }
    let result = posix_spawn(&process, "/proc/self/exe", &actions, nil, arguments, supervise_environment())
    close(ends[1])
    guard result == 0 else { throw SidelockError(reason: .noDaemon, message: "no echo server: posix_spawn: \(result)") }
    guard try Descriptor.read(lifeline)?.isEmpty == false else {
      throw SidelockError(reason: .noDaemon, message: "the echo server did not start")
    }
  }

  private static func failure(_ call: String) -> SidelockError {
    SidelockError(reason: .noDaemon, message: "no echo server: \(call): \(UnixSocket.describe(errno))")
  }

  deinit {
    // Its standard input ends, and so does it.
    close(lifeline)
    waitpid(process, nil, 0)
  }
}
