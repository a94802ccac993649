import DaemonSettings
import Glibc
import LockEngine
import LockTypes
import Logging
import NIOCore
import NIOPosix
import Testing

@testable import Sidecar
@testable import SystemdSupport

/// What a daemon before left, as its memory and the connections of its clients.
private struct Left {
  private static let cookieOption: CInt = 57
  let memory: StateMemory
  let log: StateLog
  /// The clients' ends of their connections.
  private(set) var clients: [SessionID: CInt] = [:]
  private var daemons: [SessionID: CInt] = [:]

  init() throws {
    memory = try #require(StateMemory(bytes: 1 << 24))
    log = try #require(StateLog(memory: memory.bytes))
    var settings = Settings()
    settings.host = "a"
    try log.put(
      StateLog.Key(kind: SavedRecordKind.identity, id: 0),
      SavedIdentity(instance: "0123456789abcdef", settings).encode())
  }

  /// A client that is connected.
  mutating func client(_ id: SessionID, _ change: (inout SavedSession) -> Void = { _ in }) throws {
    var ends: [CInt] = [-1, -1]
    try #require(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0)
    (daemons[id], clients[id]) = (ends[0], ends[1])
    var cookie: UInt64 = 0
    var bytes = socklen_t(MemoryLayout<UInt64>.size)
    try #require(getsockopt(ends[0], SOL_SOCKET, Self.cookieOption, &cookie, &bytes) == 0)
    var session = SavedSession(id: id, cookie: cookie)
    change(&session)
    try log.put(StateLog.Key(kind: SavedRecordKind.session, id: id.rawValue), session.encode())
  }

  func note(output: [UInt8], for id: SessionID) throws {
    try output.withUnsafeBytes { try log.noteOutput(id.rawValue, $0) }
  }
  func note(input: String, of id: SessionID) throws {
    try Array(input.utf8).withUnsafeBytes { try log.noteInput(id.rawValue, $0) }
  }

  func daemon() throws -> SavedDaemon {
    var daemon = try SavedDaemon(memory)
    daemon.connections = daemons
    return daemon
  }
}

/// What the next daemon would find at the end of each turn: the input of its sessions.
private final class Found {
  var inputs: [[SessionID: String]] = []

  func look(at memory: StateMemory) {
    guard let copy = StateMemory(owning: dup(memory.descriptor)), let state = try? SavedDaemon(copy) else { return }
    var found: [SessionID: [UInt8]] = [:]
    for session in state.sessions.values { found[session.id] = session.unreadInput }
    for input in state.inputs { found[input.session, default: []] += input.bytes }
    inputs.append(found.mapValues { String(decoding: $0, as: UTF8.self) })
  }
}

/// How a daemon goes on with what was left: `Takeover`.
@Suite struct TakeoverTests {
  private struct Parts: @unchecked Sendable {
    let predecessor: SavedDaemon
    let store: DescriptorStore
    let listener: ListeningSocket
    let configuration: SidecarConfiguration
    let found = Found()
  }

  /// The next daemon may be killed, too, before it has dealt with what the one before took from a socket. That one
  /// client does not read must not cost another one its request.
  @Test func inputThatWasTakenIsLeftUntilItIsDealtWith() throws {
    var left = try Left()
    let (behind, asking) = (SessionID(1), SessionID(2))
    try left.client(behind)
    try left.client(asking)
    try left.note(output: [UInt8](repeating: 0x20, count: 1 << 21), for: behind)
    try left.log.commit(counters: [2, 0, 0, 0, 0, 0])
    let request = #"{"id":7,"method":"ping"}"# + "\n"
    try left.note(input: request, of: asking)

    var template = Array("/tmp/sidelock-takeover-XXXXXX".utf8CString)
    let directory = try #require(mkdtemp(&template).map { String(cString: $0) })
    let manager = try datagramSocket(at: "\(directory)/notify")
    var settings = Settings()
    settings.socketPath = "\(directory)/socket"
    settings.host = "a"
    let parts = Parts(
      predecessor: try left.daemon(),
      store: try #require(DescriptorStore(notifySocket: "\(directory)/notify", capacity: 100)),
      listener: try ListeningSocket(path: settings.socketPath, mode: 0o600),
      configuration: SidecarConfiguration(settings: settings, version: "1"))
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let loop = group.next()
    let life = try loop.flatSubmit {
      let life = Lifecycle(
        configuration: parts.configuration, loop: loop, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
        notifier: Notifier(isEnabled: false, watchdogIntervalMicroseconds: nil, clock: { 0 }, send: { _ in }),
        predecessor: parts.predecessor, store: parts.store)
      let goOn = life.core.onTurnEnd
      life.core.onTurnEnd = {
        parts.found.look(at: parts.predecessor.memory)
        goOn()
      }
      let bound = NIOLoopBound(life, eventLoop: loop)
      return life.start(on: parts.listener, predecessor: parts.predecessor).map { bound }
    }.wait()

    var reply: [UInt8] = []
    var byte: UInt8 = 0
    while read(try #require(left.clients[asking]), &byte, 1) == 1, byte != 0x0A { reply.append(byte) }
    #expect(String(decoding: reply, as: UTF8.self).contains(#""id":7"#))
    let inputs = try loop.submit {
      _ = life; return parts.found.inputs
    }.wait()
    #expect(inputs.first?[asking] == request)
    // Once it is answered nothing of it is left.
    for _ in 0..<12_000 {
      if try loop.submit({ parts.found.inputs.last?[asking] }).wait() == "" { break }
      usleep(5000)
    }
    #expect(try loop.submit { parts.found.inputs.last?[asking] }.wait() == "")

    // What belongs to the loop must not end on this thread beside it.
    try withExtendedLifetime(life) { try group.syncShutdownGracefully() }
    for client in left.clients.values { close(client) }
    close(manager)
    for name in ["socket", "socket.lock", "notify"] { unlink("\(directory)/\(name)") }
    rmdir(directory)
  }
}
