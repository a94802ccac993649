import DaemonSettings

/// The configuration as it is in force now. The parts of the driver share it: none of them keeps a copy of what a reload changes.
final class ConfigurationInForce {
  var settings: Settings
  /// The settings for the daemon that follows; see ``LeftDescriptors/settings``.
  var savedSettings: [UInt8]
  /// The version that clients are told.
  let version: String

  init(_ configuration: SidecarConfiguration) {
    settings = configuration.settings
    savedSettings = configuration.savedSettings
    version = configuration.version
  }
}
