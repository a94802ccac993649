import CSupervise
import Glibc
import SidelockClient

/// Clients that compete for one lock: each holds it for a time, pauses, and wants it again. One thread plays them all,
/// with a timer for each.
final class ContendedScenario {
  private enum State {
    case pausing(until: UInt64)
    case waiting(since: UInt64)
    case holding(since: UInt64, until: UInt64)
  }

  private let clients: [BenchClient]
  private var states: [State]
  private var served: [Int]
  private let acquire: [UInt8]
  private let release: [UInt8]
  private let holdNanoseconds: UInt64
  private let pauseNanoseconds: UInt64

  private var holder: Int?
  private var firstGrantAt: UInt64?
  private var heldNanoseconds: UInt64 = 0
  /// When the lock was released though somebody waited for it.
  private var releasedAt: UInt64?
  private var waits: [UInt32] = []
  private var handovers: [UInt32] = []

  /// The clients are spread evenly over the sockets.
  init(sockets: [String], clients count: Int, holdNanoseconds: UInt64, pauseNanoseconds: UInt64)
    throws(SidelockError)
  {
    var clients: [BenchClient] = []
    for index in 0..<count { clients.append(try BenchClient(path: sockets[index % sockets.count])) }
    self.clients = clients
    states = Array(repeating: .pausing(until: 0), count: count)
    served = Array(repeating: 0, count: count)
    let name = BenchLine.name("contended-\(sockets.count)")
    acquire = BenchLine.acquire(name)
    release = BenchLine.release(name)
    self.holdNanoseconds = holdNanoseconds
    self.pauseNanoseconds = pauseNanoseconds
  }

  func run(nanoseconds: UInt64) throws(SidelockError) {
    Self.sharpenTimers()
    let start = BenchClock.now()
    let end = start + nanoseconds
    // Not all at once: the first waits are as any others.
    for index in states.indices { states[index] = .pausing(until: start + UInt64(index) * 100_000) }
    let epoll = epoll_create1(CInt(EPOLL_CLOEXEC))
    defer { close(epoll) }
    for (index, client) in clients.enumerated() {
      var event = epoll_event()
      event.events = EPOLLIN.rawValue
      event.data.u32 = UInt32(index)
      epoll_ctl(epoll, EPOLL_CTL_ADD, client.descriptor, &event)
    }
    var events = [epoll_event](repeating: epoll_event(), count: 64)
    var lastProgressAt = start
    while true {
      let now = BenchClock.now()
      guard now < end else { return finish(at: end) }
      guard now - lastProgressAt < UInt64(BenchClient.answerSecondsMax) * 1_000_000_000 else {
        throw SidelockError(reason: .protocolViolation, message: "nobody had the lock for 30 s")
      }
      try actWhatIsDue(now: now)
      let deadline = min(end, states.map(Self.deadline).min() ?? end)
      let wait = deadline - min(deadline, BenchClock.now())
      var timeout = timespec(tv_sec: Int(wait / 1_000_000_000), tv_nsec: Int(wait % 1_000_000_000))
      let count = epoll_pwait2(epoll, &events, CInt(events.count), &timeout, nil)
      for event in events[..<Int(max(0, count))] {
        let index = Int(event.data.u32)
        guard try clients[index].takeAvailableResults() else { continue }
        lastProgressAt = BenchClock.now()
        try granted(index, now: lastProgressAt)
      }
    }
  }

  /// The kernel may let a timer be late by 50 µs, which would lengthen each hold.
  private static func sharpenTimers() {
    let descriptor = open("/proc/self/timerslack_ns", O_WRONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return }
    try? Descriptor.write("1", to: descriptor)
    close(descriptor)
  }

  private static func deadline(_ state: State) -> UInt64 {
    switch state {
    case .pausing(let until), .holding(_, let until): until
    case .waiting: .max
    }
  }

  private func actWhatIsDue(now: UInt64) throws(SidelockError) {
    for index in states.indices where Self.deadline(states[index]) <= now {
      switch states[index] {
      case .pausing:
        states[index] = .waiting(since: BenchClock.now())
        try clients[index].send(acquire)
      case .holding(let since, _):
        holder = nil
        let now = BenchClock.now()
        heldNanoseconds += now - since
        states[index] = .pausing(until: now + pauseNanoseconds)
        let somebodyWaits = states.contains { if case .waiting = $0 { true } else { false } }
        releasedAt = somebodyWaits ? now : nil
        try clients[index].send(release)
      case .waiting: break
      }
    }
  }

  private func granted(_ index: Int, now: UInt64) throws(SidelockError) {
    guard holder == nil, case .waiting(let since) = states[index] else {
      throw SidelockError(reason: .protocolViolation, message: "the daemon granted a lock that is held")
    }
    holder = index
    if firstGrantAt == nil { firstGrantAt = now }
    served[index] += 1
    waits.append(UInt32(clamping: now - since))
    if let releasedAt { handovers.append(UInt32(clamping: now - releasedAt)) }
    states[index] = .holding(since: now, until: now + holdNanoseconds)
  }

  private var windowNanoseconds: UInt64 = 0

  private func finish(at end: UInt64) {
    guard let firstGrantAt, firstGrantAt < end else { return }
    windowNanoseconds = end - firstGrantAt
    if let holder, case .holding(let since, _) = states[holder] { heldNanoseconds += end - min(since, end) }
  }

  /// The part of the time that somebody had the lock.
  var shareHeld: Double { min(1, Double(heldNanoseconds) / Double(max(1, windowNanoseconds))) }

  /// - Parameter place: where it was, for people; nil: at one daemon.
  func figures(usage: DaemonUsage, at place: String?) -> [Figures] {
    let grants = served.reduce(0, +)
    let suffix = place.map { ", \($0)" } ?? ""
    var handover = Figures(
      scenario: .contended, clients: clients.count, measured: "hand-over\(suffix)", latencies: Latencies(handovers))
    handover.take(usage, cycles: grants)
    let wait = Figures(
      scenario: .contended, clients: clients.count, measured: "wait\(suffix)", latencies: Latencies(waits),
      perSecond: Double(grants) * 1e9 / Double(max(1, windowNanoseconds)))
    handover.add("share_held", shareHeld, digits: 3, "part of the time that the lock was held\(suffix)")
    let fairness = Double(served.min() ?? 0) / Double(max(1, served.max() ?? 0))
    handover.add(
      "fairness", fairness, digits: 3, "grants of the least served client by those of the best served\(suffix)")
    return [handover, wait]
  }
}
