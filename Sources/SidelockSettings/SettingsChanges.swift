import SystemStrings

extension SettingKey {
  /// Whether a running daemon takes over a new value when it reads its settings again (SIGHUP). The others need a
  /// restart.
  public var changesLive: Bool {
    switch self {
    case .leaseMilliseconds, .redisTimeoutMilliseconds, .lingerMilliseconds, .cohortMax, .cohortMilliseconds,
      .connectionsMax, .connectionsPerUIDMax,
      .holdsPerSessionMax, .holdsPerUIDMax, .waitsPerSessionMax, .waitsPerUIDMax, .bytesPerSessionMax, .bytesPerUIDMax,
      .lockBytesPerUIDMax, .watchesPerUIDMax,
      .rules, .logLevel:
      true
    case .redis, .local, .redisUser, .redisPasswordFile, .socket, .socketMode, .keyPrefix, .host:
      false
    }
  }
}

extension Settings {
  /// The settings that differ, in the order of the table. A login is a part of `redis`, wherever it was given.
  public func changes(to new: Settings) -> [SettingKey] {
    SettingKey.allCases.filter { key in
      switch key {
      case .redis: backend != new.backend && new.backend != .local
      case .local: backend != new.backend && new.backend == .local
      case .redisUser, .redisPasswordFile: false
      case .socket: !ExactText.isSame(socketPath, new.socketPath)
      case .socketMode: socketMode != new.socketMode
      case .leaseMilliseconds: leaseMilliseconds != new.leaseMilliseconds
      case .lingerMilliseconds: lingerMilliseconds != new.lingerMilliseconds
      case .cohortMax: cohortHandOversMax != new.cohortHandOversMax
      case .cohortMilliseconds: cohortMilliseconds != new.cohortMilliseconds
      case .redisTimeoutMilliseconds: redisTimeoutMilliseconds != new.redisTimeoutMilliseconds
      case .keyPrefix: keyPrefix != new.keyPrefix
      case .host: hostName != new.hostName
      case .connectionsMax: connectionsMax != new.connectionsMax
      case .connectionsPerUIDMax: connectionsPerUIDMax != new.connectionsPerUIDMax
      case .holdsPerSessionMax: holdsPerSessionMax != new.holdsPerSessionMax
      case .holdsPerUIDMax: holdsPerUIDMax != new.holdsPerUIDMax
      case .waitsPerSessionMax: waitsPerSessionMax != new.waitsPerSessionMax
      case .waitsPerUIDMax: waitsPerUIDMax != new.waitsPerUIDMax
      case .bytesPerSessionMax: bytesPerSessionMax != new.bytesPerSessionMax
      case .bytesPerUIDMax: bytesPerUIDMax != new.bytesPerUIDMax
      case .lockBytesPerUIDMax: lockBytesPerUIDMax != new.lockBytesPerUIDMax
      case .watchesPerUIDMax: watchesPerUIDMax != new.watchesPerUIDMax
      case .rules: policy.rules != new.policy.rules
      case .logLevel: logLevel != new.logLevel
      }
    }
  }

  /// These settings with those of `new` that a running daemon can take over.
  public func takingLiveChanges(from new: Settings) -> Settings {
    var result = self
    result.leaseMilliseconds = new.leaseMilliseconds
    result.redisTimeoutMilliseconds = new.redisTimeoutMilliseconds
    result.lingerMilliseconds = new.lingerMilliseconds
    result.cohortHandOversMax = new.cohortHandOversMax
    result.cohortMilliseconds = new.cohortMilliseconds
    result.connectionsMax = new.connectionsMax
    result.connectionsPerUIDMax = new.connectionsPerUIDMax
    result.holdsPerSessionMax = new.holdsPerSessionMax
    result.holdsPerUIDMax = new.holdsPerUIDMax
    result.waitsPerSessionMax = new.waitsPerSessionMax
    result.waitsPerUIDMax = new.waitsPerUIDMax
    result.bytesPerSessionMax = new.bytesPerSessionMax
    result.bytesPerUIDMax = new.bytesPerUIDMax
    result.lockBytesPerUIDMax = new.lockBytesPerUIDMax
    result.watchesPerUIDMax = new.watchesPerUIDMax
    result.policy = new.policy
    result.logLevel = new.logLevel
    return result
  }
}
