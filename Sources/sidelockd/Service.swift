import Logging
import SidelockSettings
import SystemdSupport

/// The daemon cannot do this.
struct NotAvailable: Error, CustomStringConvertible {
  let description: String
}

/// Makes the sidecar that these settings describe.
func makeService(_ settings: Settings, notifier: Notifier, logger: Logger) throws -> any Service {
  throw NotAvailable(description: "this build has no sidecar")
}
