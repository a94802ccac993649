import Dispatch
import Foundation
import Logging
import NIOConcurrencyHelpers
import Testing

@testable import SystemdSupport

@Suite struct NotifierTests {
  /// Collects what a notifier sends; can be told to be stuck.
  private final class Manager: Sendable {
    private let lines = NIOLockedValueBox<[String]>([])
    private let gate = DispatchSemaphore(value: 0)
    private let entered = DispatchSemaphore(value: 0)
    private let isStuck: Bool

    init(isStuck: Bool = false) { self.isStuck = isStuck }

    var received: [String] { lines.withLockedValue { $0 } }

    func receive(_ text: String) {
      if isStuck {
        entered.signal()
        gate.wait()
      }
      lines.withLockedValue { $0.append(text) }
    }

    func waitUntilEntered() { entered.wait() }
    func release(_ times: Int) { for _ in 0..<times { gate.signal() } }
  }

  private func notifier(_ manager: Manager, isEnabled: Bool = true) -> Notifier {
    Notifier(
      isEnabled: isEnabled, watchdogIntervalMicroseconds: nil, clock: monotonicMilliseconds,
      send: { manager.receive($0) })
  }

  @Test func sendsInOrder() {
    let manager = Manager()
    let notifier = notifier(manager)
    notifier.ready(status: "Serving")
    #expect(notifier.flush(withinMilliseconds: 10_000))
    notifier.watchdogTick()
    #expect(notifier.flush(withinMilliseconds: 10_000))
    notifier.stopping()
    #expect(notifier.flush(withinMilliseconds: 10_000))
    #expect(manager.received == ["READY=1\nSTATUS=Serving", "WATCHDOG=1", "STOPPING=1"])
  }

  @Test func delayedStatusIsSentWithoutAnotherCall() async throws {
    let manager = Manager()
    // A clock that stands still until everything has been said: the second that must pass may be over sooner than that.
    let now = NIOLockedValueBox<UInt64>(0)
    let notifier = Notifier(
      isEnabled: true, watchdogIntervalMicroseconds: nil, clock: { now.withLockedValue { $0 } },
      send: { manager.receive($0) })
    notifier.status("1")
    #expect(notifier.flush(withinMilliseconds: 10_000))
    notifier.status("2")
    notifier.status("3")
    now.withLockedValue { $0 = 1000 }
    let limit = ContinuousClock.now + .seconds(60)
    while manager.received.count < 2 && ContinuousClock.now < limit { try await Task.sleep(for: .milliseconds(10)) }
    #expect(manager.received == ["STATUS=1", "STATUS=3"])
  }

  @Test func stuckManagerStopsNobodyAndPilesUpNothing() {
    let manager = Manager(isStuck: true)
    let notifier = notifier(manager)
    notifier.ready()
    manager.waitUntilEntered()
    for number in 0..<10_000 {
      notifier.watchdogTick()
      notifier.status("\(number)")
    }
    notifier.stopping(status: "Stopping")
    #expect(!notifier.flush(withinMilliseconds: 1))
    #expect(manager.received == [])
    manager.release(2)
    #expect(notifier.flush(withinMilliseconds: 10_000))
    #expect(manager.received == ["READY=1", "STOPPING=1\nWATCHDOG=1\nSTATUS=Stopping"])
  }

  @Test func reloadingIsToldBeforeReadyAndApartFromIt() {
    let manager = Manager(isStuck: true)
    let notifier = notifier(manager)
    notifier.watchdogTick()
    manager.waitUntilEntered()
    notifier.reloading()
    notifier.ready(status: "Serving")
    manager.release(3)
    #expect(notifier.flush(withinMilliseconds: 10_000))
    #expect(manager.received.count == 3)
    #expect(manager.received.dropFirst().first?.hasPrefix("RELOADING=1\nMONOTONIC_USEC=") == true)
    #expect(manager.received.last == "READY=1\nSTATUS=Serving")
  }

  @Test func aLongerStopIsAskedFor() {
    let manager = Manager()
    let notifier = notifier(manager)
    notifier.extendTimeout(microseconds: 7_500_000)
    #expect(notifier.flush(withinMilliseconds: 10_000))
    #expect(manager.received == ["EXTEND_TIMEOUT_USEC=7500000"])
  }

  @Test func pingsComeFromTheCallerOnly() {
    let manager = Manager()
    let notifier = notifier(manager)
    notifier.ready()
    notifier.status("1")
    #expect(notifier.flush(withinMilliseconds: 10_000))
    #expect(!manager.received.contains { $0.contains("WATCHDOG") })
  }

