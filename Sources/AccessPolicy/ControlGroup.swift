/// Finds the systemd unit in what /proc/PID/cgroup says.
///
/// A process is in the unified hierarchy (`0::`), in systemd's own of cgroup v1 (`name=systemd`), or in both. Hosts
/// differ in where systemd keeps its units; the other hierarchy may exist all the same, with every process in its root.
/// So the unit is taken from the one that names it, unless the other one names another.
public enum ControlGroup {
  /// The unit of the system that a process belongs to.
  ///
  /// The first part of the path that is no slice counts, and not the last: what lies below it was delegated, and its
  /// owner may name groups there at will.
  public static func unit(in contents: [UInt8]) -> PeerUnit {
    switch place(in: contents) {
    case .unknown(let doubt): .unknown(doubt)
    case .named(let unit, _): .named(unit)
    }
  }

  /// The innermost unit of a process, for people: below the unit of the system it is only what somebody calls it.
  public static func innermostUnit(in contents: [UInt8]) -> String? {
    guard case .named(let unit, let path) = place(in: contents) else { return nil }
    let inner = parts(of: path).last { ends($0, ".service") || ends($0, ".scope") }
    return inner.map { text(unescaped($0)) } ?? unit
  }

  /// Kinds of units that processes belong to.
  private static let unitSuffixes = [".service", ".scope", ".socket", ".mount", ".swap"]

  /// Whether a unit of this name may have processes.
  static func isUnit(_ name: String) -> Bool { isUnit(Array(name.utf8)[...]) }

  // Bytes, not Characters: users choose names of groups, and a "/" ends a name also with a combining accent behind it.
  private typealias Bytes = ArraySlice<UInt8>

  private enum Place {
    case unknown(UnitDoubt)
    case named(String, path: Bytes)
  }

  private static func place(in contents: [UInt8]) -> Place {
    guard contents.last == UInt8(ascii: "\n"), String(validating: contents, as: UTF8.self) != nil else {
      return .unknown(.unreadable)
    }
    // A process in the root of a hierarchy is in no unit of it.
    let paths = paths(in: contents).filter { $0.count > 1 }
    var found: (unit: Bytes, path: Bytes)?
    for path in paths {
      guard let unit = unit(of: path) else { return .unknown(paths.count > 1 ? .ambiguous : .noUnit) }
      if let found, found.unit != unit { return .unknown(.ambiguous) }
      // The unified one has more to say of what lies below.
      found = (unit, path)
    }
    return found.map { .named(text($0.unit), path: $0.path) } ?? .unknown(.noUnit)
  }

  /// The paths in the hierarchies that may be systemd's.
  private static func paths(in contents: [UInt8]) -> [Bytes] {
    contents.split(separator: UInt8(ascii: "\n")).compactMap { line in
      let fields = line.split(separator: UInt8(ascii: ":"), maxSplits: 2, omittingEmptySubsequences: false)
      guard fields.count == 3, fields[2].first == UInt8(ascii: "/") else { return nil }
      let isUnified = fields[0].elementsEqual("0".utf8) && fields[1].isEmpty
      return isUnified || fields[1].elementsEqual("name=systemd".utf8) ? fields[2] : nil
    }
  }

  private static func unit(of path: Bytes) -> Bytes? {
    let parts = parts(of: path)
    // A group beyond the root that this process sees, or one that is no more.
    if parts.contains(where: { $0.elementsEqual("..".utf8) }) || ends(path, " (deleted)") { return nil }
    for part in parts {
      let name = unescaped(part)
      if ends(name, ".slice") { continue }
      return isUnit(name) ? name : nil
    }
    return nil
  }

  private static func isUnit(_ name: Bytes) -> Bool {
    unitSuffixes.contains { ends(name, $0) && name.count > $0.utf8.count }
  }

  private static func parts(of path: Bytes) -> [Bytes] { path.split(separator: UInt8(ascii: "/")) }

  private static func ends(_ bytes: Bytes, _ suffix: String) -> Bool {
    bytes.suffix(suffix.utf8.count).elementsEqual(suffix.utf8)
  }

  /// systemd puts a "_" before names that the kernel would take for something else.
  private static func unescaped(_ part: Bytes) -> Bytes { part.first == UInt8(ascii: "_") ? part.dropFirst() : part }

  private static func text(_ bytes: Bytes) -> String { String(decoding: bytes, as: UTF8.self) }
}
