import Glibc
import SidelockClient

/// From the end of a holder, or its release, to the next grant; on one host or from one host to another.
final class DeathScenarios {
  private let socket: String
  private let otherSocket: String?
  /// How often.
  private let rounds: Int
  /// A connection to each daemon for `inspect`. They stay open, since closing one would give the daemon work first.
  private var observers: [String: BenchClient] = [:]

  init(socket: String, otherSocket: String?, rounds: Int) {
    self.socket = socket
    self.otherSocket = otherSocket
    self.rounds = rounds
  }

  /// A holder's process is killed, or its socket closed, while another client of the same daemon waits.
  func crash(progress: (Double) -> Void) throws(SidelockError) -> [Figures] {
    let killed = try afterKill(from: socket, to: socket, { progress($0 / 2) })
    var closed: [UInt32] = []
    for round in 0..<rounds {
      progress(0.5 + Double(round) / Double(rounds) / 2)
      let name = BenchLine.name("close-\(round)")
      var holder: BenchClient? = try BenchClient(path: socket)
      try holder?.exchange(BenchLine.acquire(name))
      let waiter = try queue(name, from: socket, to: socket)
      let start = BenchClock.now()
      holder = nil
      try waiter.takeResult()
      closed.append(UInt32(clamping: BenchClock.now() - start))
    }
    return [
      Figures(scenario: .crash, clients: 2, measured: "SIGKILL to grant", latencies: Latencies(killed)),
      // The kernel's part of it, before any daemon can know.
      Figures(scenario: .crash, clients: 1, measured: "SIGKILL to closed socket", latencies: Latencies(try ends())),
      Figures(scenario: .crash, clients: 2, measured: "close to grant", latencies: Latencies(closed)),
    ]
  }

  /// A client of one daemon releases, or its process is killed, while a client of the other waits. The lock goes back
  /// and forth.
  func crossHost(progress: (Double) -> Void) throws(SidelockError) -> [Figures] {
    guard let otherSocket else { return [] }
    let sockets = [socket, otherSocket]
    let name = BenchLine.name("cross-host")
    let clients = [try BenchClient(path: socket), try BenchClient(path: otherSocket)]
    let acquire = BenchLine.acquire(name)
    let release = BenchLine.release(name)
    var times: [UInt32] = []
    try clients[0].exchange(acquire)
    for round in 0..<rounds {
      progress(Double(round) / Double(rounds) / 2)
      let from = round % 2
      let to = 1 - from
      try clients[to].send(acquire)
      try settle(name, sockets: [sockets[to], sockets[from]])
      let start = BenchClock.now()
      try clients[from].send(release)
      try clients[to].takeResult()
      times.append(UInt32(clamping: BenchClock.now() - start))
      try clients[from].takeResult()
    }
    try clients[rounds % 2].exchange(release)
    let killed = try afterKill(from: socket, to: otherSocket, { progress(0.5 + $0 / 2) })
    return [
      Figures(scenario: .crossHost, clients: 2, measured: "release to grant", latencies: Latencies(times)),
      Figures(scenario: .crossHost, clients: 2, measured: "SIGKILL to grant", latencies: Latencies(killed)),
    ]
  }

  /// From the SIGKILL of a holder for which nobody waits to the end of its descriptors.
  private func ends() throws(SidelockError) -> [UInt32] {
    var times: [UInt32] = []
    for round in 0..<min(rounds, 100) {
      let holder = try LockHolder(BenchLine.name("end-\(round)"), socket: socket)
      let start = BenchClock.now()
      holder.kill()
      try holder.waitUntilClosed()
      times.append(UInt32(clamping: BenchClock.now() - start))
    }
    return times
  }

  private func afterKill(
    from: String, to: String, _ progress: (Double) -> Void
  ) throws(SidelockError) -> [UInt32] {
    var times: [UInt32] = []
    for round in 0..<rounds {
      progress(Double(round) / Double(rounds))
      let name = BenchLine.name("kill-\(round)")
      let holder = try LockHolder(name, socket: from)
      let waiter = try queue(name, from: from, to: to)
      let start = BenchClock.now()
      holder.kill()
      try waiter.takeResult()
      times.append(UInt32(clamping: BenchClock.now() - start))
    }
    return times
  }

  /// A client that waits for the lock, and both daemons know it.
  private func queue(_ name: String, from: String, to: String) throws(SidelockError) -> BenchClient {
    let waiter = try BenchClient(path: to)
    try waiter.send(BenchLine.acquire(name))
    try settle(name, sockets: from == to ? [to] : [to, from])
    return waiter
  }

  /// Waits until these daemons know of earlier requests: an `inspect` follows those on each one's connection to Redis.
  private func settle(_ name: String, sockets: [String]) throws(SidelockError) {
    for (index, socket) in sockets.enumerated() {
      let client = try observer(at: socket)
      var tries = 0
      // The daemon that the waiter is at may not have read its line when this comes.
      while true {
        let lock = try client.call("inspect", ["name": .string(name)])
        if index > 0 || (lock["waiting"]?.intValue ?? 0) > 0 { break }
        tries += 1
        guard tries < 10_000 else {
          throw SidelockError(reason: .protocolViolation, message: "the daemon does not let a client wait for \(name)")
        }
      }
    }
  }

  private func observer(at socket: String) throws(SidelockError) -> BenchClient {
    if let client = observers[socket] { return client }
    let client = try BenchClient(path: socket)
    observers[socket] = client
    return client
  }
}
