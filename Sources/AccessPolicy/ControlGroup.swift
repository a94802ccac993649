/// Finds the systemd unit in what /proc/PID/cgroup says.
public enum ControlGroup {
  /// The unit of the system that a process belongs to.
  ///
  /// The first part of the path that is no slice counts, and not the last: what lies below it was delegated, and
  /// whoever it was delegated to can name a group there as they like.
  public static func unit(in contents: [UInt8]) -> PeerUnit {
    guard let path = path(in: String(decoding: contents, as: UTF8.self)) else { return .unknown }
    let parts = path.split(separator: "/")
    // A group beyond the root that this process sees.
    if parts.contains("..") || path.hasSuffix(" (deleted)") { return .unknown }
    for part in parts {
      // systemd puts a "_" before names that the kernel would take for something else.
      let name = part.hasPrefix("_") ? part.dropFirst() : part
      if name.hasSuffix(".slice") { continue }
      return unitSuffixes.contains { name.hasSuffix($0) && name.utf8.count > $0.utf8.count }
        ? .named(String(name)) : .none
    }
    return .none
  }

  /// Kinds of units that processes belong to.
  static let unitSuffixes = [".service", ".scope", ".socket", ".mount", ".swap"]

  /// The path in systemd's own hierarchy, or in the unified one.
  private static func path(in contents: String) -> Substring? {
    var unified: Substring?
    for line in contents.split(separator: "\n") {
      let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
      guard fields.count == 3, fields[2].hasPrefix("/") else { continue }
      if fields[1] == "name=systemd" { return fields[2] }
      if fields[0] == "0", fields[1].isEmpty { unified = fields[2] }
    }
    return unified
  }
}