  @Test func withoutAServiceManagerNothingIsSent() {
    let manager = Manager()
    let notifier = notifier(manager, isEnabled: false)
    notifier.ready()
    notifier.watchdogTick()
    #expect(notifier.flush(withinMilliseconds: 10_000))
    #expect(manager.received == [])
  }
}

/// The real libsystemd against a real datagram socket. Each test has a process of its own, for its environment.
@Suite struct LibsystemdTests {
  /// A datagram socket that stands for the service manager.
  private final class NotifySocket {
    let descriptor: Int32
    let environmentName: String
    private let path: String?

    init(abstract: Bool) throws {
      let name = "sidelock-notify-\(UUID().uuidString)"
      path = abstract ? nil : FileManager.default.temporaryDirectory.appending(path: name).path
      environmentName = path ?? "@" + name
      descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0)
      var address = sockaddr_un()
      address.sun_family = sa_family_t(AF_UNIX)
      let bytes = path.map { Array($0.utf8) } ?? [0] + Array(name.utf8)
      withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
      let length = socklen_t(MemoryLayout<sa_family_t>.size + bytes.count + (abstract ? 0 : 1))
      let bound = withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, length) }
      }
      try #require(bound == 0)
      var timeout = timeval(tv_sec: 20, tv_usec: 0)
      setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit {
      close(descriptor)
      if let path { unlink(path) }
    }

    func receive() -> String? {
      var buffer = [UInt8](repeating: 0, count: 4096)
      let count = recv(descriptor, &buffer, buffer.count, 0)
      return count < 0 ? nil : String(decoding: buffer[..<count], as: UTF8.self)
    }
  }

  private static let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

  @Test func notificationsArriveAtAPath() async {
    await #expect(processExitsWith: .success) { try LibsystemdTests.expectNotifications(abstract: false) }
  }

  @Test func notificationsArriveAtAnAbstractSocket() async {
    await #expect(processExitsWith: .success) { try LibsystemdTests.expectNotifications(abstract: true) }
  }

  private static func expectNotifications(abstract: Bool) throws {
    let manager = try NotifySocket(abstract: abstract)
    setenv("NOTIFY_SOCKET", manager.environmentName, 1)
    let notifier = Notifier(logger: quiet)
    notifier.ready(status: "Serving é")
    try #require(manager.receive() == "READY=1\nSTATUS=Serving é")
    notifier.watchdogTick()
    try #require(manager.receive() == "WATCHDOG=1")
    notifier.stopping(status: "Stopping")
    try #require(manager.receive() == "STOPPING=1\nSTATUS=Stopping")
  }

  @Test func flushingWaitsUntilTheManagerHasRead() async {
    await #expect(processExitsWith: .success) {
      let manager = try NotifySocket(abstract: false)
      setenv("NOTIFY_SOCKET", manager.environmentName, 1)
      let notifier = Notifier(logger: LibsystemdTests.quiet)
      notifier.stopping()
      #expect(!notifier.flush(withinMilliseconds: 50))
      #expect(manager.receive() == "STOPPING=1")
      // Reading the barrier closes the descriptor that came with it.
      #expect(manager.receive() == "BARRIER=1")
    }
  }

  @Test func watchdogIntervalIsThatOfTheEnvironment() async {
    await #expect(processExitsWith: .success) {
      unsetenv("WATCHDOG_USEC")
      #expect(Notifier(logger: LibsystemdTests.quiet).watchdogIntervalMicroseconds == nil)
      setenv("WATCHDOG_USEC", "1500000", 1)
      setenv("WATCHDOG_PID", "\(getpid())", 1)
      #expect(Notifier(logger: LibsystemdTests.quiet).watchdogIntervalMicroseconds == 1_500_000)
      setenv("WATCHDOG_PID", "1", 1)
      #expect(Notifier(logger: LibsystemdTests.quiet).watchdogIntervalMicroseconds == nil)
    }
  }

  @Test func unreachableManagerIsLoggedOnce() async {
    await #expect(processExitsWith: .success) {
      setenv("NOTIFY_SOCKET", "/nonexistent/notify", 1)
      let written = Written()
      let output = LogOutput(format: .journal) { written.append($0) }
      let logger = Logger(label: "test") { _ in SidelockLogHandler(output: output, level: .info) }
      let notifier = Notifier(logger: logger)
      for _ in 0..<3 {
        notifier.watchdogTick()
        notifier.flush(withinMilliseconds: 10_000)
      }
      output.flush(withinMilliseconds: 10_000)
      #expect(written.text == "<3>cannot notify the service manager reason=\"No such file or directory\"\n")
    }
  }
}
