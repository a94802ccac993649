// A core without a process, a socket or Redis: on an embedded event loop, with a clock that moves when it is told to, a store that is
// a list, and clients whose channels are lists.

import DaemonSettings
import Glibc
import LockEngine
import LockTypes
import Logging
import NIOCore
import NIOEmbedded
import RESP
import Synchronization
import Testing

@testable import Sidecar
@testable import SystemdSupport

/// A clock that a test moves.
final class ManualClock: Sendable {
  private let nanoseconds = Atomic<Int64>(1_000_000_000_000)
  /// How far it goes on by itself whenever somebody reads it, in nanoseconds.
  private let step = Atomic<Int64>(0)

  var hostClock: HostClock {
    HostClock(
      now: { BootInstant(nanoseconds: self.read()) }, wallMicroseconds: { 1_000_000_000_000_000 })
  }

  private func read() -> Int64 {
    let step = step.load(ordering: .relaxed)
    return nanoseconds.add(step, ordering: .relaxed).newValue
  }

  func advance(milliseconds: Int64) { nanoseconds.add(milliseconds * 1_000_000, ordering: .relaxed) }

  func goOn(by nanoseconds: Int64) { step.store(nanoseconds, ordering: .relaxed) }
}

/// What left the core, in its order.
final class Journal {
  /// One line for what a client was written at once, or what the store was sent.
  var lines: [String] = []
  /// Called before something leaves.
  var onLine: () -> Void = {}

  func add(_ line: String) {
    onLine()
    lines.append(line)
  }
}

/// A store that takes whatever it is given, and answers when the test does.
final class FakeStore: LeaseStore {
  func loginMayHaveChanged() {}
  struct Command {
    var id: CommandID
    var command: LeaseCommand
    var user: UInt32?
  }

  private let journal: Journal
  private var submitted: [Command] = []
  /// What was sent.
  private(set) var sent: [Command] = []
  /// Questions that wait for the test's answer.
  var inspections: [(names: [LockName], completion: StoreCompletion<[LockInspection]>)] = []
  var calls: [(payload: [UInt8], id: UInt64, inbox: String, completion: (Int64?) -> Void)] = []
  var answers: [[UInt8]] = []
  private(set) var isStopped = false

  init(journal: Journal) { self.journal = journal }

  var isReady = true
  var downReason: String?
  var hasAnswered = true
  var isUrgent = false
  var hasOnlyReleases: Bool { !submitted.isEmpty && !isUrgent }
  var waitingCount = 0
  var refusedLease: String?
  var waitingMemory: [UInt32: Int] = [:]
  func waitingMemory(of user: UInt32?) -> Int { user.flatMap { waitingMemory[$0] } ?? 0 }
  var statistics = LinkStatistics()
  var sentinelStanding: SentinelStanding?
  var clusterStanding: ClusterStanding?
  var timeoutMilliseconds: Int64 = 1000

  func start() {}
  func stop() { isStopped = true }

  func flush() {
    isUrgent = false
    guard !submitted.isEmpty else { return }
    journal.add("store: " + submitted.map { Self.word($0.command) }.joined(separator: ", "))
    sent += submitted
    submitted = []
  }

  /// The next `reserve` that was sent and not taken before.
  func takeReservation() -> Command? {
    let place = sent.firstIndex { if case .reserve = $0.command { true } else { false } }
    return place.map { sent.remove(at: $0) }
  }

  func submit(_ command: LeaseCommand, id: CommandID, to shard: ShardID, of user: UInt32?) {
    submitted.append(Command(id: id, command: command, user: user))
    switch command {
    case .release: break
    case .acquire, .downgrade, .reserve, .renew, .answerInUse, .heartbeat, .checkPlaces, .clock, .look, .hostMessage,
      .confirmEpoch, .reclaim:
      isUrgent = true
    }
  }

