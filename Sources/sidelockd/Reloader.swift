import Logging
import NIOConcurrencyHelpers
import SidelockSettings
import SystemdSupport

/// Reads the settings again when it is asked to, and has the daemon take over what can change while it runs.
///
/// All of it or nothing: settings with any problem leave those in force that were. Never on the event loop, as reading a
/// file may block.
final class Reloader: Sendable {
  private struct State {
    var settings: Settings
    /// The values for people, without secrets.
    var shown: [SettingKey: String]
  }

  private let state: NIOLockedValueBox<State>
  private let inputs: SettingsInputs
  private let output: LogOutput
  private let notifier: Notifier
  private let logger: Logger

  /// - Parameters:
  ///   - resolution: where the settings that are in force come from.
  ///   - inputs: what that was made from; the file in it is read again.
  init(
    _ settings: Settings, resolution: SettingsResolution, inputs: SettingsInputs, output: LogOutput,
    notifier: Notifier, logger: Logger
  ) {
    state = NIOLockedValueBox(State(settings: settings, shown: Self.values(of: resolution)))
    self.inputs = inputs
    self.output = output
    self.notifier = notifier
    self.logger = logger
  }

  /// Reads the settings and tells the service and the service manager what became of them.
  func reload(_ service: any Service) {
    notifier.reloading()
    let resolution = SettingsResolution(inputs)
    guard let new = resolution.settings else { return refuse(resolution.problems, service) }
    state.withLockedValue { state in take(new, Self.values(of: resolution), &state, service) }
  }

  /// The settings with which the daemon would start now; nil when it would not.
  func readAgain() -> Settings? { SettingsResolution(inputs).settings }

  private func take(_ new: Settings, _ shown: [SettingKey: String], _ state: inout State, _ service: any Service) {
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
    service.reload(state.settings, note: waiting.isEmpty ? nil : "restart to change \(waiting)")
  }

  private func refuse(_ problems: [SettingProblem], _ service: any Service) {
    for problem in problems {
      logger.error(
        "settings not reloaded",
        metadata: ["setting": "\(problem.setting ?? "")", "problem": "\(problem.description)"])
    }
    let first = problems.first?.description ?? ""
    let more = problems.count > 1 ? " (and \(problems.count - 1) more)" : ""
    service.reload(nil, note: "settings not reloaded: \(first)\(more)")
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

  private static func values(of resolution: SettingsResolution) -> [SettingKey: String] {
    Dictionary(resolution.effective.map { ($0.key, $0.shown) }) { first, _ in first }
  }
}
