import ArgumentParser
import SidelockClient

struct HealthCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "health",
    abstract: "Tell in one line and by the exit status whether the daemon is well.",
    discussion: """
      For monit, Nagios, Kubernetes and scripts. Without an option the daemon is well when it answers, also while it \
      has lost Redis: then it keeps what can be kept, and a restart would help nobody. So ask without an option \
      whether to restart it (liveness), and with --ready whether locks can be had now (readiness).

      EXIT STATUS
        0     it is well
        1     Redis answers, but grants nothing: it refuses, or has other data than
              before and waits for a while (--redis); or so in some parts of a Redis
              Cluster alone, or these are not served (--redis, --ready)
        2     it does not answer, or what was asked for is not so
        64    wrong usage

      EXAMPLES
        sidelock health
        sidelock health --redis --timeout 2
        sidelock health --ready
      """)

  @OptionGroup var connection: ConnectionOptions

  @Flag(help: "Ask whether the daemon has Redis, too.")
  var redis = false

  @Flag(help: "Ask whether locks are granted now.")
  var ready = false

  @Option(help: ArgumentHelp("How long to wait for the answer.", valueName: "time"))
  var timeout = TimeSpan(argument: "5")

  func validate() throws {
    guard try timeout.checked("--timeout") > 0 else {
      throw ValidationError("--timeout must be greater than 0.")
    }
  }

  func run() throws {
    let verdict = try look(within: timeout.checked("--timeout"))
    try Descriptor.print("\(verdict.state.rawValue): \(verdict.why)")
    if verdict.state != .ok { throw ExitCode(verdict.state.exitStatus) }
  }

  private func look(within limit: Int64) throws -> Verdict {
    let clock = ContinuousClock()
    let start = clock.now
    do {
      let daemon = try connection.open(within: limit)
      let left = { max(1, limit - Int64((clock.now - start) / .milliseconds(1))) }
      guard redis || ready else {
        _ = try daemon.call("ping", within: left())
        return Verdict(state: .ok, why: "the daemon answers")
      }
      return Verdict(stats: try daemon.call("stats", within: left()), isReadiness: ready)
    } catch {
      return Verdict(state: .critical, why: printable(error.message))
    }
  }

  /// How the daemon is, and why that is so.
  struct Verdict: Equatable {
    enum State: String {
      case ok = "OK"
      case warning = "WARNING"
      case critical = "CRITICAL"

      /// The exit statuses of Nagios' plugins.
      var exitStatus: Int32 {
        switch self {
        case .ok: 0
        case .warning: 1
        case .critical: 2
        }
      }
    }

    var state: State
    var why: String
  }
}

extension HealthCommand.Verdict {
  /// What the figures of `stats` say of Redis. `isReadiness`: what counts is whether locks are granted.
  init(stats: JSONValue, isReadiness: Bool) {
    guard let redis = stats["redis"] else {
      self.init(state: .ok, why: "the daemon answers; locks are of this host alone, without Redis")
      return
    }
    let unserved = unservedParts(redis["cluster"])
    if redis["connected"]?.intValue != 1 {
      self.init(
        state: .critical,
        why: ErrorWords.ofRedis("the daemon answers, but cannot use Redis", redis["down_reason"]?.stringValue))
    } else if let unserved, redis["cluster"]?["parts_unserved"]?.intValue == partsOfCluster {
      self.init(state: isReadiness ? .critical : .warning, why: unserved)
    } else if let refusal = redis["refused"]?.stringValue {
      self.init(
        state: isReadiness ? .critical : .warning,
        why: ErrorWords.ofRedis("the daemon answers, but Redis refuses locks", refusal))
    } else if let unserved {
      // In the other parts locks can be had.
      self.init(state: .warning, why: unserved)
    } else if let grace = GraceWords(redis) {
      self.init(state: isReadiness && grace.parts == nil ? .critical : .warning, why: grace.text)
    } else {
      self.init(
        state: .ok, why: "the daemon answers, and Redis within \(redis["round_trip_ms"]?.intValue ?? 0) ms")
    }
  }
}
