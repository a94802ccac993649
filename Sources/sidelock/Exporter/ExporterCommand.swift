import ArgumentParser
import Glibc
import NIOCore
import SidelockClient
import SystemStrings

struct ExporterCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "exporter",
    abstract: "Serve the daemon's figures to Prometheus by HTTP.",
    discussion: """
      Runs until it is told to end, and asks the daemon whenever it is asked itself, so that it may be started before the \
      daemon, and outlives its restarts:

        /metrics  the figures of stats as OpenMetrics text, with sidelock_up 1
        /health   200 when the daemon answers
        /ready    200 when locks are granted now

      Where that is not so the status of the last two is 503, and the text says why; /metrics has status 200 all the same \
      and says sidelock_up 0. Names of locks are told of no more than is given by --lock: how many hold each, how many \
      wait here, and for how long the first has had it. A lock is left out that this user may not inspect, or that Redis \
      and other hosts have not told of in half of --timeout.

      It listens on the loopback address alone unless another one is given. There is no encryption and no password: \
      whoever can connect can read. Everybody can connect to its Unix socket (mode 0666) who may enter the directory: put \
      it into one that is closed to others. The package brings a unit, which has a user of its own and is off unless enabled:

        systemctl enable --now sidelock-exporter

      EXAMPLES
        sidelock exporter --listen 9797 --lock nightly --lock deploy
        sidelock exporter --listen unix:exporter.sock
        curl http://127.0.0.1:9797/metrics
      """)

  /// More would make a scrape long.
  static let locksMax = 64
  /// Bytes of a lock's name.
  static let nameBytesMax = 512

  @OptionGroup var connection: ConnectionOptions

  @Option(
    help: ArgumentHelp(
      """
      Where to listen: PORT, ADDRESS:PORT or unix:PATH. Port 0 is any that is free; the first line of output says which.
      """, valueName: "address"))
  var listen = ExporterAddress.loopback(port: 9797)

  @Option(
    name: .customLong("lock"),
    help: ArgumentHelp("A lock to tell of by its name. May come up to 64 times.", valueName: "name"))
  var locks: [String] = []

  @Option(help: ArgumentHelp("How long the daemon may take for all of an answer.", valueName: "time"))
  var timeout = TimeSpan(argument: "5s")

  mutating func validate() throws {
    guard try timeout.checked("--timeout") > 0 else {
      throw ValidationError("--timeout must be greater than 0.")
    }
    try listen.check()
    // By bytes: names that differ by them are two, and may be equal as strings.
    var seen: Set<[UInt8]> = []
    locks = try locks.map { try protocolText($0, "--lock") }.filter { seen.insert(Array($0.utf8)).inserted }
    for name in locks where !(1...Self.nameBytesMax).contains(name.utf8.count) {
      throw ValidationError(
        "--lock takes names of 1 to \(Self.nameBytesMax) bytes; this one has \(name.utf8.count): \(printable(name))")
    }
    guard locks.count <= Self.locksMax else {
      throw ValidationError("--lock may come up to \(Self.locksMax) times.")
    }
  }

  func run() throws {
    // Threads inherit this; only the wait below takes them.
    var ends = sigset_t()
    sigemptyset(&ends)
    for signal in [SIGINT, SIGTERM] { sigaddset(&ends, signal) }
    pthread_sigmask(SIG_BLOCK, &ends, nil)
    let scraper = Scraper(
      socket: connection.path, locks: locks, milliseconds: try timeout.checked("--timeout"))
    let server: ExporterServer
    do {
      server = try ExporterServer(at: listen, scraper)
    } catch {
      Descriptor.say("cannot listen on \(listen): \(Self.words(error))")
      throw ExitCode(ExitStatus.software)
    }
    try Descriptor.print(server.address.description)
    var signal: CInt = 0
    sigwait(&ends, &signal)
    server.end()
  }

  private static func words(_ error: any Error) -> String {
    switch error {
    case let error as IOError: UnixSocket.describe(error.errnoCode)
    case let error as SocketAddressError.UnknownHost:
      "--listen names a host that is not known (\(error.errorDescription)); give an address, such as 127.0.0.1"
    case _: "\(error)"
    }
  }
}

/// Where the exporter listens.
enum ExporterAddress: ExpressibleByArgument, CustomStringConvertible, Equatable, Sendable {
  case internet(host: String, port: Int)
  case unix(path: String)

  static func loopback(port: Int) -> ExporterAddress { .internet(host: "127.0.0.1", port: port) }

  /// `PORT`, `ADDRESS:PORT`, `[ADDRESS]:PORT` or `unix:PATH`; nil for anything else.
  init?(argument: String) {
    if argument.hasPrefix("unix:") {
      let path = String(argument.dropFirst(5))
      guard !path.isEmpty else { return nil }
      self = .unix(path: path)
      return
    }
    let colon = argument.lastIndex(of: ":")
    let digits = colon.map { argument[argument.index(after: $0)...] } ?? argument[...]
    guard !digits.isEmpty, digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let port = Int(digits),
      port <= 65_535
    else { return nil }
    guard let colon else {
      self = .loopback(port: port)
      return
    }
    var host = argument[..<colon]
    if host.hasPrefix("["), host.hasSuffix("]") {
      host = host.dropFirst().dropLast()
    } else if host.contains(":") {
      return nil
    }
    // Not even by mistake everywhere.
    guard !host.isEmpty else { return nil }
    self = .internet(host: String(host), port: port)
  }

  /// Throws what is wrong with one that was given as --listen, in words.
  func check() throws {
    switch self {
    case .internet(host: "*", let port):
      throw ValidationError(
        "--listen takes an address and no *; all of them are 0.0.0.0:\(port), or [::]:\(port) with IPv6.")
    case .internet: break
    case .unix(let path):
      let count = SystemText.bytes(path).count
      guard count <= ExporterSocket.pathBytesMax else {
        throw ValidationError(
          """
          --listen takes a path of up to \(ExporterSocket.pathBytesMax) bytes; this one has \(count): give a shorter one, \
          or one that begins in the current directory.
          """)
      }
    }
  }

  var description: String {
    switch self {
    case .internet(let host, let port): host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    case .unix(let path): "unix:\(path)"
    }
  }

  var defaultValueDescription: String { description }
}
