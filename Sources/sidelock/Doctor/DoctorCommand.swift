import ArgumentParser
import Glibc
import ProcessSupport
import SidelockClient

struct DoctorCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "doctor",
    abstract: "Look for what is wrong with the daemon, its service, its settings and Redis.",
    discussion: """
      Looks at the socket, the groups, the service with its drop-ins and sandbox, the settings, the versions of daemon and \
      hosts, and at Redis: whether it is reached, its version, rights, eviction, persistence, replicas, clock, and the \
      prefixes under which hosts use it. Each is a line, ok, warn or bad, with a command that mends it or shows more: on a \
      terminal as text, in a pipe as a JSON array. It changes nothing. Run it as root: other users are not told \
      everything.

      EXIT STATUS
        0     all is well
        1     something deserves a look
        2     something is bad: locks cannot be had, or are not safe
        64    wrong usage

      EXAMPLES
        sidelock doctor
        sidelock doctor | jq -r '.[] | select(.state != "ok") | .fix'
      """)

  @OptionGroup var connection: ConnectionOptions
  @OptionGroup var output: OutputOptions

  func run() throws {
    let findings = found().map(lookingAtThisSocket)
    if output.isForPeople {
      for line in findings.flatMap(\.lines) { try Descriptor.print(line) }
    } else {
      try output.show(findings.map(\.json)) { Table(headings: []) }
    }
    let worst = findings.map(\.state).max() ?? .ok
    if worst != .ok { throw ExitCode(worst.exitStatus) }
  }

  /// sudo passes no $SIDELOCK_SOCKET on.
  private func lookingAtThisSocket(_ finding: Finding) -> Finding {
    guard finding.fix == Finding.doctorAsRoot, connection.path != SocketPath.system else { return finding }
    var finding = finding
    finding.fix = "\(Finding.doctorAsRoot) --socket \(shellWord(connection.path))"
    return finding
  }

  private func found() -> [Finding] {
    let service = HostFindings.serviceProperties()
    let daemon: DaemonConnection
    let server: JSONValue
    do {
      daemon = try connection.open()
      server = try daemon.call("initialize", within: DaemonConnection.answerMilliseconds)
    } catch {
      return [HostFindings.unreachable(error, path: connection.path), HostFindings.groups]
        + HostFindings.service(service, isOurs: connection.path == SocketPath.system)
    }
    var findings = [Finding.ok("socket", "the daemon answers at \(connection.path)"), HostFindings.groups]
    let pid = HostFindings.daemon(behind: daemon.descriptor, service: service)
    let mainPID = service["MainPID"].flatMap { pid_t($0) }
    findings += HostFindings.service(
      service, isOurs: connection.path == SocketPath.system || pid != nil && pid == mainPID)
    let settings = HostFindings.settings(of: pid)
    findings += settings.findings
    findings.append(HostFindings.version(server["server"]?["version"]?.stringValue))
    let stats: JSONValue
    do {
      stats = try daemon.call("stats", within: DaemonConnection.answerMilliseconds)
    } catch {
      return findings + [HostFindings.unreachable(error, path: connection.path)]
    }
    guard let redis = stats["redis"] else {
      return findings + [.ok("redis", "locks are of this host alone, without Redis")]
    }
    guard redis["connected"]?.intValue == 1 else {
      return findings + [RedisFindings.unreachable(redis)]
    }
    var words = settings.server
    words.primary = redis["sentinel"]?["primary"]?.stringValue
    // What is told last is of one that does not answer.
    let trouble = redis["cluster"]?["unserved_reason"]?.stringValue ?? ""
    words.trouble = trouble.split(separator: "; ").last.map(String.init) ?? ""
    findings.append(RedisFindings.reached(redis, words))
    findings += RedisFindings.rights(
      words,
      info: Self.detail { try daemon.call("redis") }, pubsub: Self.detail { try daemon.call("hosts") },
      scan: Self.detail { try daemon.call("list", ["scope": "all", "limit": 1]) })
    do {
      let told = try daemon.call("redis")
      var now = timespec()
      clock_gettime(CLOCK_REALTIME, &now)
      findings += RedisFindings.server(
        words, RedisInfo(told["info"]?.stringValue ?? ""), replicasNeeded: settings.number("replicas") ?? 0,
        microseconds: Int64(now.tv_sec) * 1_000_000 + Int64(now.tv_nsec) / 1000,
        needsDisk: settings.text("durability") == "disk", keyPrefix: settings.text("key_prefix"),
        prefixes: (told["key_prefixes"]?.arrayValue ?? []).compactMap(\.stringValue))
    } catch let error as SidelockError where error.reason == .denied {
      findings.append(
        .warn("server", "this user may not be told about the server of Redis", fix: Finding.doctorAsRoot))
    } catch {
      // A right that is missing is told above.
    }
    if let hosts = try? daemon.pages(of: "hosts") { findings.append(RedisFindings.hosts(hosts)) }
    return findings
  }

  /// What Redis has said to a request that it refused; nil when it did not.
  private static func detail(_ body: () throws -> JSONValue) -> String? {
    do {
      _ = try body()
      return nil
    } catch let error as SidelockError where error.reason == .unavailable {
      return error.detail ?? error.message
    } catch {
      return nil
    }
  }
}
