import DaemonSettings
import Glibc
import Logging
import Sidecar
import SidelockSettings
import SystemdSupport
import SystemStrings

/// What the daemon runs.
protocol Service: AnyObject, Sendable {
  /// Serves until it was told to stop, or cannot go on.
  func run() throws
  /// Asks `run()` to give everything back and return. From any thread, at any time.
  func requestStop()
  /// Asks `run()` to return when nobody has said whether a daemon follows: leaves clients and locks to one with these
  /// settings (nil: this one's), or gives everything back where that is impossible. From any thread, at any time.
  func requestEnd(before settings: Settings?)
  /// Asks `run()` to leave clients and locks to the next daemon, which has these settings (nil: this one's), and to
  /// return. From any thread, at any time.
  func requestHandOver(to settings: Settings?)
  /// Takes over what can change while it runs; nil: nothing could be used. `note` is for the status line. From any
  /// thread, at any time.
  func reload(_ settings: SettingsInForce?, note: String?)
}

/// The name of the daemon's socket in its unit (`FileDescriptorName=`).
private let socketName = "sidelock"

/// What the service manager handed over at the start.
struct HandedOver {
  /// What it kept of the daemon before.
  var left = LeftDescriptors([])
  /// Sockets, or why they are unknown.
  var others: Result<[HandedOverDescriptor], any Error> = .success([])

  /// Takes it. To be called once, before there are other threads, as it changes the environment.
  static func taken() -> HandedOver {
    do {
      let split = HandedOverSockets.split(try HandedOverSockets.takeAll(), prefixes: LeftDescriptors.namePrefixes)
      return HandedOver(left: LeftDescriptors(split.matching), others: .success(split.others))
    } catch {
      return HandedOver(others: .failure(error))
    }
  }

  /// The socket for clients; nil when there is none.
  func listener() throws -> Int32? { try HandedOverSockets.listener(named: socketName, among: others.get()) }
}

/// Runs the daemon until it stops.
///
/// - Parameters:
///   - found: what the settings say now. When that is wrong, `inForce` are those of the daemon before.
///   - inputs: what the settings are made from.
/// - Returns: the exit status.
func runDaemon(
  _ inForce: SettingsInForce, found: SettingsResolution, inputs: SettingsInputs, handedOver: HandedOver
) -> Int32 {
  raiseFileLimit()
  if let shortage = DescriptorShortage() { return refuseToStart(shortage, handedOver) }
  let settings = inForce.settings
  // Before any other thread exists, because threads inherit what is blocked.
  let signals = StopSignals()

  let output = LogOutput()
  output.install(level: settings.live.logLevel)
  let logger = Logger(label: "sidelockd")
  let notifier = Notifier(logger: logger)
  defer {
    output.flush(withinMilliseconds: 1000)
    notifier.flush(withinMilliseconds: 1000)
  }

  for warning in found.warnings {
    logger.warning("settings are good, but for this", metadata: ["reason": "\(warning.description)"])
  }
  for problem in found.problems {
    logger.critical(
      "settings are wrong, and those of before stay in force",
      metadata: ["setting": "\(problem.setting ?? "")", "problem": "\(problem.description)"])
  }
  let left = handedOver.left
  do {
    let note =
      found.problems.isEmpty
      ? nil : "settings are wrong, those of before are in force until a reload: \(found.firstProblem)"
    let service = try makeService(
      inForce, note: note, listeningDescriptor: handedOver.listener(), left: left, notifier: notifier, logger: logger)
    let reloader = Reloader(inForce, inputs: inputs.again, output: output, notifier: notifier, logger: logger)
    let isStoreOffered = DescriptorStore.isOffered
    signals.listen { [weak service] meaning, name in
      switch meaning {
      case .stop:
        logger.info("stopping", metadata: ["signal": "\(name)"])
        service?.requestStop()
      case .end:
        logger.info("stopping", metadata: ["signal": "\(name)"])
        // Without a store they are not needed, and reading them may take long.
        if isStoreOffered { service?.requestEnd(before: reloader.readAgain()) } else { service?.requestStop() }
      case .handOver: service?.requestHandOver(to: reloader.readAgain())
      case .reload: if let service { reloader.reload(service) }
      case .unknown: logger.notice("a signal that means nothing here", metadata: ["signal": "\(name)"])
      case .same, .endAtOnce: break
      }
    }
    try service.run()
    logger.info("stopped")
    return ExitStatus.stopped
  } catch let error as SocketInUse {
    left.disconnectUnlessOfUse()
    logger.critical(
      "another daemon has the socket",
      metadata: ["socket": "\(SystemText.shown(error.path))", "owner": "\(error.owner)"])
    return ExitStatus.socketInUse
  } catch let error as LocalTokensUnavailable {
    logger.critical("tokens might not rise", metadata: ["reason": "\(error)"])
    switch error.remedy {
    case .otherDaemon, .attempt: left.disconnectUnlessOfUse()
    case .repair: return giveUp(handedOver, because: "the file of its tokens cannot be used, and its log says why")
    }
    return error.remedy == .otherDaemon ? ExitStatus.tokensInUse : ExitStatus.failure
  } catch {
    left.disconnectUnlessOfUse()
    logger.critical("failed", metadata: ["error": "\(error)"])
    return ExitStatus.failure
  }
}

/// Every client is a descriptor, and the soft limit is usually 1024.
func raiseFileLimit() {
  var limit = rlimit()
  guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
  if limit.rlim_cur < limit.rlim_max {
    limit.rlim_cur = limit.rlim_max
    setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
  }
}
