// How many descriptors clients may take, so that the daemon never lacks one for itself.

import CLinux
import ClientProtocol
import Glibc
import LockTypes
import Logging

/// The limit of open files, shared out between clients and the daemon.
///
/// A client costs a descriptor, and one more while its process is watched. What the daemon opens later, and cannot do
/// without, is held in reserve: a new connection to Redis and what it takes to look up its name, files of /proc, the
/// settings when they are read again, the service manager and the journal, and connections that are refused, until they
/// are closed.
struct DescriptorBudget {
  /// How many are held in reserve, as long as that is no more than clients have.
  static let reserveMax = 24
  /// The least that is held in reserve, and that clients have, together: below it the daemon does not begin to serve. It
  /// would have nothing left to tell one client too many that it is one.
  static let sharedMin = 16
  /// What the daemon may open for itself before and while it serves, rounded up: its loop, timers and socket, Redis, the
  /// journal, the service manager, the memory that outlives it, the watcher of processes.
  static let ownMax = 12
  /// For so many a limit is looked through for what is open at the start.
  static let lookedThroughMax = 4096

  /// What the daemon itself had open when it began to serve.
  private let own: Int

  init(own: Int) {
    self.own = own
  }

  /// What is open now, but for so many that belong to clients.
  static func measured(ofClients count: Int) -> DescriptorBudget {
    let looked = Int(clamping: min(limit, UInt64(lookedThroughMax)))
    return DescriptorBudget(own: max(0, Int(open_descriptors(Int32(looked))) - count))
  }

  /// The limit that a process needs which has so many files open before it begins.
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

  /// nil when the limit is high enough. To be asked before anything is opened, and when the limit has been raised as far as
  /// it may be.
  public init?() {
    limit = DescriptorBudget.limit
    let looked = Int32(clamping: min(limit, UInt64(DescriptorBudget.lookedThroughMax)))
    needed = DescriptorBudget.limitNeeded(open: Int(open_descriptors(looked)))
    if limit >= UInt64(needed) { return nil }
  }
}

/// The room that clients have for descriptors, as far as their limits leave it.
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

  /// Whether clients may have that many descriptors more.
  func has(_ count: Int) -> Bool {
    guard let budget = budget else { return true }
    return clientDescriptors + count <= budget.clientsMax(limit: DescriptorBudget.limit)
  }

  /// What a connection takes when it is made.
  var perConnection: Int { ProcessHandle.kernelKnowsPeers ? 1 : 2 }

  /// Says so when there will never be as many clients as the settings allow.
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

  /// What a client is told that is one too many.
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

  /// There is no descriptor left for what a client wants.
  func refuse(id: MessageID, to session: ClientSession) {
    counts.met(.connections)
    output.write(to: session) { writer in
      writer.failure(id: id, .limit, message: tooManyConnections) {
        $0.member("limit", LimitName.connections.rawValue)
      }
    }
  }
}
