import CSupervise
import Glibc

/// The terminal as a whole screen, by ANSI sequences. It is as it was before when this object has left it, also when a
/// signal ends the process or stops it.
final class FullScreen {
  /// Why the wait has ended.
  enum Event {
    case time
    case keys([String])
    /// The screen has another size, or has to be drawn anew.
    case size
  }

  private static let ending = [SIGINT, SIGTERM, SIGHUP, SIGQUIT]
  private static let others = [SIGTSTP, SIGCONT, SIGWINCH]

  private var before = termios()
  private var maskBefore = sigset_t()
  private var signals: CInt = -1
  private var isEntered = false
  /// The terminal for output, without waiting; its description is this object's own, so that others' writes still wait.
  private let output: CInt

  /// How long a terminal that nobody reads may keep the end of the process, in milliseconds.
  private static let leaveMillisecondsMax: CInt = 200

  init() {
    let own = open("/proc/self/fd/\(STDOUT_FILENO)", O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC)
    output = own >= 0 ? own : STDOUT_FILENO
    tcgetattr(STDIN_FILENO, &before)
    // They are taken only while this waits: nothing is drawn in half.
    var blocked = sigset_t()
    sigemptyset(&blocked)
    for number in Self.ending + Self.others { sigaddset(&blocked, number) }
    signals = signalfd(-1, &blocked, CInt(SFD_NONBLOCK) | CInt(SFD_CLOEXEC))
    sigprocmask(SIG_BLOCK, &blocked, &maskBefore)
    enter()
  }

  private func enter() {
    guard !isEntered else { return }
    isEntered = true
    var raw = before
    raw.c_lflag &= ~tcflag_t(ICANON | ECHO)
    tcsetattr(STDIN_FILENO, TCSANOW, &raw)
    write("\u{1B}[?1049h\u{1B}[?25l\u{1B}[2J")
  }

  /// Gives the terminal back.
  func leave() {
    guard isEntered else { return }
    isEntered = false
    write("\u{1B}[0m\u{1B}[?25h\u{1B}[?1049l")
    tcsetattr(STDIN_FILENO, TCSANOW, &before)
  }

  /// Whatever becomes of it: who has closed the terminal is told by its signal. While nobody reads the terminal, signals
  /// are obeyed.
  private func write(_ text: String) {
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes { Glibc.write(output, $0.baseAddress, $0.count) }
      if count > 0 {
        rest = rest.dropFirst(count)
      } else if count < 0, errno == EINTR {
        continue
      } else if count == 0 || errno != EAGAIN || !waitForRoom() {
        return
      }
    }
  }

  /// Waits until the terminal takes something; false when the rest is to be left out.
  private func waitForRoom() -> Bool {
    var entries = [
      pollfd(fd: output, events: Int16(POLLOUT), revents: 0), pollfd(fd: signals, events: Int16(POLLIN), revents: 0),
    ]
    // Whoever leaves has been told to end, or to stop.
    guard isEntered else { return poll(&entries, 1, Self.leaveMillisecondsMax) > 0 }
    guard poll(&entries, 2, -1) > 0 else { return errno == EINTR }
    guard entries[0].revents == 0, let number = nextSignal() else { return true }
    obey(number)
    // The rest of a frame would stand in the middle of a new one; the next one is drawn whole.
    return false
  }

  /// The signal that waits to be taken.
  private func nextSignal() -> CInt? {
    var information = signalfd_siginfo()
    let size = MemoryLayout<signalfd_siginfo>.size
    return read(signals, &information, size) == size ? CInt(bitPattern: information.ssi_signo) : nil
  }

  /// Draws all of it.
  func show(_ screen: TopScreen) {
    var size = winsize()
    let isKnown = ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size) == 0 && size.ws_col > 0 && size.ws_row > 0
    let lines = screen.lines(width: isKnown ? Int(size.ws_col) : 80, height: isKnown ? Int(size.ws_row) : 24)
    let texts = lines.map { ($0.isMarked ? "\u{1B}[7m\($0.text)\u{1B}[0m" : $0.text) + "\u{1B}[K" }
    write("\u{1B}[H" + texts.joined(separator: "\r\n") + "\u{1B}[J")
  }

  /// Waits for keys, for a signal that concerns the screen, or for that time on the boot clock in milliseconds.
  func wait(until end: Int64) -> Event {
    while true {
      var entries = [
        pollfd(fd: STDIN_FILENO, events: Int16(POLLIN), revents: 0),
        pollfd(fd: signals, events: Int16(POLLIN), revents: 0),
      ]
      let left = max(0, end - supervise_boot_milliseconds())
      let count = poll(&entries, 2, CInt(min(left, 1 << 30)))
      if count == 0 { return .time }
      guard count > 0 else { continue }
      if entries[1].revents != 0, let number = nextSignal() {
        obey(number)
        return .size
      }
      guard entries[0].revents != 0 else { continue }
      var bytes = [UInt8](repeating: 0, count: 256)
      let read = Glibc.read(STDIN_FILENO, &bytes, bytes.count)
      if read > 0 { return .keys(Self.keys(bytes.prefix(read))) }
      if read < 0, errno == EINTR || errno == EAGAIN { continue }
      // The terminal is gone.
      obey(SIGHUP)
    }
  }

  /// Characters, and escape sequences without their beginning: an arrow is `[A`.
  static func keys(_ bytes: some Collection<UInt8>) -> [String] {
    var keys: [String] = []
    var rest = Array(String(decoding: bytes, as: UTF8.self).unicodeScalars)[...]
    while let first = rest.popFirst() {
      if first == "\u{1B}", rest.first == "[", rest.count >= 2 {
        keys.append("[" + String(rest[rest.startIndex + 1]))
        rest = rest.dropFirst(2)
      } else {
        keys.append(String(first))
      }
    }
    return keys
  }

  private func obey(_ number: CInt) {
    switch number {
    case SIGTSTP:
      leave()
      supervise_stop(number, 0)
      enter()
    case SIGWINCH, SIGCONT: break
    case _:
      leave()
      supervise_die_of(number)
    }
  }
}
