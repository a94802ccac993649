import DaemonSettings
import Glibc
import Logging
import ProcessSupport
import SidelockSettings
import Sidecar
import SystemdSupport

extension Sidecar: Service {
  func reload(_ settings: SettingsInForce?, note: String?) {
    reload(settings?.settings.ofThisProcess.live, saved: settings?.encoded ?? [], note: note)
  }
}

/// Makes the sidecar that these settings describe, on the service manager's socket if there is one.
func makeService(
  _ settings: SettingsInForce, note: String?, listeningDescriptor: Int32?, left: LeftDescriptors, notifier: Notifier,
  logger: Logger
) throws -> any Service {
  let configuration = SidecarConfiguration(
    settings: settings.settings.ofThisProcess, savedSettings: settings.encoded, settingsNote: note,
    listeningDescriptor: listeningDescriptor, version: sidelockVersion)
  return try Sidecar(configuration: configuration, left: left, notifier: notifier, logger: logger)
}

extension Settings {
  /// With the rights of the user that this process runs as.
  fileprivate var ofThisProcess: Settings {
    var settings = self
    settings.live.policy.owner = geteuid()
    return settings
  }
}
