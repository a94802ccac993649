import CLinux
import CSupervise
import ProcessSupport

// A crash must not keep the lock and the command for as long as a backtrace takes. What was ignored stays so, because
// the command inherits it.
crashes_end_at_once(0)
process_1_ends_by_signals()
supervise_ignore_file_size_signal()
// Before anything else: a socket that got the number of standard error would be sent this command's messages.
_ = standard_descriptors_open(1)
Sidelock.runToEnd(Sidelock.movingSocketOption(ProcessTexts.arguments))