  private static func word(_ command: LeaseCommand) -> String {
    switch command {
    case .acquire(let name, _, _, _, _, _, _, _, _): "acquire \(name)"
    case .release(let name, _, _, _, _): "release \(name)"
    case .downgrade: "downgrade"
    case .reserve: "reserve"
    case .renew: "renew"
    case .confirmEpoch: "confirm"
    case .reclaim: "reclaim"
    case .answerInUse: "answerInUse"
    case .heartbeat: "heartbeat"
    case .checkPlaces: "checkPlaces"
    case .clock: "clock"
    case .look: "look"
    case .hostMessage: "tell"
    }
  }

  /// Questions for replicas that nobody has answered or forgotten.
  private(set) var acknowledgements: [AcknowledgementID: ReplicaNeed] = [:]
  func acknowledge(_ id: AcknowledgementID, of shard: ShardID, _ need: ReplicaNeed, until: BootInstant) {
    acknowledgements[id] = need
  }
  func forgetAcknowledgement(_ id: AcknowledgementID, of shard: ShardID) { acknowledgements[id] = nil }

  func key(of other: OtherData, in name: LockName) -> [UInt8] { Array("key of \(name)".utf8) }

  func inspect(
    _ names: [LockName], waitingHostsMax: Int, of user: UInt32?,
    _ completion: @escaping StoreCompletion<[LockInspection]>
  ) { inspections.append((names, completion)) }

  func page(
    at cursor: [UInt8], namePrefix: [UInt8], of user: UInt32?, _ completion: @escaping StoreCompletion<LockPage>
  ) { completion(.none) }

  /// Questions for the hosts that listen.
  var hostQuestions: [StoreCompletion<[String]>] = []
  func hosts(of user: UInt32?, _ completion: @escaping StoreCompletion<[String]>) { hostQuestions.append(completion) }

  func info(of user: UInt32?, _ completion: @escaping StoreCompletion<String>) { completion(.none) }
  func keyPrefixes(of user: UInt32?, _ completion: @escaping StoreCompletion<[String]>) { completion(.none) }

  func foreignValue(of name: LockName, of user: UInt32?, _ completion: @escaping StoreCompletion<ForeignValue?>) {
    completion(.none)
  }

  func takeAway(
    _ name: LockName, seen: [[UInt8]], token: Token?, terms: GrantTerms, of user: UInt32?,
    _ completion: @escaping StoreCompletion<[TakenLease]>
  ) { completion(.none) }

  func call(_ payload: [UInt8], id: UInt64, inbox: String, _ completion: @escaping (Int64?) -> Void) {
    calls.append((payload, id, inbox, completion))
  }

  func answer(_ payload: [UInt8], id: UInt64, inbox: String) { answers.append(payload) }

  func ping(_ completion: @escaping (_ isAnswered: Bool) -> Void) { completion(true) }
}

/// Writes down what a client is sent, and holds it back where the client does not read.
private final class Wire: ChannelOutboundHandler {
  typealias OutboundIn = ByteBuffer
  private let name: String
  private let journal: Journal
  var text = ""
  /// The size of each buffer.
  var pieces: [Int] = []
  var isStalled = false

  init(name: String, journal: Journal) {
    self.name = name
    self.journal = journal
  }

