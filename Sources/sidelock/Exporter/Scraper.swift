import SidelockClient

/// What the exporter answers. Each answer has a connection to the daemon of its own, and may take a while.
struct Scraper: Sendable {
  /// The daemon's socket, as ``ConnectionOptions/path`` gives it.
  let socket: String
  /// The locks that are told of by name.
  let locks: [String]
  /// How long the daemon may take for all of an answer.
  let milliseconds: Int64

  /// An answer to one request.
  struct Answer: Equatable, Sendable {
    var status: Int
    var type = "text/plain; charset=utf-8"
    var body: String
  }

  /// The answer to a GET; `path` is without a query.
  func answer(to path: String) -> Answer {
    switch path {
    case "/metrics": metrics()
    case "/health": verdict(isReadiness: false)
    case "/ready": verdict(isReadiness: true)
    case _: Answer(status: 404, body: "There are /metrics, /health and /ready.\n")
    }
  }

  private func metrics() -> Answer {
    do throws(SidelockError) {
      let daemon = try Timed(self)
      let (server, document) = (try daemon.call("initialize"), try daemon.call("rpc.discover"))
      var metrics = OpenMetrics(stats: try daemon.call("stats"), document: document, server: server)
      metrics.addUp(true)
      var found: [LockDescription] = []
      for name in locks {
        if let lock = try Self.look(at: name, daemon) { found.append(lock) }
      }
      metrics.add(found)
      return answer(200, metrics)
    } catch {
      var metrics = OpenMetrics()
      metrics.addUp(false, because: words(error))
      return answer(503, metrics)
    }
  }

  private func answer(_ status: Int, _ metrics: OpenMetrics) -> Answer {
    Answer(
      status: status, type: "application/openmetrics-text; version=1.0.0; charset=utf-8", body: metrics.text + "\n")
  }

  /// A lock; nil where its rules keep it from this user, or Redis has something else under its name.
  private static func look(at name: String, _ daemon: Timed) throws(SidelockError) -> LockDescription? {
    do throws(SidelockError) {
      return LockDescription(try daemon.call("inspect", ["name": .string(name)]))
    } catch {
      switch error.reason {
      case .noAnswer, .connectionLost, .shuttingDown: throw error
      case _: return nil
      }
    }
  }

  private func verdict(isReadiness: Bool) -> Answer {
    var verdict: HealthCommand.Verdict
    do throws(SidelockError) {
      let daemon = try Timed(self)
      if isReadiness {
        verdict = HealthCommand.Verdict(stats: try daemon.call("stats"), isReadiness: true)
      } else {
        _ = try daemon.call("ping")
        verdict = HealthCommand.Verdict(state: .ok, why: "the daemon answers")
      }
    } catch {
      verdict = HealthCommand.Verdict(state: .critical, why: words(error))
    }
    return Answer(
      status: verdict.state == .ok ? 200 : 503, body: "\(verdict.state.rawValue): \(printable(verdict.why))\n")
  }

  private func words(_ error: SidelockError) -> String { printable(ErrorWords.text(error)) }

  /// A connection whose calls together take no longer than told.
  private struct Timed {
    private let daemon: DaemonConnection
    private let end: ContinuousClock.Instant

    init(_ scraper: Scraper) throws(SidelockError) {
      end = .now + .milliseconds(scraper.milliseconds)
      daemon = try DaemonConnection(socket: scraper.socket, within: scraper.milliseconds)
    }

    func call(_ method: String, _ params: JSONValue? = nil) throws(SidelockError) -> JSONValue {
      try daemon.call(method, params, within: max(1, Int64((end - .now) / .milliseconds(1))))
    }
  }
}

extension OpenMetrics {
  /// Tells whether the daemon answers, and why not.
  mutating func addUp(_ isUp: Bool, because words: String = "") {
    add(
      Family(
        name: "sidelock_up", type: "gauge", unit: "",
        help: "1 while the daemon answers, and otherwise 0" + (words.isEmpty ? "" : ": \(words)")),
      [("", [], isUp ? "1" : "0")])
  }

  /// Tells of locks by their names.
  mutating func add(_ locks: [LockDescription]) {
    guard !locks.isEmpty else { return }
    func add(_ name: String, unit: String = "", _ help: String, _ value: (LockDescription) -> String) {
      self.add(
        Family(name: "sidelock_lock_\(name)", type: "gauge", unit: unit, help: help),
        locks.map { ("", [("lock", $0.name)], value($0)) })
    }
    add("held", "how many hold the lock, on all hosts that this one knows of") {
      "\(max(Int64($0.holders.count), $0.holding))"
    }
    add("waiters", "how many wait for it on this host") { "\($0.waiting)" }
    add("hold_age_seconds", unit: "seconds", "for how long it has been held by who has had it for longest") { lock in
      let age = max(0, lock.heldMilliseconds)
      return "\(Double(age) / 1000)"
    }
  }
}
