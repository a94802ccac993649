import CLinux

// A crash must not keep the lock and the command for as long as a backtrace takes. What was ignored stays so, because
// the command inherits it.
crashes_end_at_once(0)
Sidelock.main(Sidelock.movingSocketOption(Array(CommandLine.arguments.dropFirst())))
