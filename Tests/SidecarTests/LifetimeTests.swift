import DaemonSettings
import Glibc
import LockEngine
import Logging
import NIOCore
import Testing

@testable import Sidecar
@testable import SystemdSupport

/// How long what the event loop works with lives.
@Suite struct LifetimeTests {
  /// What is looked at without being kept.
  private struct Watched {
    weak var core: SidecarCore?
    weak var engine: LockEngine?
    weak var keeper: SessionKeeper?
    weak var sessions: SessionTable?
    weak var output: TurnOutput?
    weak var door: EngineDoor?
    weak var peers: PeerDirectory?
    weak var input: ClientInput?
    weak var router: RequestRouter?
    weak var queries: LockQueries?
    weak var registry: ClientRegistry?

    init(_ core: SidecarCore) {
      self.core = core
      engine = core.engine
      keeper = core.keeper
      sessions = core.sessions
      output = core.output
      door = core.door
      peers = core.parts.peers
      input = core.parts.input
      router = core.parts.router
      queries = core.parts.queries
      registry = core.parts.registry
    }

    var alive: [String] {
      let all: [(String, AnyObject?)] = [
        ("core", core), ("engine", engine), ("keeper", keeper), ("sessions", sessions), ("output", output),
        ("door", door), ("peers", peers), ("input", input), ("router", router), ("queries", queries),
        ("registry", registry),
      ]
      return all.compactMap { $0.1 == nil ? nil : $0.0 }
    }
  }

  @Test(arguments: [false, true]) func aCoreThatIsDroppedFreesItsParts(_ isUsed: Bool) throws {
    func used() throws -> Watched {
      let host = try TestSidecar(keeping: true, managerReads: true)
      if isUsed {
        let a = try host.connect("a")
        try a.acquire("x")
        host.endTurn()
        try host.grant("x")
        host.endTurn()
      }
      let watched = Watched(host.core)
      #expect(watched.alive.count == 11)
      return watched
    }
    #expect(try used().alive == [])
  }

  private final class Weak: @unchecked Sendable {
    weak var life: Lifecycle?
    init(_ life: Lifecycle?) { self.life = life }
  }

  /// The loop goes round until the process ends, and may have something to do for what is on it.
  @Test func whatTheLoopWorksWithIsThereUntilTheProcessEnds() throws {
    var template = Array("/tmp/sidelock-life-XXXXXX".utf8CString)
    let directory = try #require(mkdtemp(&template).map { String(cString: $0) })
    defer { rmdir(directory) }
    // Nobody can listen to it, so that the start fails when everything else is there.
    let descriptor = try datagramSocket(at: "\(directory)/socket")
    var settings = Settings()
    settings.backend = .local
    settings.host = "a"
    var sidecar: Sidecar? = try Sidecar(
      configuration: SidecarConfiguration(settings: settings, listeningDescriptor: descriptor, version: "1"),
      notifier: Notifier(isEnabled: false, watchdogIntervalMicroseconds: nil, clock: { 0 }, send: { _ in }),
      logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
    let loop = try #require(sidecar?.loop)
    #expect(throws: (any Error).self) { try sidecar?.run() }
    let box = try #require(sidecar?.life)
    let watched = try loop.submit { Weak(box.value) }.wait()
    try loop.submit { box.value = nil }.wait()
    sidecar = nil
    try loop.submit {}.wait()
    let isThere = try loop.submit { watched.life != nil }.wait()
    #expect(isThere)
    unlink("\(directory)/socket")
  }
}
