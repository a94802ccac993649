import DaemonSettings
import Glibc
import LockEngine
import Logging
import NIOCore
import NIOPosix
import Testing

@testable import Sidecar
@testable import SystemdSupport

/// A sidecar on a loop of its own, with a service manager that takes whatever it is handed.
private final class Host {
  let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
  let life: NIOLoopBound<Lifecycle>
  private let directory: String
  private let manager: CInt
  private let path: String

  init(stateBytes: Int64) throws {
    var template = Array("/tmp/sidelock-keeper-XXXXXX".utf8CString)
    directory = try #require(mkdtemp(&template).map { String(cString: $0) })
    path = "\(directory)/socket"
    let notifyPath = "\(directory)/notify"
    let manager = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0)
    self.manager = manager
    try Self.withAddress(notifyPath) { try #require(bind(manager, $0, $1) == 0) }
    var settings = Settings()
    settings.socketPath = path
    settings.host = "a"
    var configuration = SidecarConfiguration(settings: settings, version: "1")
    configuration.stateBytes = stateBytes
    let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
    let notifier = Notifier(isEnabled: false, watchdogIntervalMicroseconds: nil, clock: { 0 }, send: { _ in })
    let store = try #require(DescriptorStore(notifySocket: notifyPath, capacity: 100))
    let listener = try ListeningSocket(path: path, mode: 0o600)
    let loop = group.next()
    let parts = UncheckedParts(configuration, logger, notifier, store, listener)
    life = try loop.flatSubmit {
      let life = Lifecycle(
        configuration: parts.configuration, loop: loop, logger: parts.logger, notifier: parts.notifier,
        store: parts.store)
      let bound = NIOLoopBound(life, eventLoop: loop)
      return life.start(on: parts.listener).map { bound }
    }.wait()
  }

  private struct UncheckedParts: @unchecked Sendable {
    let configuration: SidecarConfiguration
    let logger: Logger
    let notifier: Notifier
    let store: DescriptorStore
    let listener: ListeningSocket

    init(_ a: SidecarConfiguration, _ b: Logger, _ c: Notifier, _ d: DescriptorStore, _ e: ListeningSocket) {
      (configuration, logger, notifier, store, listener) = (a, b, c, d, e)
    }
  }

  deinit {
    try? group.syncShutdownGracefully()
    close(manager)
    for name in ["socket", "socket.lock", "notify"] { unlink("\(directory)/\(name)") }
    rmdir(directory)
  }

  private static func withAddress(_ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) throws -> Void) rethrows
  {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
    try withUnsafePointer(to: &address) { pointer in
      try pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        try body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
  }

  func connect() throws -> CInt {
    let client = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    try Self.withAddress(path) { try #require(Glibc.connect(client, $0, $1) == 0) }
    return client
  }

  func write(_ text: String, to client: CInt) {
    var bytes = Array(text.utf8)[...]
    while !bytes.isEmpty {
      let count = bytes.withUnsafeBytes { Glibc.write(client, $0.baseAddress, $0.count) }
      guard count > 0 else {
        Issue.record("a client cannot write")
        return
      }
      bytes = bytes.dropFirst(count)
    }
  }

  /// Sends a request, and waits for the line that answers it.
  func ask(_ request: String, _ client: CInt) -> String {
    write(request + "\n", to: client)
    var line: [UInt8] = []
    var byte: UInt8 = 0
    while read(client, &byte, 1) == 1, byte != 0x0A { line.append(byte) }
    return String(decoding: line, as: UTF8.self)
  }

  func onLoop<Result: Sendable>(_ body: @escaping @Sendable (SidecarCore) -> Result) throws -> Result {
    let life = life
    return try group.next().submit { body(life.value.core) }.wait()
  }

  func wait(_ what: Comment, until condition: @escaping @Sendable (SidecarCore) -> Bool) throws {
    for _ in 0..<12_000 {
      if try onLoop(condition) { return }
      usleep(5000)
    }
    Issue.record(what)
  }
}

@Suite struct SessionKeeperTests {
  /// What was too much does not cost those who come later that they outlive a restart.
  @Test func withRoomAgainEverythingIsKeptAnew() throws {
    let host = try Host(stateBytes: 1 << 20)
    let clients = try (0..<8).map { _ in try host.connect() }
    defer { for client in clients { close(client) } }
    for (index, client) in clients.enumerated() {
      #expect(host.ask(#"{"id":1,"method":"acquire","params":{"name":"lock/\#(index)"}}"#, client).contains("result"))
    }
    #expect(try host.onLoop { $0.keeper?.isUsable } == true)
    // Half a line of each is more than there is room for.
    for client in clients { host.write(String(repeating: " ", count: 60_000), to: client) }
    try host.wait("no room") { $0.keeper?.isUsable == false }
    // Locks work as ever, and who comes now is kept later.
    let late = try host.connect()
    defer { close(late) }
    #expect(host.ask(#"{"id":1,"method":"acquire","params":{"name":"late"}}"#, late).contains("result"))
    // The longest line is over, or has room no more: either way nothing of it is kept.
    for client in clients { _ = host.ask(#"{"id":2,"method":"ping"}"#, client) }
    try host.wait("room again") { $0.keeper?.isUsable == true }
    #expect(host.ask(#"{"id":2,"method":"acquire","params":{"name":"later"}}"#, late).contains("result"))
    let names = try host.onLoop { core -> [String] in
      guard let memory = core.keeper?.memory, let copy = StateMemory(owning: dup(memory.descriptor)),
        let state = try? SavedDaemon(copy)
      else { return [] }
      return state.sessions.count == core.sessions.count ? state.engine.heldNames : []
    }
    #expect(names.sorted() == ((0..<8).map { "lock/\($0)" } + ["late", "later"]).sorted())
  }
}
