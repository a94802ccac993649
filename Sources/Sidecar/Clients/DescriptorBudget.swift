// How many descriptors clients may take: the daemon must never lack one for itself.

import CLinux
import ClientProtocol
import Glibc
import LockTypes
import Logging

/// The limit of open files, shared out between clients and the daemon.
///
/// A client costs a descriptor, and one more while its process is watched. What the daemon opens later, and cannot do
/// without, is held in reserve: a new connection to Redis and what it takes to look up its name, files of /proc, the
/// settings when they are read again, the file of tokens when it is written, the service manager and the journal, and
/// connections that are refused, until they are closed.
struct DescriptorBudget {
  /// Descriptors held in reserve, but never more than clients get.
  static let reserveMax = 24
  /// The least that reserve and clients need together: with fewer the daemon does not begin to serve, since it could
  /// not even refuse a client.
  static let sharedMin = 16
  /// What the daemon may open for itself before and while it serves, rounded up: its loop, timers and socket, Redis,
  /// the journal, the service manager, the memory that outlives it, the file of tokens, the watcher of processes.
  static let ownMax = 12
  /// How many descriptor numbers are looked at, at most, to count the open ones.
  static let lookedThroughMax = 4096

  /// What the daemon itself had open when it began to serve.
  private let own: Int

  init(own: Int) {
    self.own = own
  }

  /// What is open now, without `count` descriptors of clients.
  static func measured(ofClients count: Int) -> DescriptorBudget {
    let looked = Int(clamping: min(limit, UInt64(lookedThroughMax)))
    return DescriptorBudget(own: max(0, Int(open_descriptors(Int32(looked))) - count))
  }

  /// The limit that a process needs if `count` files are open before it begins.
  static func limitNeeded(open count: Int) -> Int { count + ownMax + sharedMin }

  /// How many files this process may have open now.
  static var limit: UInt64 {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return .max }
    return UInt64(limit.rlim_cur)
  }

  /// How many descriptors clients may have together under that limit.
  func clientsMax(limit: UInt64) -> Int {
    let free = Int(clamping: limit) - own
    return max(1, free - min(Self.reserveMax, free / 2))
  }
}

/// The limit of open files of this process is too low to serve with.
public struct DescriptorShortage: Sendable {
  /// How many files it may have open.
  public let limit: UInt64
  /// How many it needs, at the least.
  public let needed: Int

  /// nil when the limit is high enough. To be made after the limit was raised, and before anything is opened.
  public init?() {
    limit = DescriptorBudget.limit
    let looked = Int32(clamping: min(limit, UInt64(DescriptorBudget.lookedThroughMax)))
    needed = DescriptorBudget.limitNeeded(open: Int(open_descriptors(looked)))
    if limit >= UInt64(needed) { return nil }
  }
}

/// How many more descriptors clients may take.
final class DescriptorRoom {
  private let configuration: ConfigurationInForce
  private let sessions: SessionTable
  private let output: TurnOutput
  private let counts: LimitCounts
  private let logger: Logger
  /// nil before the daemon serves.
  private var budget: DescriptorBudget?

  init(
    configuration: ConfigurationInForce, sessions: SessionTable, output: TurnOutput, counts: LimitCounts, logger: Logger
  ) {
    self.configuration = configuration
    self.sessions = sessions
    self.output = output
    self.counts = counts
    self.logger = logger
  }

  /// The daemon begins to serve: what is open now, but for what clients have, is its own.
  func measure() {
    budget = .measured(ofClients: clientDescriptors)
    warnIfScarce()
  }

  /// What clients have open: their connections, and the processes that are watched for them.
  private var clientDescriptors: Int { sessions.count + ProcessHandle.count }

  /// Whether clients may take `count` more descriptors.
  func has(_ count: Int) -> Bool {
    guard let budget = budget else { return true }
    return clientDescriptors + count <= budget.clientsMax(limit: DescriptorBudget.limit)
  }

  /// How many descriptors a new connection takes.
  var perConnection: Int { ProcessHandle.kernelKnowsPeers ? 1 : 2 }

  /// Warns when the limit of open files allows fewer clients than the settings.
  func warnIfScarce() {
    let limit = DescriptorBudget.limit
    guard let clients = budget?.clientsMax(limit: limit), clients < configuration.settings.live.connectionsMax
    else {
      return
    }
    logger.warning(
      "the limit of open files is below connections_max",
      metadata: [
        "limit": "\(limit)", "connections_max": "\(configuration.settings.live.connectionsMax)",
        "clients": "\(clients)",
      ])
  }

  /// The error message for a client that is one too many.
  var tooManyConnections: String {
    let limit = DescriptorBudget.limit
    let clients = budget?.clientsMax(limit: limit) ?? .max
    let words = "connections_max of sidelockd's settings is \(configuration.settings.live.connectionsMax)"
    guard clients < configuration.settings.live.connectionsMax else {
      return "too many clients are connected; \(words)"
    }
    return "too many clients are connected: \(words), and its limit of open files, \(limit) (LimitNOFILE= of its "
      + "unit), has room for \(clients)"
  }

  /// The same for one of a user who has too many.
  var tooManyConnectionsOfOneUser: String {
    let max = configuration.settings.live.connectionsPerUIDMax
    return "too many clients of this user are connected; connections_per_uid_max of sidelockd's settings is \(max)"
  }

  /// Refuses a request for which no descriptor is left.
  func refuse(id: MessageID, to session: ClientSession) {
    counts.met(.connections, by: session)
    output.write(to: session) { writer in
      writer.failure(id: id, .limit, message: tooManyConnections) {
        $0.member("limit", LimitName.connections.rawValue)
      }
    }
  }
}
