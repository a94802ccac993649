import ArgumentParser
import Glibc
import SidelockClient

struct DashboardCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "dashboard",
    abstract: "Serve a page that shows locks, holders, waiters and hosts live, to a browser on this host.",
    discussion: """
      Prints the page's address and runs until it is told to end: Ctrl-C. The page shows what list, inspect, hosts and stats tell, \
      draws who waits for whom with cycles in red, plots rates and times, and can inspect and break a lock. It asks \
      the daemon as the user who runs this command, so it shows and breaks what that user may. It goes on when the daemon \
      is restarted.

      Everything that the page is made of is in this program; it loads nothing from elsewhere. The address has a random token \
      that is new at each start. Whoever knows it can do what you may do with locks: treat it as a password. It listens on the \
      loopback address or on a Unix socket for this user (mode 0600), and on nothing else. To see the page of another \
      host, lead a port there, and open the address that the command prints:

        ssh -t -L 9798:127.0.0.1:9798 db1 sidelock dashboard --listen 9798

      In a pipe the output is a JSON object with url, and socket if there is one.

      EXAMPLES
        sidelock dashboard
        sidelock dashboard --open
        sidelock dashboard --listen unix:dashboard.sock
      """)

  @OptionGroup var connection: ConnectionOptions
  @OptionGroup var output: OutputOptions

  @Option(
    help: ArgumentHelp(
      "Where to listen: PORT, ADDRESS:PORT of the loopback, or unix:PATH. Port 0 is any that is free.",
      valueName: "address"))
  var listen = ListenAddress.loopback(port: 0)

  @Flag(help: "Open the page in a browser, by xdg-open.")
  var open = false

  mutating func validate() throws {
    try listen.check()
    listen = try listen.loopbackOnly()
    if open, case .unix = listen { throw ValidationError("--open needs a port: no browser opens a Unix socket.") }
  }

  func run() throws {
    let ends = EndSignals()
    let token = Self.newToken()
    let site = DashboardSite(token: token, source: DashboardSource(socket: connection.path))
    let server = try WebServer.listening(at: listen, mode: 0o600, site)
    let url: String
    var answer = JSONObject()
    switch server.address {
    case .internet: url = "http://\(server.address)/\(token)/"
    case .unix(let path):
      url = "http://localhost/\(token)/"
      answer.append("socket", .string(path))
    }
    answer.append("url", .string(url))
    if output.isForPeople {
      try Descriptor.print(Self.words(url: url, at: server.address))
    } else {
      try Descriptor.print(JSONValue.object(answer).serialized)
    }
    // Without a browser there is still the address.
    let door = open ? (try? BrowserDoor(to: url)) : nil
    ends.wait()
    door?.remove()
    server.end()
  }

  static func words(url: String, at address: ListenAddress) -> String {
    switch address {
    case .internet: "The dashboard is at \(url) until Ctrl-C. Who knows the address can do what you may do with locks."
    case .unix(let path): "The dashboard is at \(url) on the socket \(printable(path)) until Ctrl-C."
    }
  }

  /// 128 bits from the system's source of random numbers, in hexadecimal digits.
  static func newToken() -> String {
    var generator = SystemRandomNumberGenerator()
    return (0..<2).map { _ in
      let half = String(UInt64.random(in: .min ... .max, using: &generator), radix: 16)
      return String(repeating: "0", count: 16 - half.count) + half
    }.joined()
  }
}

extension ListenAddress {
  /// The same address, if it is one of this host alone. Throws what is wrong with another one, in words.
  func loopbackOnly() throws -> ListenAddress {
    guard case .internet(let host, let port) = self else { return self }
    // What a name means is somebody else's word.
    if host.lowercased() == "localhost" { return .loopback(port: port) }
    guard Self.isLoopback(address: host) else {
      throw ValidationError(
        "--listen takes 127.0.0.1:\(port), [::1]:\(port) or unix:PATH: whoever reaches the page may break locks. "
          + "From another host, lead a port there by ssh -L.")
    }
    return self
  }

  /// Whether it is an address of the loopback, such as `127.0.0.1` or `::1`; no name is one.
  static func isLoopback(address: String) -> Bool {
    var four = in_addr()
    if inet_pton(AF_INET, address, &four) == 1 { return UInt32(bigEndian: four.s_addr) >> 24 == 127 }
    var six = in6_addr()
    guard inet_pton(AF_INET6, address, &six) == 1 else { return false }
    return withUnsafeBytes(of: &six) { $0.dropLast().allSatisfy { $0 == 0 } && $0.last == 1 }
  }

  /// Whether a `Host` header names the loopback, with whatever port: a forwarded one has another number. The name of
  /// another site may lead here (DNS rebinding), and its pages would be of this origin.
  static func isLoopback(hostHeader host: String) -> Bool {
    var name = host[...]
    if let end = name.lastIndex(of: "]"), name.hasPrefix("[") {
      guard isPort(name[name.index(after: end)...]) else { return false }
      name = name[name.index(after: name.startIndex)..<end]
      return name.contains(":") && isLoopback(address: String(name))
    }
    if let colon = name.firstIndex(of: ":") {
      guard isPort(name[colon...]) else { return false }
      name = name[..<colon]
    }
    return name.lowercased() == "localhost" || isLoopback(address: String(name))
  }

  private static func isPort(_ text: Substring) -> Bool {
    text.isEmpty
      || (text.first == ":" && text.count <= 6 && text.dropFirst().utf8.allSatisfy { (0x30...0x39).contains($0) })
  }

  /// Whether it is one that no other host reaches.
  var isLoopback: Bool {
    switch self {
    case .internet(let host, _): host.lowercased() == "localhost" || Self.isLoopback(address: host)
    case .unix: false
    }
  }
}
