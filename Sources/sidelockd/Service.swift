import Glibc
import Logging
import SidelockSettings
import Sidecar
import SystemdSupport

extension Sidecar: Service {
  func requestEnd(before settings: Settings?) {
    requestEnd(before: settings.map { SidecarConfiguration($0) })
  }

  func requestHandOver(to settings: Settings?) {
    requestHandOver(to: settings.map { SidecarConfiguration($0) })
  }

  func reload(_ settings: SettingsInForce?, note: String?) {
    reload(
      settings.map { settings in
        var configuration = SidecarConfiguration(settings.settings)
        configuration.settings = settings.encoded
        return configuration
      }, note: note)
  }
}

/// Makes the sidecar that these settings describe, on the service manager's socket if there is one.
func makeService(
  _ settings: SettingsInForce, note: String?, listeningDescriptor: Int32?, left: LeftDescriptors, notifier: Notifier,
  logger: Logger
) throws -> any Service {
  var configuration = SidecarConfiguration(settings.settings)
  configuration.settings = settings.encoded
  configuration.settingsNote = note
  configuration.listeningDescriptor = listeningDescriptor
  return try Sidecar(configuration: configuration, left: left, notifier: notifier, logger: logger)
}

extension SidecarConfiguration {
  fileprivate init(_ settings: Settings) {
    let backend: Backend =
      switch settings.backend {
      case .local: .local
      case .redis(let url): .redis(url)
      }
    self.init(
      backend: backend, socketPath: settings.socketPath, socketMode: settings.socketMode,
      leaseMilliseconds: Int64(settings.leaseMilliseconds), lingerMilliseconds: Int64(settings.lingerMilliseconds),
      cohortHandoversMax: settings.cohortHandOversMax, cohortMilliseconds: Int64(settings.cohortMilliseconds),
      redisTimeoutMilliseconds: Int64(settings.redisTimeoutMilliseconds), keyPrefix: settings.keyPrefix,
      host: settings.hostName, connectionsMax: settings.connectionsMax, version: sidelockVersion)
    connectionsPerUIDMax = settings.connectionsPerUIDMax
    holdsPerSessionMax = settings.holdsPerSessionMax
    holdsPerUIDMax = settings.holdsPerUIDMax
    waitsPerSessionMax = settings.waitsPerSessionMax
    waitsPerUIDMax = settings.waitsPerUIDMax
    bytesPerSessionMax = settings.bytesPerSessionMax
    bytesPerUIDMax = settings.bytesPerUIDMax
    lockBytesPerUIDMax = settings.lockBytesPerUIDMax
    watchesPerUIDMax = settings.watchesPerUIDMax
    policy = settings.policy
    policy.owner = geteuid()
  }
}
