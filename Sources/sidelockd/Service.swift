import Logging
import SidelockSettings
import Sidecar
import SystemdSupport

extension Sidecar: Service {}

/// Makes the sidecar that these settings describe.
func makeService(_ settings: Settings, notifier: Notifier, logger: Logger) throws -> any Service {
  let backend: SidecarConfiguration.Backend =
    switch settings.backend {
    case .local: .local
    case .redis(let url): .redis(url)
    }
  let configuration = SidecarConfiguration(
    backend: backend, socketPath: settings.socketPath, socketMode: settings.socketMode,
    leaseMilliseconds: Int64(settings.leaseMilliseconds), lingerMilliseconds: Int64(settings.lingerMilliseconds),
    cohortHandoversMax: settings.cohortHandOversMax, cohortMilliseconds: Int64(settings.cohortMilliseconds),
    redisTimeoutMilliseconds: Int64(settings.redisTimeoutMilliseconds), keyPrefix: settings.keyPrefix,
    host: settings.hostName, connectionsMax: settings.connectionsMax, version: sidelockVersion)
  return try Sidecar(configuration: configuration, notifier: notifier, logger: logger)
}
