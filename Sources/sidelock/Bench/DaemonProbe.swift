import Glibc
import SidelockClient

/// What a daemon has done so far, by its own count and by the kernel's.
struct DaemonUsage {
  var requests: Int64 = 0
  /// nil for a daemon without Redis.
  var redisCommands: Int64?
  /// nil when the process cannot be found or looked at.
  var cpuNanoseconds: Int64?

  static func - (late: DaemonUsage, early: DaemonUsage) -> DaemonUsage {
    combine(late, early) { $0 - $1 }
  }

  static func + (one: DaemonUsage, other: DaemonUsage) -> DaemonUsage {
    combine(one, other) { $0 + $1 }
  }

  private static func combine(
    _ one: DaemonUsage, _ other: DaemonUsage, _ operation: (Int64, Int64) -> Int64
  ) -> DaemonUsage {
    func both(_ a: Int64?, _ b: Int64?) -> Int64? {
      guard let a, let b else { return nil }
      return operation(a, b)
    }
    return DaemonUsage(
      requests: operation(one.requests, other.requests), redisCommands: both(one.redisCommands, other.redisCommands),
      cpuNanoseconds: both(one.cpuNanoseconds, other.cpuNanoseconds))
  }
}

/// Looks at a daemon from outside: its `stats`, and what /proc tells of its process.
final class DaemonProbe {
  private let client: BenchClient
  /// The daemon's process; nil when it is not known.
  let process: pid_t?

  /// `process`: the daemon's, where another process such as systemd listens at its socket.
  init(path: String, process: pid_t?) throws(SidelockError) {
    client = try BenchClient(path: path)
    if let process {
      self.process = process
    } else {
      let listener = Self.listener(client.descriptor)
      // With socket activation the peer of the socket is systemd.
      self.process = listener.flatMap { Self.read("/proc/\($0)/comm") == "sidelockd\n" ? $0 : nil }
    }
  }

  /// The process that listens at the other end.
  private static func listener(_ descriptor: CInt) -> pid_t? {
    // struct ucred, which the C library shows only with _GNU_SOURCE.
    var credentials: (pid: pid_t, user: uid_t, group: gid_t) = (0, 0, 0)
    var size = socklen_t(MemoryLayout.size(ofValue: credentials))
    let result = getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &credentials, &size)
    return result == 0 && credentials.pid > 0 ? credentials.pid : nil
  }

  func stats() throws(SidelockError) -> JSONValue {
    try client.call("stats")
  }

  func usage() throws(SidelockError) -> DaemonUsage {
    let stats = try stats()
    return DaemonUsage(
      requests: stats["requests_total"]?.intValue ?? 0, redisCommands: stats["redis"]?["commands_total"]?.intValue,
      cpuNanoseconds: cpuNanoseconds)
  }

  func leaseMilliseconds() throws(SidelockError) -> Int64? {
    try client.call("initialize", ["client": ["name": "sidelock-bench", "version": "1"]])["lease_ms"]?.intValue
  }

  /// Resident memory.
  var residentBytes: Int64? {
    guard let process, let text = Self.read("/proc/\(process)/statm") else { return nil }
    let fields = text.split(separator: " ")
    guard fields.count > 1, let pages = Int64(fields[1]) else { return nil }
    return pages * Int64(sysconf(CInt(_SC_PAGESIZE)))
  }

  /// The processor time of all its threads, user and system.
  var cpuNanoseconds: Int64? {
    guard let process, let text = Self.read("/proc/\(process)/stat"),
      // The command's name, in parentheses, may hold anything.
      let fields = text.split(separator: ")").last?.split(separator: " "), fields.count > 12,
      let user = Int64(fields[11]), let system = Int64(fields[12])
    else { return nil }
    let ticks = Int64(sysconf(CInt(_SC_CLK_TCK)))
    let coarse = (user + system) * 1_000_000_000 / max(1, ticks)
    // The scheduler's own figure has no ticks, but leaves out threads that have ended; the daemon's do not.
    return schedulerNanoseconds(of: process) ?? coarse
  }

  private func schedulerNanoseconds(of process: pid_t) -> Int64? {
    guard let directory = opendir("/proc/\(process)/task") else { return nil }
    defer { closedir(directory) }
    var total: Int64 = 0
    while let entry = readdir(directory) {
      let name = withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
      guard pid_t(name) != nil else { continue }
      guard let text = Self.read("/proc/\(process)/task/\(name)/schedstat"),
        let nanoseconds = text.split(separator: " ").first.flatMap({ Int64($0) })
      else { return nil }
      total += nanoseconds
    }
    return total > 0 ? total : nil
  }

  /// What a small file says.
  static func read(_ path: String) -> String? {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    guard let bytes = try? Descriptor.read(descriptor) else { return nil }
    return String(decoding: bytes, as: UTF8.self)
  }
}
