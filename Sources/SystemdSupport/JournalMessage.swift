/// The messages that the journal's catalogue explains, by their fixed identifiers (journalctl -x).
///
/// Last words have none: see `LogOutput`. An identifier means the same for ever: a message that changes its meaning gets a new one. A message that is added
/// here needs an entry in packaging/systemd/sidelock.catalog; a test holds the two against each other.
enum JournalMessage: String, CaseIterable {
  case serving = "serving"
  case stopping = "stopping"
  case stopped = "stopped"
  case handingOver = "leaving clients and locks to the next daemon"
  case takenOver = "took over clients and locks"
  case leftUnusable = "what the daemon before left cannot be used; its locks end by their leases"
  case storeFull = "no room to keep more clients over a restart"
  case keepingFailed = "clients will not be kept over a restart"
  case lockLost = "lock lost"
  case lockBroken = "lock broken"
  case redisConnected = "connected to Redis"
  case redisLost = "lost the connection to Redis"
  case redisMissing = "no connection to Redis"
  case redisEvicts = "Redis may evict locks when its memory is full; set maxmemory-policy to noeviction"
  case redisRefused = "Redis refused a command"
  case slowClientClosed = "closing a client that does not read"
  case fileLimitLow = "the limit of open files is below connections_max"
  case drainTimedOut = "not every lock could be given back in time; the rest end by their leases"
  case drainedWithoutRedis = "Redis cannot be reached; locks that were held end by their leases"
  case settingChanged = "setting changed"
  case settingNeedsRestart = "setting changes at the next restart"
  case settingsReloaded = "settings reloaded"
  case settingsRefused = "settings not reloaded"
  case messagesDropped = "log messages dropped"

  /// The value of MESSAGE_ID: 128 random bits, once and for all.
  var identifier: String {
    switch self {
    case .serving: "72d74bc8ca5c489e9eb20aa0eabae8ec"
    case .stopping: "4b874396e4404a5e8f0e18cb35ff02f0"
    case .stopped: "2e7b905ce4624a0aa500cc0cb0f302cf"
    case .handingOver: "ab7920fbc0894857b71f654452b95a67"
    case .takenOver: "f06e49eb6a4a4f57904cb6175a9a5dc0"
    case .leftUnusable: "c508ca7396574e85b24d89b3c11f98d3"
    case .storeFull: "846b8130f67145dab0034b7292390e2c"
    case .keepingFailed: "c74d091fa64c4e1e9a9dc008ff92e730"
    case .lockLost: "144505c4199e459b96609fdc0c50649f"
    case .lockBroken: "5d0f4e0a1b0c4a6c9a3d3b8a7c5e2f61"
    case .redisConnected: "08706d9d6a394ee885c1c2b3b5b918d6"
    case .redisLost: "104cf44100214d24b803f909bbbb85b9"
    case .redisMissing: "c49b185a792b489eafa4d895edf0c0cb"
    case .redisEvicts: "cc93864e00e34119a343d0b8bb68d990"
    case .redisRefused: "6461fd157df3470c9578d19e5ba1b145"
    case .slowClientClosed: "697b2d6d770c4f4f9d3b3355cba66ae5"
    case .fileLimitLow: "ca4df3d12eae4ff883b1809f13968479"
    case .drainTimedOut: "a9c0e18c202f4e76b3e66fc18f1e9224"
    case .drainedWithoutRedis: "96276115717248659003a48e39bf3904"
    case .settingChanged: "7226d29d3a7b47fdad5cef43c8e00cbf"
    case .settingNeedsRestart: "c61d168ff70d46debd7e7a651b05fc11"
    case .settingsReloaded: "7b313b914a044985bb6e64601c7df93d"
    case .settingsRefused: "b1618c29c772411e9cebaec5dd1f7809"
    case .messagesDropped: "1be90df1e8b34925b127679b9a079448"
    }
  }
}