  func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    let buffer = unwrapOutboundIn(data)
    if buffer.readableBytes > 0 {
      let lines = String(buffer: buffer)
      journal.add("\(name): " + lines.split(separator: "\n").map(Self.word).joined(separator: ", "))
      text += lines
      pieces.append(buffer.readableBytes)
    }
    context.write(data, promise: promise)
  }

  func flush(context: ChannelHandlerContext) {
    if !isStalled { context.flush() }
  }

  func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
    // What was held back goes nowhere; its promises are kept all the same.
    context.flush()
    context.close(mode: mode, promise: promise)
  }

  /// The kind of a message: the method of a notification, `result` or the name of an error, with its id.
  private static func word(_ line: Substring) -> String {
    if let method = line.firstMatch(of: #/"method":"(\w+)"/#) { return String(method.1) }
    let id = line.firstMatch(of: #/"id":("?\w+"?)/#).map { String($0.1) } ?? "?"
    guard line.contains("\"error\"") else { return "result \(id)" }
    return (line.firstMatch(of: #/"reason":"(\w+)"/#).map { String($0.1) } ?? "error") + " \(id)"
  }
}

/// A client of a core.
final class TestClient {
  let channel: EmbeddedChannel
  private let wire: Wire

  fileprivate init(
    _ name: String, uid: UInt32?, _ core: SidecarCore, _ journal: Journal, _ loop: EmbeddedEventLoop
  ) throws {
    wire = Wire(name: name, journal: journal)
    // A process that cannot be seen, of which nothing is looked up.
    let peer = uid.map { Peer(pid: 0, uid: $0, gid: $0) }
    channel = EmbeddedChannel(
      handlers: [wire, ClientChannelHandler(registry: core.parts.registry, input: core.parts.input) { _ in peer }],
      loop: loop)
    channel.connect(to: try SocketAddress(unixDomainSocketPath: "/nowhere"), promise: nil)
    loop.run()
  }

  /// Sends lines; the turn is not over before the loop runs.
  func send(_ lines: String...) throws {
    try channel.writeInbound(ByteBuffer(string: lines.map { $0 + "\n" }.joined()))
  }

  func acquire(_ name: String, id: Int = 1, more: String = "") throws {
    try send(#"{"id":\#(id),"method":"acquire","params":{"name":"\#(name)"\#(more)}}"#)
  }

  func release(_ name: String, id: Int) throws {
    try send(#"{"id":\#(id),"method":"release","params":{"name":"\#(name)"}}"#)
  }

  func ping(id: Int) throws { try send(#"{"id":\#(id),"method":"ping"}"#) }

  /// What it was sent, all of it.
  var text: String { wire.text }
  /// The same in bytes of each buffer.
  var pieces: [Int] { wire.pieces }

  /// The client does not read any more.
  func stall() {
    wire.isStalled = true
    channel.isWritable = false
    channel.pipeline.fireChannelWritabilityChanged()
  }

  /// The client does not read any more, and the connection has room for more.
  func stallSilently() { wire.isStalled = true }

  /// The client reads again.
  func read() {
    wire.isStalled = false
    channel.flush()
    channel.isWritable = true
    channel.pipeline.fireChannelWritabilityChanged()
  }

  /// Whether the daemon reads from it.
  var isReadFrom: Bool {
    let options = channel.options.filter { $0.option is ChannelOptions.Types.AutoReadOption }
    let values = options.compactMap { $0.value as? Bool }
    return values.last ?? true
  }

  var isConnected: Bool { channel.isActive }
}

/// A core, and all that it has to do with.
final class TestSidecar {
  let loop = EmbeddedEventLoop()
  let clock = ManualClock()
  let journal = Journal()
  let store: FakeStore
  let life: Lifecycle
  var core: SidecarCore { life.core }
  private var clients: [TestClient] = []
  private(set) var isStopped = false
  private var manager: ManagerSocket?

  /// - Parameters:
  ///   - isLocal: whether locks are of this host alone; the store is not used then.
  ///   - keeping: whether it keeps what must outlive the process.
  ///   - tokens: the tokens to give when locks are of this host alone; nil: by the clock.
  ///   - managerReads: whether there is a service manager that takes what it is handed.
  ///   - places: how many descriptors it keeps.
  ///   - stateBytes: how much memory there is for what must outlive the process.
  init(
    isLocal: Bool = false, keeping: Bool = false, managerReads: Bool = false, places: Int = 100,
    stateBytes: Int64 = 1 << 22,
    stage: LifeStage.Stage = .serving, tokens: LocalTokenReservation? = nil,
    configure: (inout Settings) -> Void = { _ in }
  ) throws {
    var settings = Settings()
    settings.backend = isLocal ? .local : .redis(try RedisURL(parsing: "redis://localhost"))
    settings.host = "a"
    settings.live.engine.lingerMilliseconds = 0
    configure(&settings)
    var configuration = SidecarConfiguration(settings: settings, version: "1")
    configuration.stateBytes = stateBytes
    store = FakeStore(journal: journal)
    if managerReads { manager = try ManagerSocket() }
    let descriptors = keeping ? DescriptorStore(notifySocket: manager?.path ?? "/nowhere", capacity: places) : nil
    life = Lifecycle(
      configuration: configuration, loop: loop, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
      notifier: Notifier(isEnabled: false, watchdogIntervalMicroseconds: nil, clock: { 0 }, send: { _ in }),
      store: descriptors, tokens: tokens, clock: clock.hostClock)
    life.onStopped = { [weak self] in self?.isStopped = true }
    life.handover.standStill = {}
    // Its loop is no other thread's.
    core.parts.peers.beside = { _, _ in }
    core.parts.audit.users.beside = { _, _ in }
    life.stages.stage = stage
    guard !isLocal else { return }
    core.store = store
    core.heard(.up)
    loop.run()
    answerAll()
    journal.lines = []
  }

  deinit {
    for client in clients where client.isConnected { client.channel.close(promise: nil) }
    try? loop.syncShutdownGracefully()
  }

  /// - Parameter uid: nil: whose process it is is not known.
  func connect(_ name: String, uid: UInt32? = nil) throws -> TestClient {
    let client = try TestClient(name, uid: uid, core, journal, loop)
    clients.append(client)
    return client
  }

  /// Ends the turn.
  func endTurn() { loop.run() }

  /// The timer has fired, and the turn ends.
  func timerFires() {
    core.timerFired()
    loop.run()
  }

  /// `client` gets the lock; the journal begins anew.
  func hold(_ name: String, by client: TestClient) throws {
    try client.acquire(name)
    endTurn()
    try grant(name)
    endTurn()
    journal.lines = []
  }

  /// The store grants the lease that was asked for, which is the last one of that name.
  func grant(_ name: String, token: Int64 = 100) throws {
    let command = try #require(
      store.sent.last {
        if case .acquire(LockName(bytes: Array(name.utf8)), _, _, _, _, _, _, _, _) = $0.command { return true }
        return false
      })
    core.heard(.reply(command.id, .granted(LeaseGrant(token: token, tokenCount: 64, othersWait: false))))
  }

  /// What is asked when the link is up has an answer.
  private func answerAll() {
    for command in store.sent {
      switch command.command {
      case .clock: core.heard(.reply(command.id, .clock(StoreInstant(microseconds: 1))))
      case .heartbeat, .release, .downgrade, .answerInUse, .hostMessage: core.heard(.reply(command.id, .done))
      case .confirmEpoch: core.heard(.reply(command.id, .epoch(.ofTests)))
      case .acquire, .reserve, .renew, .checkPlaces, .look, .reclaim: break
      }
    }
    loop.run()
  }

  /// What would outlive the process if it ended now.
  func kept() throws -> SavedDaemon {
    let memory = try #require(core.keeper?.memory)
    return try SavedDaemon(#require(StateMemory(owning: dup(memory.descriptor))), now: clock.hostClock.now())
  }
}

/// A datagram socket that is bound to this path.
func datagramSocket(at path: String) throws -> CInt {
  let descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0)
  var address = sockaddr_un()
  address.sun_family = sa_family_t(AF_UNIX)
  withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
  let result = withUnsafePointer(to: &address) { pointer in
    pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
      bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
    }
  }
  try #require(result == 0)
  return descriptor
}

/// The socket of a service manager that takes whatever it is handed and reads nothing of it.
private final class ManagerSocket {
  private let directory: String
  private let descriptor: CInt
  var path: String { "\(directory)/notify" }

  init() throws {
    var template = Array("/tmp/sidelock-core-XXXXXX".utf8CString)
    directory = try #require(mkdtemp(&template).map { String(cString: $0) })
    descriptor = try datagramSocket(at: "\(directory)/notify")
  }

  deinit {
    close(descriptor)
    unlink(path)
    rmdir(directory)
  }
}

extension EpochSight {
  /// An epoch that is open.
  static let ofTests = EpochSight(
    id: EpochID(number: 1, text: "1:h/0123456789abcdef:1"), isOpen: true, graceMilliseconds: 10_000,
    longestLeaseMilliseconds: 10_000, tokenFloor: 0, clock: StoreInstant(microseconds: 1))
}
