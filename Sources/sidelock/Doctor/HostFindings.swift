import CLinux
import Glibc
import ProcessSupport
import SidelockClient
import SystemStrings

/// What this host says of the daemon: its socket, groups, service and settings.
enum HostFindings {
  private static let group = "sidelock"
  private static let checkMilliseconds: Int64 = 5000

  // MARK: The socket

  static func unreachable(_ error: any Error, path: String) -> Finding {
    guard let error = error as? SidelockError else { return .bad("socket", "\(error)", fix: nil) }
    let isSystem = path == SocketPath.system
    let fix: String =
      switch error.reason {
      case .permission where isSystem: "sudo usermod -aG \(group) \(Users.ownName), and log in again"
      case .permission: "ls -l \(shellWord(path))"
      case .noDaemon where isSystem: "sudo systemctl start sidelockd.socket"
      case .noDaemon where !mayBeSocket(path): "sidelock doctor --socket \(SocketPath.system)"
      case .noDaemon: "sidelockd --redis URL --socket \(shellWord(path))"
      default: isSystem ? "journalctl -u sidelockd -n 50" : "sidelock health --socket \(shellWord(path))"
      }
    return .bad("socket", error.message, fix: fix)
  }

  /// Whether a daemon could listen at a path: it is not too long, and nothing but a socket stands there.
  private static func mayBeSocket(_ path: String) -> Bool {
    let bytes = SystemText.bytes(path)
    guard (1..<MemoryLayout.size(ofValue: sockaddr_un().sun_path)).contains(bytes.count) else { return false }
    var status = stat()
    guard SystemText.withCString(path, { lstat($0, &status) }) == 0 else { return true }
    return status.st_mode & S_IFMT == S_IFSOCK
  }

  // MARK: Groups

  static var groups: Finding {
    groups(
      isRoot: geteuid() == 0, user: Users.ownName,
      group: getgrnam(group).map { ($0.pointee.gr_gid, members(of: $0.pointee)) },
      own: ownGroups)
  }

  /// - Parameters:
  ///   - group: the number and the members of the group that may connect; nil where there is none.
  ///   - own: the groups that this process has.
  static func groups(isRoot: Bool, user: String, group: (number: gid_t, members: [String])?, own: [gid_t]) -> Finding {
    let check = "groups"
    if isRoot { return .ok(check, "root may do everything") }
    guard let group else { return .ok(check, "there is no group \(Self.group), as without the package") }
    if own.contains(group.number) { return .ok(check, "\(user) is in the group \(Self.group)") }
    if group.members.contains(user) {
      return .warn(
        check, "\(user) is in the group \(Self.group), but has not logged in since", fix: "newgrp \(Self.group)")
    }
    return .warn(
      check, "\(user) is not in the group \(Self.group), which may connect to the packaged socket",
      fix: "sudo usermod -aG \(Self.group) \(user)")
  }

  private static func members(of group: group) -> [String] {
    var names: [String] = []
    var next = group.gr_mem
    while let pointer = next, let name = pointer.pointee {
      names.append(String(cString: name))
      next = pointer + 1
    }
    return names
  }

  private static var ownGroups: [gid_t] {
    let count = getgroups(0, nil)
    guard count > 0 else { return [getegid()] }
    var groups = [gid_t](repeating: 0, count: Int(count))
    let found = getgroups(count, &groups)
    return [getegid()] + groups.prefix(max(0, Int(found)))
  }

  // MARK: The service

  /// What systemd says of the service; empty where there is no systemd, or where it does not answer.
  static func serviceProperties() -> [String: String] {
    let names = [
      "LoadState", "ActiveState", "MainPID", "NeedDaemonReload", "DropInPaths", "NoNewPrivileges", "ProtectSystem",
      "FileDescriptorStoreMax",
    ]
    let answer = ProgramOutput.of(
      "systemctl", ["systemctl", "show", ServiceState.unit, "--property=\(names.joined(separator: ","))"],
      milliseconds: ServiceState.answerMilliseconds)
    var properties: [String: String] = [:]
    for line in String(decoding: answer ?? [], as: UTF8.self).split(separator: "\n") {
      guard let end = line.firstIndex(of: "=") else { continue }
      properties["\(line[..<end])"] = "\(line[line.index(after: end)...])"
    }
    return properties
  }

  /// - Parameter isOurs: whether the daemon is that of the service.
  static func service(_ properties: [String: String], isOurs: Bool) -> [Finding] {
    guard properties["LoadState"] == "loaded", isOurs else {
      return [.ok("service", "systemd does not run this daemon")]
    }
    var findings: [Finding] = []
    if let state = properties["ActiveState"], state != "active", state != "inactive" {
      findings.append(.bad("service", "\(ServiceState.unit) is \(state)", fix: "systemctl status sidelockd"))
    }
    if properties["NeedDaemonReload"] == "yes" {
      findings.append(
        .warn(
          "service", "its unit or a drop-in has changed since systemd read it",
          fix: "sudo systemctl daemon-reload && sudo systemctl restart sidelockd"))
    }
    if properties["FileDescriptorStoreMax"] == "0" {
      findings.append(
        .warn(
          "service",
          "systemd keeps no connections, so that a restart costs every client its locks (FileDescriptorStoreMax=0)",
          fix: "systemctl cat sidelockd"))
    }
    if findings.isEmpty { findings.append(.ok("service", "systemd runs this daemon")) }
    let dropIns = properties["DropInPaths"].flatMap { $0.isEmpty ? nil : $0 }
    let open = [("NoNewPrivileges", "no"), ("ProtectSystem", "no")].filter { properties[$0] == $1 }.map(\.0)
    let where_ = dropIns.map { "; drop-ins: \($0)" } ?? ""
    findings.append(
      open.isEmpty
        ? .ok("sandbox", "the unit's sandbox is in force\(where_)")
        : .warn(
          "sandbox", "the sandbox is opened: \(open.joined(separator: " and ")) is off\(where_)",
          fix: "systemctl cat sidelockd"))
    return findings
  }

