import ArgumentParser

struct Sidelock: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "sidelock",
    abstract: "Take, list and inspect the locks of this host's sidelock daemon.",
    version: "0.1.0",
    subcommands: [RunCommand.self])
}

Sidelock.main()
