import SidelockClient

/// What systemd knows of the daemon's service, for somebody who cannot reach the daemon.
enum ServiceState {
  static let unit = "sidelockd.service"
  /// How long systemd may take to answer, in milliseconds.
  static let answerMilliseconds: Int64 = 1000

  /// A sentence about the service; nil where there is no systemd, where it does not know the service, or where the
  /// service has nothing to do with the socket at `path`.
  static func words(path: String) -> String? {
    guard let answer = ask() else { return nil }
    return words(answer, isSystemSocket: path == SocketPath.system)
  }

  /// The sentence for what `systemctl show` printed.
  static func words(_ answer: String, isSystemSocket: Bool) -> String? {
    var properties: [Substring: Substring] = [:]
    for line in answer.split(separator: "\n") {
      guard let end = line.firstIndex(of: "=") else { continue }
      properties[line[..<end]] = line[line.index(after: end)...]
    }
    guard properties["LoadState"] == "loaded", let state = properties["ActiveState"] else { return nil }
    let isAtWork = state == "active"
    // A service that runs, or is inactive, says nothing about a daemon at another socket.
    if !isSystemSocket, isAtWork || state == "inactive" { return nil }
    var detail = properties["SubState"].map(String.init) ?? ""
    if detail == state { detail = "" }
    if !isAtWork, let status = properties["ExecMainStatus"], status != "0", !status.isEmpty {
      // 1: it ended by itself; else a signal ended it.
      detail = ["1", "0", nil].contains(properties["ExecMainCode"]) ? "exit \(status)" : "signal \(status)"
    }
    if let result = properties["Result"], !["success", "exit-code", "signal", "core-dump", ""].contains(result) {
      detail += detail.isEmpty ? result : ", \(result)"
    }
    let more = detail.isEmpty ? "" : " (\(detail))"
    let words = "\(unit) is \(state)\(more): see systemctl status sidelockd"
    // The status of sidelockd for settings that are wrong.
    guard !isAtWork, detail.hasPrefix("exit 78") else { return words }
    return words + "; what is wrong in its settings tells: sidelockd --config /etc/sidelock/sidelockd.yaml --check"
  }

  /// What systemctl says within its time.
  private static func ask() -> String? {
    let properties = "LoadState,ActiveState,SubState,Result,ExecMainCode,ExecMainStatus"
    return ProgramOutput.of(
      "systemctl", ["systemctl", "show", unit, "--property=\(properties)"], milliseconds: answerMilliseconds
    ).map { String(decoding: $0, as: UTF8.self) }
  }
}
