import SidelockClient

/// What the exporter answers. Each answer has a connection to the daemon of its own, and may take a while.
struct Scraper: Sendable {
  /// The daemon's socket, as ``ConnectionOptions/path`` gives it.
  let socket: String
  /// The locks that are told of by name.
  let locks: [String]
  /// How long the daemon may take for all of an answer.
  let milliseconds: Int64
  /// Whether it listens on the loopback: under another name it serves nobody then, as the name of another site may lead
  /// here (DNS rebinding), and its pages would read the answers.
  var isLoopback = false

  /// What there is to ask for, by its path without a query.
  enum Page: String, CaseIterable, Sendable {
    case metrics = "/metrics"
    case health = "/health"
    case ready = "/ready"

    /// The page that a request names: by its path, or by a whole URL, as it is sent to a proxy.
    init?(target: String) {
      var path = target.prefix { $0 != "?" }
      for scheme in ["http://", "https://"] where path.lowercased().hasPrefix(scheme) {
        path = path.dropFirst(scheme.count).drop { $0 != "/" }
      }
      self.init(rawValue: String(path))
    }
  }

  /// The answer to a GET.
  func answer(to page: Page) -> WebAnswer {
    switch page {
    case .metrics: metrics()
    case .health: verdict(isReadiness: false)
    case .ready: verdict(isReadiness: true)
    }
  }

  /// Says 200 without the daemon, too: Prometheus takes nothing from an answer that has another status.
  private func metrics() -> WebAnswer {
    var metrics: OpenMetrics
    do throws(SidelockError) {
      let daemon = try TimedConnection(socket: socket, milliseconds: milliseconds)
      let (server, document) = (try daemon.call("initialize"), try daemon.call("rpc.discover"))
      metrics = OpenMetrics(stats: try daemon.call("stats"), document: document, server: server)
      metrics.addUp(true)
      // Redis or another host may let them wait; the figures are here.
      let replies = daemon.replies(to: locks.map { ("inspect", ["name": .string($0)]) }, within: milliseconds / 2)
      metrics.add(replies.compactMap { $0.map { LockDescription($0) } })
    } catch {
      metrics = OpenMetrics()
      metrics.addUp(false, because: words(error))
    }
    return WebAnswer(
      status: 200, type: "application/openmetrics-text; version=1.0.0; charset=utf-8", text: metrics.text + "\n")
  }

  private func verdict(isReadiness: Bool) -> WebAnswer {
    var verdict: HealthCommand.Verdict
    do throws(SidelockError) {
      let daemon = try TimedConnection(socket: socket, milliseconds: milliseconds)
      if isReadiness {
        verdict = HealthCommand.Verdict(stats: try daemon.call("stats"), isReadiness: true)
      } else {
        _ = try daemon.call("ping")
        verdict = HealthCommand.Verdict(state: .ok, why: "the daemon answers")
      }
    } catch {
      verdict = HealthCommand.Verdict(state: .critical, why: words(error))
    }
    // A warning is about some parts of a Redis Cluster: in the others locks can be had.
    return WebAnswer(
      status: verdict.state == .critical ? 503 : 200, text: "\(verdict.state.rawValue): \(printable(verdict.why))\n")
  }

  private func words(_ error: SidelockError) -> String { printable(ErrorWords.text(error)) }
}

extension Scraper: WebSite {
  func plan(for request: WebRequest) -> WebPlan {
    switch request.method {
    case .GET, .HEAD: break
    case _: return .answer(.only("GET, HEAD"))
    }
    let hosts = request.headers["Host"]
    guard !isLoopback || hosts.isEmpty || hosts.count == 1 && ListenAddress.isLoopback(hostHeader: hosts[0]) else {
      return .answer(
        WebAnswer(
          status: 403,
          text: "This is served under the name localhost and loopback addresses alone, as it listens there alone.\n"))
    }
    guard let page = Page(target: request.target) else {
      return .answer(WebAnswer(status: 404, text: "There are /metrics, /health and /ready.\n"))
    }
    return .make(question: page.rawValue) { answer(to: page) }
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
