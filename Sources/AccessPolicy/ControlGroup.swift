/// Finds the systemd unit in what /proc/PID/cgroup says.
///
/// A process stands in several hierarchies: in the unified one (`0::`), in systemd's own of the first version
/// (`name=systemd`), or in both. Which of them systemd keeps its units in differs between hosts, and the other one may be
/// there all the same, with everybody in its root: made by a container's manager, or by nobody in particular. So the unit
/// is taken from the one that names it, and only if the other one does not say otherwise.
public enum ControlGroup {
  /// The unit of the system that a process belongs to.
  ///
  /// The first part of the path that is no slice counts, and not the last: what lies below it was delegated, and
  /// whoever it was delegated to can name a group there as they like.
  public static func unit(in contents: [UInt8]) -> PeerUnit {
    switch place(in: contents) {
    case .unknown(let doubt): .unknown(doubt)
    case .named(let unit, _): .named(unit)
    }
  }

  /// The innermost unit of a process, for people: below the unit of the system it is only what somebody calls it.
  public static func innermostUnit(in contents: [UInt8]) -> String? {
    guard case .named(let unit, let path) = place(in: contents) else { return nil }
    let inner = path.split(separator: "/").last { $0.hasSuffix(".service") || $0.hasSuffix(".scope") }
    return inner.map { String(unescaped($0)) } ?? unit
  }

  /// Kinds of units that processes belong to.
  static let unitSuffixes = [".service", ".scope", ".socket", ".mount", ".swap"]

  private enum Place: Equatable {
    case unknown(UnitDoubt)
    case named(String, path: Substring)
  }

  private static func place(in contents: [UInt8]) -> Place {
    guard contents.last == UInt8(ascii: "\n"), let text = String(validating: contents, as: UTF8.self) else {
      return .unknown(.unreadable)
    }
    // Whoever stands in the root of a hierarchy is in no unit of it.
    let paths = paths(in: text).filter { $0 != "/" }
    var found: (unit: String, path: Substring)?
    for path in paths {
      guard let unit = unit(of: path) else { return .unknown(paths.count > 1 ? .ambiguous : .noUnit) }
      if let found, found.unit != unit { return .unknown(.ambiguous) }
      // The unified one has more to say of what lies below.
      found = (unit, path)
    }
    return found.map { .named($0.unit, path: $0.path) } ?? .unknown(.noUnit)
  }

  /// The paths in the hierarchies that may be systemd's.
  private static func paths(in contents: String) -> [Substring] {
    contents.split(separator: "\n").compactMap { line in
      let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
      guard fields.count == 3, fields[2].hasPrefix("/") else { return nil }
      return fields[1] == "name=systemd" || (fields[0] == "0" && fields[1].isEmpty) ? fields[2] : nil
    }
  }

  private static func unit(of path: Substring) -> String? {
    let parts = path.split(separator: "/")
    // A group beyond the root that this process sees, or one that is no more.
    if parts.contains("..") || path.hasSuffix(" (deleted)") { return nil }
    for part in parts {
      let name = unescaped(part)
      if name.hasSuffix(".slice") { continue }
      return unitSuffixes.contains { name.hasSuffix($0) && name.utf8.count > $0.utf8.count } ? String(name) : nil
    }
    return nil
  }

  /// systemd puts a "_" before names that the kernel would take for something else.
  private static func unescaped(_ part: Substring) -> Substring { part.hasPrefix("_") ? part.dropFirst() : part }
}
