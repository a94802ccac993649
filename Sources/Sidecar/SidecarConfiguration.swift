public import DaemonSettings
import SystemdSupport

/// What a sidecar is given at its start; ``Sidecar/reload(_:saved:note:)`` replaces the live settings.
public struct SidecarConfiguration: Sendable {
  /// The settings, checked and complete.
  public var settings: Settings
  /// The settings for the daemon that follows; see ``LeftDescriptors/settings``.
  public var savedSettings: [UInt8]
  /// What the status line says about them at first; nil for nothing.
  public var settingsNote: String?
  /// A listening socket that the service manager made, instead of a path; nil: the daemon makes its own.
  public var listeningDescriptor: Int32?
  /// The size of the memory that outlives the daemon, in bytes. Only what is written takes memory.
  var stateBytes = StateMemory.bytesDefault
  /// The version that clients are told.
  public var version: String

  /// A configuration.
  public init(
    settings: Settings, savedSettings: [UInt8] = [], settingsNote: String? = nil, listeningDescriptor: Int32? = nil,
    version: String
  ) {
    self.settings = settings
    self.savedSettings = savedSettings
    self.settingsNote = settingsNote
    self.listeningDescriptor = listeningDescriptor
    self.version = version
  }
}
