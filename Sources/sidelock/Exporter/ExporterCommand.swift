import ArgumentParser
import SidelockClient

struct ExporterCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "exporter",
    abstract: "Serve the daemon's figures to Prometheus by HTTP.",
    discussion: """
      Runs until it is told to end, and asks the daemon whenever it is asked itself, so that it may be started before the \
      daemon, and outlives its restarts:

        /metrics  the figures of stats as OpenMetrics text, with sidelock_up 1
        /health   200 when the daemon answers
        /ready    200 when locks are granted now, if only in some parts of a Redis Cluster

      Where that is not so the status of the last two is 503, and the text says why; /metrics has status 200 all the same \
      and says sidelock_up 0. Names of locks are told of no more than is given by --lock: how many hold each, how many \
      wait here, and for how long the first has had it. A lock is left out that this user may not inspect, or that Redis \
      and other hosts have not told of in half of --timeout.

      It listens on the loopback address alone unless another one is given, and serves nobody there who asks for it under \
      another name than localhost or a loopback address, as pages of other sites do that a browser is led here by. There is no encryption and no password: \
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
  var listen = ListenAddress.loopback(port: 9797)

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
    let ends = EndSignals()
    let scraper = Scraper(
      socket: connection.path, locks: locks, milliseconds: try timeout.checked("--timeout"),
      isLoopback: listen.isLoopback)
    let server = try WebServer.listening(at: listen, scraper)
    try Descriptor.print(server.address.description)
    ends.wait()
    server.end()
  }
}