  // MARK: The settings

  /// The process that serves a connection; nil where that is not known. A socket that systemd has made is systemd's.
  static func daemon(behind socket: CInt, service: [String: String]) -> pid_t? {
    var peer = peer_credentials()
    var length = socklen_t(MemoryLayout<peer_credentials>.size)
    guard getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0, peer.pid > 0 else { return nil }
    if name(of: peer.pid) == "sidelockd" { return peer.pid }
    return service["MainPID"].flatMap { pid_t($0) }.flatMap { $0 > 0 ? $0 : nil }
  }

  private static func name(of pid: pid_t) -> String? {
    guard case .success(let bytes) = readSmallFile("/proc/\(pid)/comm", bytesMax: 64) else { return nil }
    return String(decoding: bytes.prefix { $0 != 0x0A }, as: UTF8.self)
  }

  /// What the daemon's own program says of the settings as they are now.
  struct Settings {
    var findings: [Finding]
    fileprivate var values: JSONValue?

    func number(_ name: String) -> Int64? { values?["settings"]?[name]?["value"]?.intValue }
    func text(_ name: String) -> String? { values?["settings"]?[name]?["value"]?.stringValue }

    /// How the daemon's Redis is asked something.
    var server: RedisServerWords { RedisServerWords(url: text("redis"), settings: text) }
  }

  /// Has the daemon of this release check the settings with the arguments and variables of a running one, where that is:
  /// paths may be relative. Whoever has made the socket chose the program behind it, which this user must not run.
  static func settings(of pid: pid_t?) -> Settings {
    guard let pid, let arguments = texts("/proc/\(pid)/cmdline"), !arguments.isEmpty,
      let variables = texts("/proc/\(pid)/environ")?.filter(isOfSettings)
    else {
      return Settings(
        findings: [.warn("settings", "this user may not look at the daemon's settings", fix: Finding.doctorAsRoot)])
    }
    guard let program,
      // In front of the others, of which the last one could take it for its value.
      let answer = ProgramOutput.of(
        program, [arguments[0], "--check"] + arguments.dropFirst(), environment: variables,
        directory: "/proc/\(pid)/cwd", milliseconds: checkMilliseconds),
      let report = try? JSONValue(parsing: String(decoding: answer, as: UTF8.self))
    else {
      return Settings(findings: [.warn("settings", "they could not be checked", fix: checkCommand(arguments))])
    }
    return Settings(findings: findings(of: report, check: checkCommand(arguments)), values: report)
  }

  /// The daemon that was installed with this command; nil where there is none.
  private static var program: String? {
    guard let path = realpath("/proc/self/exe", nil) else { return nil }
    defer { free(path) }
    let own = SystemText.text(cString: path)
    guard let end = own.lastIndex(of: "/") else { return nil }
    let directory = own[..<end]
    return ["\(directory)/sidelockd", "\(directory)/../sbin/sidelockd"].first { access($0, X_OK) == 0 }
  }

  /// Whether settings depend on a variable, `NAME=VALUE`. Others, such as LD_PRELOAD, would have other code run.
  static func isOfSettings(_ variable: String) -> Bool {
    ["SIDELOCK_", "CREDENTIALS_DIRECTORY=", "STATE_DIRECTORY=", "XDG_RUNTIME_DIR="].contains {
      variable.hasPrefix($0)
    }
  }

  /// What checks the settings of a daemon with these arguments, with the file that they name.
  static func checkCommand(_ arguments: [String]) -> String {
    var file = arguments.last { $0.hasPrefix("--config=") }.map { String($0.dropFirst("--config=".count)) }
    if let index = arguments.lastIndex(of: "--config"), index + 1 < arguments.count { file = arguments[index + 1] }
    return "sidelockd\(file.map { " --config \(shellWord($0))" } ?? "") --check"
  }

  private static func findings(of report: JSONValue, check: String) -> [Finding] {
    let words = { (member: String) in
      (report[member]?.arrayValue ?? []).map { one in
        [one["setting"]?.stringValue, one["message"]?.stringValue ?? one.stringValue].compactMap { $0 }
          .joined(separator: ": ")
      }
    }
    let problems = words("problems").map {
      Finding.bad(
        "settings", "\($0); the next start would go on with the settings of before, or fail", fix: check)
    }
    let warnings = words("warnings").map { Finding.warn("settings", $0, fix: check) }
    let all = problems + warnings
    return all.isEmpty ? [.ok("settings", "they are good")] : all
  }

  private static func texts(_ path: String) -> [String]? {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var bytes: [UInt8] = []
    while let more = try? Descriptor.read(descriptor), !more.isEmpty { bytes += more }
    var parts = bytes.split(separator: 0, omittingEmptySubsequences: false)
    if parts.last?.isEmpty == true { parts.removeLast() }
    return parts.map { SystemText.text(Array($0)) }
  }

  // MARK: The version

  static func version(_ version: String?) -> Finding {
    guard let version, version != sidelockVersion else {
      return .ok("version", "daemon and command are \(sidelockVersion)")
    }
    return .warn(
      "version",
      "the daemon is \(version) and this command \(sidelockVersion): the daemon has not been restarted, or there are two of the command",
      fix: "sudo systemctl restart sidelockd")
  }
}
