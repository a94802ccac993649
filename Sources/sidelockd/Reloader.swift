import DaemonSettings
import Logging
import NIOConcurrencyHelpers
import SidelockSettings
import SystemdSupport

/// Reads the settings again when it is asked to, and has the daemon take over what can change while it runs.
///
/// All or nothing: with any problem the old settings stay in force. Reads neither on the event loop nor on the signals'
/// thread, as reading a file, or asking who a user is, may block for ever.
final class Reloader: Sendable {
  /// How long a hand-over waits for the settings, in milliseconds: the daemon is about to be stopped.
  static let handOverMilliseconds = 1000

  private let state: NIOLockedValueBox<SettingsInForce>
  private let reading = BlockingWork()
  /// A read was asked for that has not begun.
  private let isAsked = NIOLockedValueBox(false)
  private let inputs: SettingsInputs
  private let output: LogOutput
  private let notifier: Notifier
  private let logger: Logger

  /// - Parameters:
  ///   - inForce: the settings that the daemon has.
  ///   - inputs: what settings are made from in a daemon that serves.
  init(
    _ inForce: SettingsInForce, inputs: SettingsInputs, output: LogOutput, notifier: Notifier, logger: Logger
  ) {
    state = NIOLockedValueBox(inForce)
    self.inputs = inputs
    self.output = output
    self.notifier = notifier
    self.logger = logger
  }

  /// Reads the settings, and tells the service and the service manager the outcome. Requests during a read lead to one
  /// more read after it, however many they are.
  func reload(_ service: any Service) {
    let isNew = isAsked.withLockedValue { isAsked in
      defer { isAsked = true }
      return !isAsked
    }
    guard isNew else { return }
    if reading.isBusy { logger.notice("the settings are still being read, and are read again afterwards") }
    // A service that has ended has nobody to tell.
    let isStarted = reading.start { [self, weak service] in
      isAsked.withLockedValue { $0 = false }
      if let service { read(for: service) }
    }
    guard !isStarted else { return }
    isAsked.withLockedValue { $0 = false }
    logger.error("settings not reloaded", metadata: ["setting": "", "problem": "there is no thread to read them in"])
    notifier.reloading()
    service.reload(nil, note: "settings not reloaded: there is no thread to read them in")
  }

  private func read(for service: any Service) {
    notifier.reloading()
    let resolution = SettingsResolution(inputs)
    guard let new = SettingsInForce(resolution) else { return refuse(resolution, service) }
    for warning in resolution.warnings {
      logger.warning("settings are good, but for this", metadata: ["reason": "\(warning.description)"])
    }
    state.withLockedValue { state in take(new.settings, new.shown, &state, service) }
  }

  /// The settings with which the daemon would start now; nil when they are wrong, or cannot be read in time.
  func readAgain() -> Settings? {
    let found = reading.result(withinMilliseconds: Self.handOverMilliseconds) { [inputs] in
      SettingsResolution(inputs).settings
    }
    if found == nil {
      logger.warning("the settings cannot be read in time; the next daemon is taken to have those of before")
    }
    return found ?? nil
  }

  private func take(
    _ new: Settings, _ shown: [SettingKey: String], _ state: inout SettingsInForce, _ service: any Service
  ) {
    let old = state.settings
    let changes = old.changes(to: new)
    for key in changes { log(key, from: state.shown[key], to: shown[key]) }
    output.level = new.live.logLevel
    state.settings = old.takingLiveChanges(from: new)
    for key in SettingKey.allCases where key.changesLive { state.shown[key] = shown[key] }
    let waiting = changes.filter { !$0.changesLive }.map(\.rawValue).joined(separator: ", ")
    logger.notice(
      "settings reloaded",
      metadata: [
        "changed": "\(changes.count { $0.changesLive })", "restart_needed": "\(waiting.isEmpty ? "no" : waiting)",
      ])
    service.reload(state, note: waiting.isEmpty ? nil : "restart to change \(waiting)")
  }

  private func refuse(_ resolution: SettingsResolution, _ service: any Service) {
    for problem in resolution.problems {
      logger.error(
        "settings not reloaded",
        metadata: ["setting": "\(problem.setting ?? "")", "problem": "\(problem.description)"])
    }
    service.reload(nil, note: "settings not reloaded: \(resolution.firstProblem)")
  }

  /// Two values that look the same differ in their login, which is not shown.
  private func log(_ key: SettingKey, from old: String?, to new: String?) {
    let metadata: Logger.Metadata = ["setting": "\(key.rawValue)", "from": "\(old ?? "")", "to": "\(new ?? "")"]
    if key.changesLive {
      logger.notice("setting changed", metadata: metadata)
    } else {
      logger.warning("setting changes at the next restart", metadata: metadata)
    }
  }
}
