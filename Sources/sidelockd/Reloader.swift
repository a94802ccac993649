import Logging
import NIOConcurrencyHelpers
import SidelockSettings
import SystemdSupport

/// Reads the settings again when it is asked to, and has the daemon take over what can change while it runs.
///
/// All of it or nothing: settings with any problem leave those in force that were. Never on the event loop, as reading a
/// file may block.
final class Reloader: Sendable {
  private let state: NIOLockedValueBox<SettingsInForce>
  private let inputs: SettingsInputs
  private let output: LogOutput
  private let notifier: Notifier
  private let logger: Logger

  /// - Parameters:
  ///   - inForce: the settings that the daemon has.
  ///   - inputs: what settings are made from; the file in it is read again.
  init(
    _ inForce: SettingsInForce, inputs: SettingsInputs, output: LogOutput, notifier: Notifier, logger: Logger
  ) {
    state = NIOLockedValueBox(inForce)
    self.inputs = inputs
    self.output = output
    self.notifier = notifier
    self.logger = logger
  }

  /// Reads the settings and tells the service and the service manager what became of them.
  func reload(_ service: any Service) {
    notifier.reloading()
    let resolution = SettingsResolution(inputs)
    guard let new = SettingsInForce(resolution) else { return refuse(resolution, service) }
    state.withLockedValue { state in take(new.settings, new.shown, &state, service) }
  }

  /// The settings with which the daemon would start now; nil when they are wrong.
  func readAgain() -> Settings? { SettingsResolution(inputs).settings }

  private func take(
    _ new: Settings, _ shown: [SettingKey: String], _ state: inout SettingsInForce, _ service: any Service
  ) {
    let old = state.settings
    let changes = old.changes(to: new)
    for key in changes { log(key, from: state.shown[key], to: shown[key]) }
    output.level = new.logLevel
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
