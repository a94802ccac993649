import ArgumentParser
import CSupervise
import Glibc
import SidelockClient

struct TopCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "top",
    abstract: "Show locks, holders, waiters and rates on the whole screen, and go on showing them.",
    discussion: """
      Looks once a second unless told otherwise. It needs a terminal; for programs there are list and stats.

      KEYS
        q            end (in a lock: back)
        s            sort by another column: name, held for longest, most waiters
        /            show only locks with a text in their name or their holder's;
                     Enter takes it, Esc leaves it
        a            locks of this host, or of all hosts
        j, k, arrows select a lock
        Enter        show who holds it and who waits for it
      """)

  @OptionGroup var connection: ConnectionOptions

  @Flag(name: .shortAndLong, help: "The locks of all hosts.")
  var all = false

  @Option(help: "What comes first: name, held (for longest) or waiting (most).")
  var sort = ListCommand.Order.held

  @Option(help: ArgumentHelp("How long between two looks.", valueName: "time"))
  var interval = TimeSpan(argument: "1")

  func validate() throws {
    guard try interval.checked("--interval") >= 100 else {
      throw ValidationError("--interval must be at least 100ms.")
    }
  }

  func run() throws {
    guard isatty(STDIN_FILENO) == 1, isatty(STDOUT_FILENO) == 1 else {
      throw ValidationError("top needs a terminal; for programs there are list and stats.")
    }
    let pause = try interval.checked("--interval")
    try connection.reportingErrors {
      let daemon = try connection.open()
      let host = try daemon.call("initialize")["host"]?.stringValue ?? ""
      var screen = TopScreen(host: host, showsAllHosts: all, order: sort)
      let terminal = FullScreen()
      defer { terminal.leave() }
      try look(&screen, daemon)
      var next = supervise_boot_milliseconds() + pause
      while true {
        terminal.show(screen)
        switch terminal.wait(until: next) {
        case .time: break
        case .size: continue
        case .keys(let keys):
          let wishes = keys.map { screen.pressed($0) }
          if wishes.contains(.quit) { return }
          if !wishes.contains(.look) { continue }
        }
        try look(&screen, daemon)
        next = supervise_boot_milliseconds() + pause
      }
    }
  }

  /// Asks the daemon for all that is shown. What it refuses is shown, too; the end of the connection ends the command.
  private func look(_ screen: inout TopScreen, _ daemon: DaemonConnection) throws {
    do {
      let stats = try daemon.call("stats")
      screen.saw(TopScreen.Sample(stats: stats, at: supervise_boot_milliseconds()))
      if case .inspect(let name) = screen.mode {
        screen.inspected = LockDescription(try daemon.call("inspect", ["name": .string(name)]))
      }
      screen.locks = try daemon.locks(allHosts: screen.showsAllHosts)
      screen.trouble = nil
    } catch let error as SidelockError where error.code > 0 {
      screen.trouble = error.message
    }
  }
}
