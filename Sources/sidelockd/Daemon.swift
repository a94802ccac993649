import Glibc
import Logging
import Sidecar
import SidelockSettings
import SystemdSupport

/// What the daemon runs.
protocol Service: AnyObject, Sendable {
  /// Serves until it was told to stop, or cannot go on.
  func run() throws
  /// Asks `run()` to stop and return. From any thread, at any time.
  func requestStop()
  /// Asks `run()` to return, and to leave what clients have to the daemon that follows, which will have these settings;
  /// nil: it will not start. From any thread, at any time.
  func requestHandOver(to settings: Settings?)
  /// Takes over what can change while it runs; nil: nothing could be used. `note` is for the status line. From any
  /// thread, at any time.
  func reload(_ settings: Settings?, note: String?)
}

/// The name of the daemon's socket in its unit (`FileDescriptorName=`).
private let socketName = "sidelock"

/// Runs the daemon until it stops.
///
/// - Returns: the exit status.
func runDaemon(_ settings: Settings, resolution: SettingsResolution, inputs: SettingsInputs) -> Int32 {
  // Before any other thread exists, because threads inherit what is blocked, and share the environment.
  let signals = StopSignals()
  let handedOver = Result { try HandedOverSockets.takeAll() }

  let output = LogOutput()
  output.install(level: settings.logLevel)
  let logger = Logger(label: "sidelockd")
  let notifier = Notifier(logger: logger)
  defer {
    output.flush(withinMilliseconds: 1000)
    notifier.flush(withinMilliseconds: 1000)
  }
  raiseFileLimit()

  var left = LeftDescriptors([])
  do {
    let descriptors = try HandedOverSockets.split(handedOver.get(), prefixes: LeftDescriptors.namePrefixes)
    left = LeftDescriptors(descriptors.matching)
    let listener = try HandedOverSockets.listener(named: socketName, among: descriptors.others)
    let service = try makeService(
      settings, listeningDescriptor: listener, left: left, notifier: notifier, logger: logger)
    let reloader = Reloader(
      settings, resolution: resolution, inputs: inputs, output: output, notifier: notifier, logger: logger)
    signals.listen { [weak service] meaning, name in
      switch meaning {
      case .stop:
        logger.info("stopping", metadata: ["signal": "\(name)"])
        service?.requestStop()
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
    left.disconnect()
    logger.critical(
      "another daemon has the socket", metadata: ["socket": "\(error.path)", "owner": "\(error.owner)"])
    return ExitStatus.socketInUse
  } catch {
    left.disconnect()
    logger.critical("failed", metadata: ["error": "\(error)"])
    return ExitStatus.failure
  }
}

/// Ends the connections of clients that a daemon before this one left, because this one does not start.
func disconnectLeftClients() {
  guard let all = try? HandedOverSockets.takeAll() else { return }
  LeftDescriptors(HandedOverSockets.split(all, prefixes: LeftDescriptors.namePrefixes).matching).disconnect()
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
