public import DaemonSettings

extension SettingKey {
  /// Whether a running daemon takes over a new value when it reads its settings again (SIGHUP). The others need a
  /// restart.
  public var changesLive: Bool { definition.place.isLive }
}

extension Settings {
  /// The settings that differ, in the order of the table. A login in the URL is none of them.
  public func changes(to new: Settings) -> [SettingKey] {
    SettingKey.allCases.filter { $0.definition.place.differs(self, new) }
  }

  /// These settings with those of `new` that a running daemon can take over.
  public func takingLiveChanges(from new: Settings) -> Settings {
    var result = self
    result.live = new.live
    return result
  }
}
