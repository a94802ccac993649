Sidelock.main(Sidelock.movingSocketOption(Array(CommandLine.arguments.dropFirst())))
